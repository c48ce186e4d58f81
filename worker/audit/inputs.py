"""One partition of an input topic: which offsets were decided, and reading its records beside the decisions."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from worker.audit.mismatch import Mismatch
from worker.contract.record import Record, StoredRecord
from worker.core.events import Event

Read = Callable[[int], Iterator[StoredRecord]]
Prepare = Callable[[list[StoredRecord]], list[Event]]
Found = tuple[StoredRecord, Event | None] | None

BLOCK_RECORDS = 256


class Inputs:
    """The offsets of one input partition that were decided: each exactly once, in order.

    Offsets up to `base` were decided before the audit begins; `applied` is the last one decided. `gone` counts decided
    records that have left the topic, `waiting` counts records that are not decided yet.
    """

    def __init__(self, base: int = -1) -> None:
        self.base = self.applied = base
        self.gone = self.waiting = 0
        self._decided = array("q")
        self._next = 0

    @property
    def count(self) -> int:
        """How many records were decided."""
        return len(self._decided)

    def decide(self, offset: int) -> bool:
        """Note the first decision about the record at `offset`; False if it is a second one, or out of order."""
        if offset <= self.applied:
            return False
        self._decided.append(offset)
        self.applied = offset
        return True

    def miss(self, first: int, last: int) -> bool:
        """Note that the records from `first` to `last` were gone before they were decided; False if some were not."""
        if first != self.applied + 1 or last < first:
            return False
        self.applied = last
        return True

    def read(self, record: Record, oldest: int) -> Iterator[Mismatch]:
        """Compare the next record of the topic, whose first offset is `oldest`."""
        offset = record.offset
        yield from self._absent(record.topic, record.partition, offset, oldest)
        if offset > self.applied:
            self.waiting += 1
        elif self._next < len(self._decided) and self._decided[self._next] == offset:
            self._next += 1
        elif offset > self.base:
            yield Mismatch("was passed over: it has no decision").at(record.topic, record.partition, offset)

    def end(self, topic: str, partition: int, oldest: int) -> Iterator[Mismatch]:
        """After the last record of the topic: the offsets that were decided and are not in it."""
        yield from self._absent(topic, partition, self.applied + 1, oldest)

    def _absent(self, topic: str, partition: int, before: int, oldest: int) -> Iterator[Mismatch]:
        while self._next < len(self._decided) and self._decided[self._next] < before:
            offset = self._decided[self._next]
            self._next += 1
            if offset < oldest:
                self.gone += 1
            else:
                yield Mismatch("was decided, but is not in the topic").at(topic, partition, offset)


class Stream:
    """The records of one input partition, looked up in the order of their offsets and read once.

    `read` opens the partition at an offset; `oldest` is its first offset. `look` asks for the first offset again:
    retention removes records, and producers add records, while the partition is read. `gone` counts the records that
    were looked up and had left the topic.
    """

    def __init__(self, read: Read, oldest: int, look: Callable[[], int] | None = None) -> None:
        self.gone = 0
        self._read = read
        self._oldest = oldest
        self._look = look
        self._records: Iterator[StoredRecord] = iter(())
        self._ahead: deque[tuple[StoredRecord, Event | None]] = deque()

    def at(self, offset: int, prepare: Prepare | None = None) -> Found:
        """The record at an offset, with its event if `prepare` makes events; None if there is no such record."""
        if offset >= self._oldest:
            self._advance(offset, prepare)
            if self._ahead and self._ahead[0][0].offset == offset:
                return self._ahead[0]
            self._oldest = self._oldest if self._look is None else self._look()
        self.gone += self.is_gone(offset)
        return None

    def is_gone(self, offset: int) -> bool:
        """Whether the record at this offset has left the topic."""
        return offset < self._oldest

    def _advance(self, offset: int, prepare: Prepare | None) -> None:
        """Go on to the first record at this offset or after it, also if it was written since the topic was opened."""
        self._drop(offset)
        while not self._ahead and self._fill(prepare):
            self._drop(offset)
        if not self._ahead:
            self._records = self._read(offset)
            self._fill(prepare)

    def _drop(self, before: int) -> None:
        while self._ahead and self._ahead[0][0].offset < before:
            self._ahead.popleft()

    def _fill(self, prepare: Prepare | None) -> bool:
        block = list(islice(self._records, BLOCK_RECORDS))
        events: list[Event] | list[None] = [None] * len(block)
        if prepare is not None and block:
            events = prepare(block)
        self._ahead.extend(zip(block, events, strict=True))
        return bool(block)
