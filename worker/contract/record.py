"""A record as it came from Kafka, whichever client read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

Headers = Sequence[tuple[str, bytes | None]]

# The lengths of a header's name and value, as Kafka writes them.
HEADER_LENGTHS_BYTES = 10

# Instead of headers whose names are not UTF-8: no client here can give or send such names.
UNREADABLE_HEADERS: Headers = (("tollgate.unreadable.headers", b"a name is not UTF-8"),)


class Record(Protocol):
    """What Tollgate reads of a record; `timestamp` is in milliseconds. aiokafka's ConsumerRecord is one."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class StoredRecord(NamedTuple):
    """A record read with confluent-kafka."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def headers_bytes(record: Record) -> int:
    """The size of a record's key and headers."""
    return len(record.key or b"") + sum(map(header_bytes, record.headers))


def header_bytes(header: tuple[str, bytes | None]) -> int:
    """The size of one header."""
    return HEADER_LENGTHS_BYTES + len(header[0].encode()) + len(header[1] or b"")
