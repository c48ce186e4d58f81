"""What was passed on of each input record, against the record itself. Pure.

A dispatch and a deferral carry their query as it came, a dead letter the bytes and the key of its record. Only hashes
are kept, until the input is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Raw

from worker.contract import codec
from worker.contract.errors import RejectRecord
from worker.contract.record import Record
from worker.contract.rejections import Limits, read_query

# What a query that has left its topic is deferred with.
NIL = b"\xc0"
CUT_VALUE, CUT_KEY = "tollgate.truncated.bytes", "tollgate.truncated.key.bytes"


class Passed:
    """One partition's queries and dead letters as they were published, by input offset."""

    def __init__(self) -> None:
        self._queries: dict[int, int] = {}
        self._letters: dict[tuple[bool, int], _Letter] = {}

    def query(self, offset: int, query: Raw) -> bool:
        """A dispatch or a deferral carries this query; False if another of the same offset carries another."""
        payload = bytes(query)
        return payload == NIL or self._queries.setdefault(offset, hash(payload)) == hash(payload)

    def letter(self, completion: bool, offset: int, letter: Record) -> None:
        """A dead letter of a query or a completion."""
        names = {name for name, _ in letter.headers}
        key_bytes = len(letter.key or b"") if CUT_KEY in names else None
        value_bytes = len(letter.value or b"") if CUT_VALUE in names else None
        content = hash((letter.key, letter.value))
        self._letters.setdefault((completion, offset), _Letter(content, key_bytes, value_bytes))

    def differing(self, completion: bool, record: Record) -> Iterator[str]:
        """What was published of this input record otherwise than it says."""
        payload = None if completion else self._queries.pop(record.offset, None)
        if payload is not None and payload != _payload(record):
            yield "its dispatch or deferral carries another query"
        letter = self._letters.pop((completion, record.offset), None)
        if letter is not None and not letter.holds(record):
            yield "its dead letter holds other bytes, or another key"


class _Letter(NamedTuple):
    """The hash of a dead letter's key and value, and to how many bytes they were cut (None: not at all)."""

    content: int
    key_bytes: int | None
    value_bytes: int | None

    def holds(self, record: Record) -> bool:
        """Whether it is the letter of this record."""
        return self.content == hash((_cut(record.key, self.key_bytes), _cut(record.value, self.value_bytes)))


def _cut(content: bytes | None, length: int | None) -> bytes | None:
    return content if length is None or content is None else content[:length]


def _payload(record: Record) -> int | None:
    query = read_query(record, Limits())
    return None if isinstance(query, RejectRecord) else hash(bytes(codec.query_payload(record.value, query)))
