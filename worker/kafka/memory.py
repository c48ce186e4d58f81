"""A Kafka broker in memory, for tests and simulations: a log with transactions, a reader and a producer of it.

The log keeps those rules of Kafka that exactly-once depends on. A transactional id has an epoch. `begin_epoch`
(init_transactions) raises the epoch and aborts the transaction that the predecessor left open. Requests of an older
epoch are refused. Records of an open transaction are in the log, but a read_committed reader stops before the first of
them (the last stable offset). Commits and aborts leave a marker that takes an offset.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message

from worker.contract.record import Headers, StoredRecord
from worker.contract.settings import Settings
from worker.kafka.clients import Delivered
from worker.kafka.reader import Place, Progress, at_once, silent


class FencedError(Exception):
    """A request of an epoch that is over."""


@dataclass(eq=False)
class Transaction:
    """The records of one producer between begin and end. `first` holds the first offset in each partition.

    `state` is open, committed or aborted.
    """

    transactional_id: str
    began_ms: int
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
    """Every partition of every topic; a partition exists from its first record on.

    `on_commit` hears of each transaction when it commits. `hanging` transactions have lost their end, so their records
    stay hidden. With `late_markers` a committed transaction (`marking`) stays hidden until its producer's next request.
    `made` counts how often a topic was made anew. `ids` are ids of topics that were loaded from elsewhere.
    """

    on_commit: Callable[[Transaction], None] = lambda _: None
    entries: defaultdict[Place, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    ends: defaultdict[Place, int] = field(default_factory=lambda: defaultdict(int))
    epochs: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    open: dict[str, Transaction] = field(default_factory=dict)
    hanging: dict[str, Transaction] = field(default_factory=dict)
    marking: dict[str, Transaction] = field(default_factory=dict)
    late_markers: bool = False
    made: Counter[str] = field(default_factory=Counter)
    ids: dict[str, str] = field(default_factory=dict)

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

    def load(self, records: Iterable[StoredRecord]) -> None:
        """Put committed records at the offsets that they have; each partition in ascending order."""
        for record in records:
            place = record.topic, record.partition
            self.entries[place].append(Entry(record.offset, record, None))
            self.ends[place] = record.offset + 1

    def oldest(self, place: Place) -> int:
        """The first offset that is still there; the end if there is none."""
        entries = self.entries[place]
        return entries[0].offset if entries else self.ends[place]

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
        """The broker forgets to write the end of an open transaction: only the end of a later one of the same producer,
        with a partition in common, will end it too."""
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

    def make_anew(self, topic: str) -> None:
        """Delete a topic and create it again, empty: it has another id."""
        self.made[topic] += 1
        for place in [place for place in self.entries if place[0] == topic]:
            del self.entries[place], self.ends[place]

    def _check_epoch(self, transactional_id: str, epoch: int) -> None:
        if epoch != self.epochs[transactional_id]:
            raise FencedError(f"{transactional_id}: epoch {epoch} is over")

    def _close(self, transactional_id: str, state: str) -> None:
        transaction = self.open.pop(transactional_id, None)
        if transaction is None:
            return
        hanging = self.hanging.get(transactional_id)
        if hanging is not None and hanging.first.keys() & transaction.first.keys():
            del self.hanging[transactional_id]
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


class MemoryReader:
    """The Reader of a log. It does not wait until a caller is `done`: nothing is written while it waits."""

    def __init__(self, log: Log, progress: Progress = silent) -> None:
        self._log = log
        self._progress = progress

    def __enter__(self) -> MemoryReader:
        return self

    def __exit__(self, *_: object) -> None: ...

    def oldest(self, places: Iterable[Place]) -> dict[Place, int]:
        return {place: self._log.oldest(place) for place in places}

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        return {place: self._log.last_stable(place) for place in places}

    def newest(self, places: Iterable[Place]) -> dict[Place, int]:
        return {place: self._log.ends[place] for place in places}

    def at(self, places: Iterable[Place], timestamp_ms: int) -> dict[Place, int]:
        return {place: self._at(place, timestamp_ms) for place in places}

    def read(self, starts: Mapping[Place, int], done: Callable[[], bool] = at_once) -> Iterator[StoredRecord]:
        for place, start in starts.items():
            for record in self._log.read(place, start):
                self._progress(place[0].split(".")[0], 1)
                yield record

    def read_partition(
        self, topic: str, partition: int, start: int | None = None, end: int | None = None
    ) -> Iterator[StoredRecord]:
        for record in list(self._log.read((topic, partition), start or 0)):
            if end is not None and record.offset >= end:
                return
            yield record

    def fetch_offsets(self, topic: str, partition: int, offsets: Iterable[int]) -> dict[int, StoredRecord]:
        wanted = set(offsets)
        return {record.offset: record for record in self.read_partition(topic, partition) if record.offset in wanted}

    def last_value(self, topic: str, partition: int, key: bytes) -> bytes | None:
        values = [record.value for record in self.read_partition(topic, partition) if record.key == key]
        return values[-1] if values else None

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        return {topic: self._log.ids.get(topic, f"{topic}-{self._log.made[topic]}") for topic in topics}

    def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        found = {topic: [place[1] for place in self._log.entries if place[0] == topic] for topic in topics}
        return {topic: max(numbers) + 1 for topic, numbers in found.items() if numbers}

    def appended_ms(self, topic: str, partition: int) -> int:
        records = (entry.record for entry in reversed(self._log.entries[topic, partition]))
        return next((record.timestamp for record in records if record is not None), -1)

    def open_transactions(self, topics: Sequence[str], partition: int) -> set[str]:
        places = [(topic, partition) for topic in topics]
        return {place[0] for place in places if self._log.last_stable(place) < self._log.ends[place]}

    def _at(self, place: Place, timestamp_ms: int) -> int:
        found = (record.offset for record in self._log.read(place) if record.timestamp >= timestamp_ms)
        return next(found, -1)


class MemoryProducer:
    """A producer of a log, as confluent_kafka.Producer: an error of `produce` surfaces when the transaction ends.

    Without `transactional.id` in `config`, each record is committed at once.
    """

    def __init__(self, log: Log, config: Mapping[str, Any], now_ms: Callable[[], int] = lambda: 0) -> None:
        self._log, self._now_ms = log, now_ms
        self._id: str | None = config.get("transactional.id")
        self._epoch = 0
        self._is_fenced = False

    @property
    def is_current(self) -> bool:
        """Whether no other producer has fenced this one."""
        return self._id is None or self._log.epochs[self._id] == self._epoch

    def init_transactions(self, timeout: float) -> None:
        self._epoch = self._log.begin_epoch(self._transactional_id())

    def begin_transaction(self) -> None:
        """The transaction begins in the log with its first record."""

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: str | bytes | None,
        partition: int,
        *,
        on_delivery: Delivered | None = None,
        timestamp: int = 0,
        headers: list[tuple[str, str | bytes | None]] | None = None,
    ) -> None:
        transaction = None
        if self._id is not None:
            try:
                transaction = self._log.transaction(self._id, self._epoch, self._now_ms())
            except FencedError:
                self._is_fenced = True
                return
        key = key.encode() if isinstance(key, str) else key
        encoded = tuple((name, text.encode() if isinstance(text, str) else text) for name, text in headers or ())
        place = topic, max(0, partition)
        offset = self._log.append(place, key, value, encoded, timestamp or self._now_ms(), transaction)
        if on_delivery is not None:
            on_delivery(None, Message(topic=topic, partition=place[1], offset=offset, key=key, value=value))

    def commit_transaction(self, timeout: float) -> None:
        self._end(self._log.end)

    def abort_transaction(self, timeout: float) -> None:
        self._end(self._log.abort)

    def flush(self, timeout: float) -> int:
        return 0

    def poll(self, timeout: float) -> int:
        return 0

    def _end(self, how: Callable[[str, int], None]) -> None:
        try:
            if self._is_fenced:
                raise FencedError
            how(self._transactional_id(), self._epoch)
        except FencedError:
            raise KafkaException(KafkaError(KafkaError._FENCED)) from None

    def _transactional_id(self) -> str:
        assert self._id is not None, "the configuration has no transactional.id"
        return self._id


class MemoryBroker:
    """A log with clients: where a Kafka cluster would be, give `reader` for KafkaReader and `producer` for Producer."""

    def __init__(self, log: Log | None = None) -> None:
        self.log = Log() if log is None else log

    def reader(self, settings: Settings | None = None, progress: Progress = silent) -> MemoryReader:
        """As KafkaReader; the settings name no other log."""
        return MemoryReader(self.log, progress)

    def producer(self, config: Mapping[str, Any]) -> MemoryProducer:
        """As confluent_kafka.Producer."""
        return MemoryProducer(self.log, config)
