"""Reads committed records: whole partitions, single offsets, the newest value of a key."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from functools import cached_property, partial
from typing import Protocol

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    ListOffsetsResultInfo,
    OffsetSpec,
)

from worker.contract.errors import CheckBroker
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.kafka import admin, answers, clients
from worker.kafka.clients import TIMEOUT_SECONDS
from worker.kafka.clock import SYSTEM_CLOCK, Clock, poll_until

Place = tuple[str, int]
Progress = Callable[[str, int], None]

BLOCK_RECORDS = 2_000
# `consume` waits this long for a full block, so a short partition takes this long to read.
BLOCK_SECONDS = 0.05
RETRY_SECONDS = 0.2
# Commit markers reach all partitions within milliseconds; under load it may take a second.
PATIENCE_SECONDS = 5.0
# Every transaction ends with its account row; only aborted records lie after it.
TAIL_RECORDS, TAIL_GROWTH = 100, 10
# It is cheaper to read through a gap this small than to read twice.
GAP_RECORDS = 500


def silent(what: str, records: int) -> None:
    """Progress that is not shown."""


def at_once() -> bool:
    """Wait for nothing: reading ends at the ends of the partitions."""
    return True


class Reader(Protocol):
    """Reads committed records of a Kafka cluster, or of `memory.MemoryBroker`. A place is a topic and a partition.

    Every method raises CheckBroker if the broker does not answer in time. Methods may be called from several threads,
    and several iterators may be read in turns.
    """

    def oldest(self, places: Iterable[Place]) -> dict[Place, int]:
        """The first offset that each place still has."""

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """The offset after the last committed record of each place."""

    def newest(self, places: Iterable[Place]) -> dict[Place, int]:
        """The offset after the last record of each place, committed or not."""

    def at(self, places: Iterable[Place], timestamp_ms: int) -> dict[Place, int]:
        """The first offset of each place from this time on; -1 if it has none."""

    def read(self, starts: Mapping[Place, int], done: Callable[[], bool] = at_once) -> Iterator[StoredRecord]:
        """Every committed record from `starts` on, in the order of each place, until all ends are reached.

        If the caller is not `done` then, records that are written in the next PATIENCE_SECONDS are read too.
        """

    def read_partition(
        self, topic: str, partition: int, start: int | None = None, end: int | None = None
    ) -> Iterator[StoredRecord]:
        """The committed records from `start` (None: the oldest) to before `end` (None: the end as it is now)."""

    def fetch_offsets(self, topic: str, partition: int, offsets: Iterable[int]) -> dict[int, StoredRecord]:
        """The records at these offsets, by offset; those that have left the topic are missing."""

    def last_value(self, topic: str, partition: int, key: bytes) -> bytes | None:
        """The newest committed value of a key; None if there is none."""

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Kafka's id of each topic; those that do not exist are missing. A topic that is made anew has another id."""

    def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """How many partitions each topic has; those that do not exist are missing."""

    def appended_ms(self, topic: str, partition: int) -> int:
        """When the newest record of a partition was appended, by the broker's clock if the topic has LogAppendTime."""

    def open_transactions(self, topics: Sequence[str], partition: int) -> set[str]:
        """Those of the topics that hold records of an open transaction in this partition."""


OpenReader = Callable[[Settings, Progress], AbstractContextManager[Reader]]


class KafkaReader:
    """The Reader of a Kafka cluster. `progress` hears which topic `read` reads, and how many more records it has read.

    It connects when it is first used. As a context manager it connects at once.
    """

    def __init__(self, settings: Settings, progress: Progress = silent, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._progress = progress
        self._clock = clock

    def __enter__(self) -> KafkaReader:
        """Raises CheckBroker with the reason if the broker does not answer."""
        assert self._admin is not None
        return self

    def __exit__(self, *_: object) -> None: ...

    @cached_property
    def _admin(self) -> AdminClient:
        return clients.admin_client(self._settings)

    # Offsets

    def oldest(self, places: Iterable[Place]) -> dict[Place, int]:
        return self._offsets(places, OffsetSpec.earliest())

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        return self._offsets(places, OffsetSpec.latest())

    def newest(self, places: Iterable[Place]) -> dict[Place, int]:
        return self._offsets(places, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)

    def at(self, places: Iterable[Place], timestamp_ms: int) -> dict[Place, int]:
        return self._offsets(places, OffsetSpec.for_timestamp(timestamp_ms))

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        return admin.topic_ids(self._admin, topics)

    def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        found = admin.partitions(self._admin)
        return {topic: found[topic] for topic in topics if topic in found}

    def appended_ms(self, topic: str, partition: int) -> int:
        # Also what is not visible yet: a reader of committed records would be told -1 of the newest.
        newest = self._list([(topic, partition)], OffsetSpec.max_timestamp(), IsolationLevel.READ_UNCOMMITTED)
        return newest[topic, partition].timestamp

    def open_transactions(self, topics: Sequence[str], partition: int) -> set[str]:
        places = [(topic, partition) for topic in topics]
        stable = self.ends(places)
        last = self.newest(places)
        return {place[0] for place in places if stable[place] < last[place]}

    def _offsets(
        self, places: Iterable[Place], which: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> dict[Place, int]:
        return {place: found.offset for place, found in self._list(places, which, isolation).items()}

    def _list(
        self, places: Iterable[Place], which: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> dict[Place, ListOffsetsResultInfo]:
        asked = {TopicPartition(*place): which for place in places}
        passing: dict[Place, KafkaError] = {}

        def ask() -> dict[Place, ListOffsetsResultInfo]:
            if passing:
                self._look_for_leaders()
            passing.clear()
            offsets: dict[Place, ListOffsetsResultInfo] = {}
            found = self._admin.list_offsets(asked, request_timeout=TIMEOUT_SECONDS, isolation_level=isolation)
            for where, future in found.items():
                place = where.topic, where.partition
                try:
                    offsets[place] = future.result()
                except KafkaException as error:
                    # A broker that comes back needs a moment until its partitions have leaders.
                    if not clients.passes(error.args[0]):
                        raise answers.of_client(error.args[0], "/".join(map(str, place))) from error
                    passing[place] = error.args[0]
            return {} if passing else offsets

        offsets = poll_until(ask, TIMEOUT_SECONDS, RETRY_SECONDS, self._clock) if asked else {}
        for place, error in passing.items():
            raise answers.of_client(error, "/".join(map(str, place)))
        return offsets

    def _look_for_leaders(self) -> None:
        """librdkafka keeps the leaders and epochs that it knew before a broker came back, and would ask with them for
        ever; to list the topics brings the new ones."""
        with suppress(KafkaException):
            self._admin.list_topics(timeout=TIMEOUT_SECONDS)

    # Records

    def read(self, starts: Mapping[Place, int], done: Callable[[], bool] = at_once) -> Iterator[StoredRecord]:
        return self._read(starts, done, partial(self._progress, min(starts)[0].split(".")[0]))

    def read_partition(
        self, topic: str, partition: int, start: int | None = None, end: int | None = None
    ) -> Iterator[StoredRecord]:
        place = topic, partition
        high = self.ends([place])[place]
        first, end = max(self.oldest([place])[place], start or 0), high if end is None else min(end, high)
        if first >= end:
            return
        with closing(self._read({place: first})) as records:
            for record in records:
                if record.offset < end:
                    yield record
                if record.offset >= end - 1:
                    return

    def fetch_offsets(self, topic: str, partition: int, offsets: Iterable[int]) -> dict[int, StoredRecord]:
        found: dict[int, StoredRecord] = {}
        for run in _runs(sorted(set(offsets))):
            wanted = set(run)
            records = self.read_partition(topic, partition, run[0], run[-1] + 1)
            found |= {record.offset: record for record in records if record.offset in wanted}
        return found

    def last_value(self, topic: str, partition: int, key: bytes) -> bytes | None:
        end, count = self.ends([(topic, partition)])[topic, partition], TAIL_RECORDS
        while True:
            start = max(0, end - count)
            values = [r.value for r in self.read_partition(topic, partition, start, end) if r.key == key]
            if values or start == 0:
                return values[-1] if values else None
            count *= TAIL_GROWTH

    def _read(
        self,
        starts: Mapping[Place, int],
        done: Callable[[], bool] = at_once,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Generator[StoredRecord, None, None]:
        config = clients.consumer_config(self._settings, f"{self._settings.kafka.group}-read")
        left, waited_seconds = set(starts), 0.0
        with closing(Consumer(config)) as consumer:
            consumer.assign([TopicPartition(*place, offset) for place, offset in starts.items()])
            while left or (not done() and waited_seconds < PATIENCE_SECONDS):
                began = self._clock.monotonic()
                block = clients.consume(consumer, BLOCK_RECORDS, BLOCK_SECONDS)
                left -= block.ended
                # The caller may take its time with each record: only polls that bring nothing count as waiting.
                waited = self._clock.monotonic() - began
                waited_seconds = 0.0 if left and block.records else waited_seconds + waited
                if left and waited_seconds > TIMEOUT_SECONDS:
                    topic, partition = min(left)
                    raise CheckBroker(f"{topic}/{partition}: no answer in {TIMEOUT_SECONDS:.0f} s")
                progress(len(block.records))
                yield from block.records


def _runs(offsets: Sequence[int]) -> list[list[int]]:
    """The offsets in runs that are read at once, because the gaps in them are small."""
    runs: list[list[int]] = []
    for offset in offsets:
        if runs and offset - runs[-1][-1] <= GAP_RECORDS:
            runs[-1].append(offset)
        else:
            runs.append([offset])
    return runs
