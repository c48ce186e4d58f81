"""The hash chain of decision records: each carries the hash of the one before it, so none can be changed unseen."""

from __future__ import annotations

from hashlib import blake2b
from typing import Protocol

import msgspec

from worker.core.ledger import BrokenInvariant

_encode = msgspec.msgpack.Encoder().encode


def record_hash(record: bytes) -> bytes:
    """The 16-byte BLAKE2b of one encoded decision record: the `prev` of the next one."""
    return blake2b(record, digest_size=16).digest()


class Chained(Protocol):
    """A decision record that carries the hash of the one before it."""

    @property
    def prev(self) -> bytes:
        """The hash; empty in the first record."""


class Journal:
    """Encodes decision records onto the chain; `head` is the hash of the last one, empty before the first."""

    def __init__(self, head: bytes = b"", count: int = 0) -> None:
        self.head = head
        self.count = count
        self._records: list[tuple[str, bytes]] = []

    def append(self, key: str, record: Chained) -> None:
        """Add one record, made with `head` as its `prev`, under the Kafka key `key`."""
        if record.prev != self.head:
            raise BrokenInvariant(f"a {type(record).__name__} record does not follow the last one")
        encoded = _encode(record)
        self.head = record_hash(encoded)
        self.count += 1
        self._records.append((key, encoded))

    def take(self) -> list[tuple[str, bytes]]:
        """The records added since the last call, in order, with their keys."""
        records, self._records = self._records, []
        return records
