"""What was passed on of each input record, against the record itself. Pure.

A dispatch and a deferral carry their query as it came, a dead letter the bytes and the key of its record. Only hashes
are kept, until the input is read.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Raw

from worker import wire
from worker.errors import RejectRecord
from worker.record import Record
from worker.refusals import Limits, read_query

# What a query that has left its topic is deferred with.
NIL = b"\xc0"
CUT_HEADER = "tollgate.truncated.bytes"


class Passed:
    """One partition's queries and dead letters as they were published, by input offset."""

    def __init__(self) -> None:
        self._queries: dict[int, int] = {}
        self._letters: dict[tuple[bool, int], tuple[int, int | None]] = {}

    def query(self, offset: int, query: Raw) -> bool:
        """A dispatch or a deferral carries this query; False if another of the same offset carries another."""
        payload = bytes(query)
        return payload == NIL or self._queries.setdefault(offset, hash(payload)) == hash(payload)

    def letter(self, completion: bool, offset: int, letter: Record) -> None:
        """A dead letter of a query or a completion."""
        cut = len(letter.value or b"") if any(name == CUT_HEADER for name, _ in letter.headers) else None
        self._letters.setdefault((completion, offset), (_hash(letter.key, letter.value), cut))

    def differing(self, completion: bool, record: Record) -> Iterator[str]:
        """What was published of this input record otherwise than it says."""
        payload = None if completion else self._queries.pop(record.offset, None)
        if payload is not None and payload != _payload(record):
            yield "its dispatch or deferral carries another query"
        content, cut = self._letters.pop((completion, record.offset), (None, None))
        if content is not None and content != _hash(record.key, (record.value or b"")[:cut] if cut else record.value):
            yield "its dead letter holds other bytes, or another key"


def _payload(record: Record) -> int | None:
    query = read_query(record, Limits())
    return None if isinstance(query, RejectRecord) else hash(bytes(wire.query_payload(record.value, query)))


def _hash(key: bytes | None, value: bytes | None) -> int:
    return hash((key, value))
