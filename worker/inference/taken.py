"""What an inference worker holds: partitions, dispatches and ended calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from worker.contract.messages import Dispatch
from worker.contract.record import StoredRecord
from worker.inference.positions import Positions
from worker.inference.published import Outgoing
from worker.inference.restore import Restored
from worker.kafka.reader import Place


@dataclass(eq=False)
class Share:
    """One partition of one LLM's dispatches that this worker owns. `restored` is None until it is known."""

    llm: str
    place: Place
    positions: Positions = field(default_factory=Positions)
    restored: Restored | None = None
    committed: int | None = None
    is_leaving: bool = False
    is_gone: bool = False


def moved_positions(shares: Iterable[Share], is_due: bool) -> dict[Share, int]:
    """The positions to commit: all that have moved where it `is_due`, else those of partitions that are left."""
    positions = {share: share.positions.position for share in shares if is_due or share.is_leaving}
    return {share: at for share, at in positions.items() if at is not None and at != share.committed}


@dataclass(eq=False)
class Taken:
    """One dispatch: waiting, or being called."""

    share: Share
    record: StoredRecord
    dispatch: Dispatch
    task: asyncio.Task[None] | None = None
    is_cut: bool = False
    has_begun: bool = False

    @property
    def size(self) -> int:
        """The bytes that it holds."""
        return len(self.record.value or b"")


@dataclass(eq=False)
class End:
    """A dispatch that needs no more work, with the records to publish."""

    share: Share
    offset: int | None
    records: list[Outgoing]

    @property
    def size(self) -> int:
        """The bytes to publish."""
        return sum(len(record.value or b"") for record in self.records)
