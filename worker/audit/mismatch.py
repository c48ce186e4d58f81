"""The one type for what an audit finds wrong. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

SHOWN_CHARACTERS = 200


class Mismatch(Struct, frozen=True):
    """One thing in the topics that is not what the other records make of it.

    `what` names the thing or says in words what is wrong with it. Where a single value differs, `field` names it,
    `recorded` is its value in the topic and `expected` is the value that follows from the other records.
    `topic`, `partition` and `offset` say where it is; `offset` is None where no record can be named.
    """

    what: str
    field: str | None = None
    recorded: Any = None
    expected: Any = None
    topic: str = ""
    partition: int = -1
    offset: int | None = None

    def at(self, topic: str, partition: int, offset: int | None) -> Mismatch:
        """The same mismatch with its place."""
        return replace(self, topic=topic, partition=partition, offset=offset)

    def __str__(self) -> str:
        offset = "" if self.offset is None else f" offset {self.offset}"
        return f"{self.topic}/{self.partition}{offset}: {self.text}"

    @property
    def text(self) -> str:
        """The mismatch in words, without its place."""
        if self.field is None:
            return self.what
        return f"{self.what}: {self.field} is {_short(self.recorded)}, but must be {_short(self.expected)}"


def compared(what: str, recorded: Any, expected: Any) -> Mismatch | None:
    """The first field in which two records of one type differ; None where they are equal."""
    if recorded == expected:
        return None
    if type(recorded) is not type(expected) or not isinstance(recorded, Struct):
        return Mismatch(what, "value", shown(recorded), shown(expected))
    for name in recorded.__struct_fields__:
        if (mine := getattr(recorded, name)) != (other := getattr(expected, name)):
            return Mismatch(what, name, shown(mine), shown(other))
    return None


def shown(value: Any) -> Any:
    """A value as it is written as JSON: bytes in hexadecimal."""
    return value.hex() if isinstance(value, bytes) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
