"""The hash chain of one partition's decision records, and the anchors that are kept of it outside of Kafka."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from worker.audit.mismatch import Mismatch
from worker.contract import codec
from worker.contract.errors import FixSetting
from worker.contract.messages import Decision
from worker.contract.record import Record
from worker.core.journal import record_hash


class DecisionRecord(NamedTuple):
    """One record of `decisions`, decoded. `head` is the hash that the next record of the chain must carry."""

    offset: int
    key: bytes | None
    value: bytes
    head: bytes
    decision: Decision


def decoded(record: Record) -> DecisionRecord | Mismatch:
    """Decode a record of `decisions`."""
    value = record.value or b""
    try:
        decision = codec.decode_decision(value)
    except codec.UNREADABLE as error:
        return _at(record, f"is not a decision record: {error}")
    return DecisionRecord(record.offset, record.key, value, record_hash(value), decision)


def linked(records: Iterable[Record], head: bytes | None = None) -> Iterator[DecisionRecord | Mismatch]:
    """Follow the chain: the records that belong to it in order, and a mismatch where a link is broken.

    `head` is the hash that the first record must carry as its `prev`; None accepts any. At a broken link one more
    record is read: if that one goes on from before the break, then the record between them was inserted.
    """
    rest = iter(records)
    last: Record | None = None
    record = next(rest, None)
    while record is not None:
        after, found = None, decoded(record)
        if isinstance(found, DecisionRecord):
            if head is not None and found.decision.prev != head:
                after = next(rest, None)
                if last is not None and after is not None and _follows(after, head):
                    yield _at(record, "does not belong here: it was inserted, or moved from its place")
                    record = after
                    continue
                yield _broken(last, record)
            last, head = record, found.head
        yield found
        record = after if after is not None else next(rest, None)


def _follows(record: Record, head: bytes) -> bool:
    found = decoded(record)
    return isinstance(found, DecisionRecord) and found.decision.prev == head


def _broken(last: Record | None, record: Record) -> Mismatch:
    if last is None:
        return _at(record, "does not begin the chain: the records before it were removed")
    return _at(last, f"was changed, or records between it and offset {record.offset} were removed or moved")


def _at(record: Record, what: str) -> Mismatch:
    return Mismatch(what).at(record.topic, record.partition, record.offset)


class Anchor(Struct, frozen=True):
    """The head of a partition's chain after so many decisions, in hexadecimal, kept outside of Kafka."""

    partition: int
    decisions: int
    head: str


def read_anchors(file: Path) -> dict[int, Anchor]:
    """The anchors of a file by partition; none if there is no such file. Raises FixSetting."""
    if not file.exists():
        return {}
    try:
        anchors = msgspec.json.decode(file.read_bytes(), type=list[Anchor])
    except (OSError, msgspec.DecodeError) as error:
        raise FixSetting(f"--anchor {file}: is not an anchor file ({error}); name another file, or a new one") from None
    return {anchor.partition: anchor for anchor in anchors}


def write_anchors(file: Path, anchors: Iterable[Anchor]) -> None:
    """Replace a file's anchors with these, sorted by partition. A crash leaves either the old file or the new one."""
    lines = sorted(anchors, key=lambda anchor: anchor.partition)
    written = file.with_name(f"{file.name}.new")
    written.write_bytes(msgspec.json.format(msgspec.json.encode(lines), indent=2) + b"\n")
    written.replace(file)


Break = tuple[int, str]


class Chain:
    """The chain as read so far: `head` is the hash of the last record that belongs, `count` how many there were.

    A broken link is explained when the record after it is known: whether that one goes on from the record before the
    break tells an insertion from a change.
    """

    def __init__(self, head: bytes = b"", count: int = 0) -> None:
        self.head = head
        self.count = count
        self._last: int | None = None
        self._broken: tuple[int, int, bytes] | None = None

    @property
    def is_broken(self) -> bool:
        """Whether the last link was broken, and no record has yet explained it."""
        return self._broken is not None

    def follow(self, offset: int, prev: bytes, record: bytes) -> list[Break]:
        """Add the record at `offset`, whose link is `prev`. Returns the breaks now understood: (offset, what)."""
        breaks = self._explain(prev)
        if prev != self.head:
            breaks += self.end()
            if self._last is None:
                breaks.append((offset, "the chain does not begin here: records before this one were removed"))
            else:
                self._broken = (offset, self._last, self.head)
        self.head = record_hash(record)
        self.count += 1
        self._last = offset
        return breaks

    def end(self) -> list[Break]:
        """The break that no further record can explain."""
        broken, self._broken = self._broken, None
        if broken is None:
            return []
        at, before, _ = broken
        return [(before, f"was changed, or records between it and offset {at} were removed or moved")]

    def _explain(self, prev: bytes) -> list[Break]:
        if self._broken is None:
            return []
        at, _, head = self._broken
        if prev != head:
            return self.end()
        self._broken = None
        self.head = head
        self.count -= 1
        return [(at, "does not belong here: inserted, or moved from its place")]
