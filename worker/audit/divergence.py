"""What a replay tells of records that do not come out as they were recorded. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import Struct

from worker.contract import codec
from worker.contract.messages import Account, Decision

SHOWN_CHARACTERS = 200


class Divergence(Struct, frozen=True):
    """The first record that does not come out as it was recorded. `before` is the ledger before its event.

    Of kind `log` is what is wrong with the topic itself, in words: records changed, removed, inserted or moved.
    """

    topic: str
    partition: int
    offset: int | None
    kind: str
    field: str
    recorded: Any
    recomputed: Any
    before: dict[str, Account]

    def __str__(self) -> str:
        place = "" if self.offset is None else f" offset {self.offset}"
        if self.kind == "log":
            return f"{self.topic}/{self.partition}{place}: {self.recomputed}"
        return (
            f"{self.topic}/{self.partition}{place}: {self.kind}.{self.field} is {_short(self.recorded)}, "
            f"recomputed {_short(self.recomputed)}"
        )


class Recorded(NamedTuple):
    """One decision record as it was read, the `number`-th (from 1) since the first that was."""

    offset: int
    number: int
    key: bytes | None
    value: bytes
    decision: Decision


def difference(recorded: Recorded, key: str, value: bytes) -> tuple[str, Any, Any]:
    """The first field in which a record differs from what was recomputed: (field, recorded, recomputed).

    Its link to the record before only if nothing else differs; `value` is empty where nothing was recomputed.
    """
    theirs = recorded.decision
    if not value:
        return "record", theirs, None
    mine = codec.decode_decision(value)
    if type(theirs) is not type(mine):
        return "kind", type(theirs).__name__, type(mine).__name__
    names = [name for name in theirs.__struct_fields__ if name != "prev"]
    for name in [*names, "prev"]:
        if getattr(theirs, name) != getattr(mine, name):
            return name, getattr(theirs, name), getattr(mine, name)
    if (key.encode() or None) != recorded.key:
        return "key", recorded.key, key
    return "encoding", recorded.value.hex(), value.hex()


def told(value: Any) -> Any:
    """A value as it is shown and written as JSON."""
    return value.hex() if isinstance(value, bytes) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
