"""The anchor file: the heads of the decision chains, kept outside of Kafka, so that nothing before them can change."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from worker.errors import FixSetting
from worker.replay import Anchor


class _Anchored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    partition: int
    decisions: int
    head: str


def read(file: Path) -> dict[int, Anchor]:
    """The anchors of a file by partition; none if there is no such file. Raises FixSetting."""
    if not file.exists():
        return {}
    try:
        anchored = msgspec.json.decode(file.read_bytes(), type=list[_Anchored])
        anchors = [Anchor(one.partition, one.decisions, bytes.fromhex(one.head)) for one in anchored]
    except (OSError, ValueError) as error:
        raise FixSetting(f"--anchor {file}: is no anchor file ({error}); name another, or a new one") from None
    return {anchor.partition: anchor for anchor in anchors}


def write(file: Path, anchors: Iterable[Anchor]) -> None:
    """Write the heads, sorted, in place of what was there."""
    lines = [
        _Anchored(anchor.partition, anchor.decisions, anchor.head.hex())
        for anchor in sorted(anchors, key=lambda anchor: anchor.partition)
    ]
    file.write_bytes(msgspec.json.format(msgspec.json.encode(lines), indent=2) + b"\n")
