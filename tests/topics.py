"""A lane's topics as lists of records, written by a Drive: what an auditor would read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from tests.drive import PRIOR, Drive
from worker.audit.chain import DecisionRecord, decoded
from worker.contract import codec, dead_letters
from worker.contract.codes import Reason
from worker.contract.decisions import Decision
from worker.contract.messages import Configuration
from worker.contract.record import Headers, StoredRecord
from worker.contract.topic_names import TopicNames
from worker.core.events import Arrived, Completed, Effects, Event, Refused, Withdrawn
from worker.core.pricing import Prior
from worker.kafka.memory import Log as MemoryLog
from worker.kafka.memory import MemoryReader
from worker.kafka.reader import silent

NAMES = TopicNames()
Log = dict[str, list[StoredRecord]]


def record(topic: str, offset: int, key: str | None, value: bytes | None, headers: Headers = ()) -> StoredRecord:
    """A record of partition 0."""
    return StoredRecord(topic, 0, offset, 0, key.encode() if key else None, value, headers)


def value(stored: StoredRecord) -> bytes:
    """The value of a record that is no tombstone."""
    assert stored.value is not None, f"{stored.topic}/{stored.partition}: offset {stored.offset} is a tombstone"
    return stored.value


def decided(decisions: Iterable[Decision]) -> Iterator[DecisionRecord]:
    """These decisions as they are read from their topic."""
    for offset, decision in enumerate(decisions):
        found = decoded(record(NAMES.decisions, offset, None, codec.encode(decision)))
        assert isinstance(found, DecisionRecord), str(found)
        yield found


class Recorded(Drive):
    """A Drive that also writes every topic. Inputs that repeat an offset are the same record read twice."""

    def __init__(self, settings: Configuration | None = None, prior: Prior = PRIOR) -> None:
        self.log: Log = defaultdict(list)
        self._inputs: dict[tuple[str, int], StoredRecord] = {}
        super().__init__(settings, prior)

    def commit(self, events: Sequence[Event]) -> Effects:
        """As a Drive, and publish."""
        for event in events:
            self._read(event)
        effects = super().commit(events)
        for dispatch in effects.dispatches:
            self._write(NAMES.dispatch(dispatch.llm), dispatch.id, codec.encode_dispatch(dispatch, "msgpack"))
        for deferred in effects.deferred:
            self._write(NAMES.deferred, deferred.query_id, codec.encode(deferred))
        for refused in effects.refused:
            self._bury(refused.topic, refused.offset, refused.rejection)
        for ignored in effects.ignored:
            self._bury(NAMES.completions, ignored.cause.number, ignored)
        for key, value in effects.decisions:
            self._write(NAMES.decisions, key, value)
        for key, row in effects.rows.items():
            self._write(NAMES.ledger, key, row)
        return effects

    def topics(self) -> Log:
        """All topics, the inputs too."""
        inputs: Log = {NAMES.queries: [], NAMES.completions: []}
        for _, stored in sorted(self._inputs.items()):
            inputs[stored.topic].append(stored)
        return {**self.log, **inputs}

    def _read(self, event: Event) -> None:
        value = bytes(event.query) if isinstance(event, Arrived) else b"{}"
        match event:
            case Arrived(offset=offset) | Refused(topic="queries", offset=offset):
                topic = NAMES.queries
            case Completed(offset=offset) | Withdrawn(offset=offset) | Refused(offset=offset):
                topic = NAMES.completions
            case _:
                return
        self._inputs[topic, offset] = record(topic, offset, None, value)

    def _bury(self, topic: str, offset: int, why: Reason) -> None:
        letter = dead_letters.dead_letter(record(topic, offset, None, b"{}"), why, 1_000, 1_000)
        self.log[NAMES.dead_letters].append(
            record(NAMES.dead_letters, len(self.log[NAMES.dead_letters]), None, letter.value, letter.headers)
        )

    def _write(self, topic: str, key: str, value: bytes | None) -> None:
        self.log[topic].append(record(topic, len(self.log[topic]), key, value, codec.CONTENT_TYPE))


class Shelf(MemoryReader):
    """A reader of `records`, which are all committed; opened, it is itself."""

    def __init__(self) -> None:
        self.records: list[StoredRecord] = []
        self._progress = silent

    def __call__(self, *_: object) -> Shelf:
        return self

    def __enter__(self) -> Shelf:
        return self

    @property
    def _log(self) -> MemoryLog:  # type: ignore[override]
        log = MemoryLog()
        log.load(self.records)
        return log


class PartitionLog:
    """The topics of a log as `verify` reads them.

    So many transactions were visible when the ledger was read first. `oldest` maps topics to their first offsets.
    """

    def __init__(self, log: Log, transactions: int, oldest: dict[str, int]) -> None:
        self._log = log
        self._transactions = transactions
        self._oldest = oldest
        self.made_anew: dict[str, str] = {}

    def oldest(self, topic: str) -> int:
        """The first offset of a topic."""
        return self._oldest.get(topic, 0)

    def ids(self, topics: Iterable[str]) -> dict[str, str]:
        """The id of each topic: its name, unless `made_anew` has it."""
        return {topic: self.made_anew.get(topic, topic) for topic in topics}

    def read(
        self, topics: Sequence[str], done: Callable[[], bool] = lambda: True, start: int | None = None
    ) -> Iterator[StoredRecord]:
        """The records of these topics."""
        for topic in topics:
            records: Sequence[StoredRecord] = self._log.get(topic, [])
            if topic == NAMES.ledger and start is None:
                records = self._visible(records)
            yield from (stored for stored in records if stored.offset >= (start or 0))

    def _visible(self, rows: Sequence[StoredRecord]) -> Sequence[StoredRecord]:
        ends = [number for number, stored in enumerate(rows, 1) if stored.key == b"account"]
        return rows if len(ends) < self._transactions else rows[: ends[self._transactions - 1]]
