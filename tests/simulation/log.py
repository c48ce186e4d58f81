"""A log as Kafka keeps it, as far as exactly-once depends on it: transactions, epochs, stable offsets, compaction.

A transactional id has an epoch; `begin_epoch` (init_transactions) raises it and aborts what the predecessor left open.
Requests of an older epoch are refused. Records of an open transaction are in the log, but a read_committed reader stops
before the first of them (the last stable offset). Commits and aborts leave a marker that takes an offset. With
`late_markers` a committed transaction stays hidden until the next request of its producer, which waits for its end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from worker.contract.record import Headers, StoredRecord

Place = tuple[str, int]


class FencedError(Exception):
    """A request of an epoch that is over."""


@dataclass(eq=False)
class Transaction:
    """What one producer wrote between begin and end. `events` are what its owner decided in it, for the auditor."""

    transactional_id: str
    began_ms: int
    events: list[Any] = field(default_factory=list)
    state: str = "open"
    records: list[StoredRecord] = field(default_factory=list)
    first: dict[Place, int] = field(default_factory=dict)


class Entry(NamedTuple):
    """One slot of a partition; a marker has no record."""

    offset: int
    record: StoredRecord | None
    transaction: Transaction | None


@dataclass(eq=False)
class Log:
    """Every partition of every topic. `on_commit` hears of each transaction at the moment it commits."""

    on_commit: Callable[[Transaction], None] = lambda _: None
    entries: defaultdict[Place, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    ends: defaultdict[Place, int] = field(default_factory=lambda: defaultdict(int))
    epochs: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    open: dict[str, Transaction] = field(default_factory=dict)
    hanging: dict[str, Transaction] = field(default_factory=dict)
    marking: dict[str, Transaction] = field(default_factory=dict)
    late_markers: bool = False

    def append(
        self,
        place: Place,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        timestamp: int,
        transaction: Transaction | None = None,
    ) -> int:
        """Write one record; returns its offset."""
        offset = self._next(place)
        record = StoredRecord(*place, offset, timestamp, key, value, headers)
        self.entries[place].append(Entry(offset, record, transaction))
        if transaction is not None:
            transaction.first.setdefault(place, offset)
            transaction.records.append(record)
        return offset

    def last_stable(self, place: Place) -> int:
        """The offset at which read_committed readers stop."""
        marking = self.marking.values() if self.late_markers else ()
        unended = [*self.open.values(), *self.hanging.values(), *marking]
        firsts = [transaction.first[place] for transaction in unended if place in transaction.first]
        return min(firsts, default=self.ends[place])

    def read(self, place: Place, start: int = 0) -> Iterator[StoredRecord]:
        """The committed records from `start` to the last stable offset as it is now."""
        entries, stable = self.entries[place], self.last_stable(place)
        for entry in entries[bisect_left(entries, start, key=lambda entry: entry.offset) :]:
            if entry.offset >= stable:
                return
            if entry.record is not None and (entry.transaction is None or entry.transaction.state == "committed"):
                yield entry.record

    # Transactions

    def begin_epoch(self, transactional_id: str) -> int:
        """Fence the previous producer of this id and abort what it left open; returns the new epoch."""
        self.epochs[transactional_id] += 1
        self._close(transactional_id, "aborted")
        self.marking.pop(transactional_id, None)
        return self.epochs[transactional_id]

    def transaction(self, transactional_id: str, epoch: int, now_ms: int) -> Transaction:
        """The open transaction of this producer, begun now if there is none. Raises FencedError."""
        self._check_epoch(transactional_id, epoch)
        if transactional_id not in self.open:
            self.marking.pop(transactional_id, None)
            self.open[transactional_id] = Transaction(transactional_id, now_ms)
        return self.open[transactional_id]

    def end(self, transactional_id: str, epoch: int) -> None:
        """Commit whatever transaction is open, as EndTxn did before KIP-890. Raises FencedError."""
        self._check_epoch(transactional_id, epoch)
        self._close(transactional_id, "committed")

    def abort(self, transactional_id: str, epoch: int) -> None:
        """Abort whatever transaction is open. Raises FencedError."""
        self._check_epoch(transactional_id, epoch)
        self._close(transactional_id, "aborted")

    def hang(self, transactional_id: str) -> None:
        """The broker forgets to write the end of an open transaction: only an end of the next one will end it too."""
        self.hanging[transactional_id] = self.open.pop(transactional_id)

    def time_out(self, before_ms: int) -> None:
        """Abort the transactions begun before this time; their producers are fenced."""
        for transactional_id, transaction in list(self.open.items()):
            if transaction.began_ms < before_ms:
                self.begin_epoch(transactional_id)

    # Cleaning

    def compact(self, place: Place, tombstones_before_ms: int) -> None:
        """Keep the last committed record of each key below the stable offset; old tombstones go."""
        stable = self.last_stable(place)
        last = {record.key: record.offset for record in self.read(place)}
        self.entries[place] = [
            entry
            for entry in self.entries[place]
            if entry.offset >= stable or _stays(entry, last, tombstones_before_ms)
        ]

    def delete(self, place: Place, before: int) -> None:
        """Drop what lies before an offset: its retention is over."""
        self.entries[place] = [entry for entry in self.entries[place] if entry.offset >= before]

    def _check_epoch(self, transactional_id: str, epoch: int) -> None:
        if epoch != self.epochs[transactional_id]:
            raise FencedError(f"{transactional_id}: epoch {epoch} is over")

    def _close(self, transactional_id: str, state: str) -> None:
        transaction = self.open.pop(transactional_id, None)
        if transaction is None:
            return
        if (hanging := self.hanging.pop(transactional_id, None)) is not None:
            hanging.state = state
        transaction.state = state
        for place in transaction.first:
            self.entries[place].append(Entry(self._next(place), None, transaction))
        if state == "committed":
            self.marking[transactional_id] = transaction
            self.on_commit(transaction)

    def _next(self, place: Place) -> int:
        self.ends[place] += 1
        return self.ends[place] - 1


def _stays(entry: Entry, last: dict[bytes | None, int], tombstones_before_ms: int) -> bool:
    record = entry.record
    if record is None or last.get(record.key) != entry.offset:
        return False
    return record.value is not None or record.timestamp >= tombstones_before_ms
