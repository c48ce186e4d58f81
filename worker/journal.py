"""The hash chain of decision records: each carries the hash of the one before it, so none can be changed unseen."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from worker.messages import Decision

_encode = msgspec.msgpack.Encoder().encode


def record_hash(record: bytes) -> bytes:
    """The 16-byte BLAKE2b of one encoded decision record: the `prev` of the next one."""
    return blake2b(record, digest_size=16).digest()


class Journal:
    """Encodes decision records onto the chain; `head` is the hash of the last one, empty before the first."""

    def __init__(self, head: bytes = b"", count: int = 0) -> None:
        self.head = head
        self.count = count
        self._records: list[tuple[str, bytes]] = []

    def append(self, kind: type[Decision], key: str, **fields: Any) -> None:
        """Add one record of `kind`, under the Kafka key `key`."""
        record = _encode(kind(prev=self.head, **fields))
        self.head = record_hash(record)
        self.count += 1
        self._records.append((key, record))

    def take(self) -> list[tuple[str, bytes]]:
        """The records added since the last call, in order, with their keys."""
        records, self._records = self._records, []
        return records
