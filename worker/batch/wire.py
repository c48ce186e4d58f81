"""A batch's way to Kafka: one transactional producer of queries, and one reader of decisions and answers.

Queries go out in transactions of an id that the batch's content makes. A process that resumes a batch fences the one
before it, and its unfinished transaction is aborted: afterwards `queries` says exactly what was sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from worker.batch.state import FORMAT, BatchState
from worker.contract.errors import CheckBroker, LeaveProcess
from worker.contract.messages import Origin
from worker.contract.record import Headers, StoredRecord
from worker.contract.settings import Settings
from worker.kafka import clients
from worker.kafka.clock import poll_until
from worker.kafka.reader import KafkaReader, Place

JSON_TYPE: Headers = (("content-type", b"application/json"),)
CONSUMED_RECORDS = 500
CONSUMED_SECONDS = 0.1
# What is fetched before it is asked for, of each partition: answers may be large.
QUEUED_KBYTES = 4_096
COMMIT_SECONDS = 60.0
# Another producer's transaction hides records behind it until it ends; brokers end them after 15 minutes at most.
OPEN_SECONDS = 900.0
LOOK_BACK_MS = 24 * 3_600_000


class Outgoing(NamedTuple):
    """A query to send: the line that it is of, its id and its value."""

    line: int
    query_id: str
    value: bytes
    headers: Headers = ()


class Read(NamedTuple):
    """Records that came, and the partitions of `answers` that were read to their end as it is now."""

    records: list[StoredRecord]
    at_end: set[int]


class Wire(Protocol):
    """What a batch needs of Kafka. Every method raises CheckBroker if the broker does not answer."""

    def begin(self, state: BatchState | None, everything: bool) -> BatchState:
        """Fence earlier processes of this batch. Returns its state: a new one looks for earlier queries of the batch,
        in `everything` that the topics hold or in the last day. No state of another cluster is taken."""

    def sent(self, state: BatchState) -> Iterator[tuple[Origin, str]]:
        """The places and keys of all queries since the batch began."""

    def send(self, queries: Sequence[Outgoing]) -> list[Origin]:
        """Send all of these or none; returns their places. Raises LeaveProcess if another process sends this batch."""

    def follow(self, state: BatchState) -> None:
        """Read decisions and answers from the batch's beginning on."""

    def read(self) -> Read:
        """Records of decisions and answers, in the order of each partition."""

    def has_caught_up(self) -> bool:
        """Whether everything was read that was there when `follow` was called."""

    def has_workers(self) -> bool:
        """Whether a worker is there to decide."""


class KafkaWire:
    """The Wire of a Kafka cluster. `name` is the batch's. It connects when the batch begins."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self._topics, self._name = settings, settings.topics, name
        self._partitions = range(settings.kafka.partitions)
        self._reader = KafkaReader(settings)
        self._consumer: Consumer | None = None
        self._left: set[Place] = set()
        self._at_end: set[int] = set()

    def __enter__(self) -> KafkaWire:
        return self

    def __exit__(self, *_: object) -> None:
        if self._consumer is not None:
            self._consumer.close()

    def begin(self, state: BatchState | None, everything: bool) -> BatchState:
        self._admin = clients.admin_client(self._settings)
        self._producer = Producer(clients.batch_config(self._settings, self._name))
        try:
            self._producer.init_transactions(COMMIT_SECONDS)
        except KafkaException as error:
            raise CheckBroker(f"{self._topics.queries}: no transaction can begin: {error.args[0].str()}") from error
        self._wait_for_open_transactions()
        cluster = str(self._admin.list_topics(timeout=clients.TIMEOUT_SECONDS).cluster_id)
        kafka = self._settings.kafka
        if state is not None and (state.cluster, state.topic_prefix) == (cluster, kafka.topic_prefix):
            return state
        now_ms = time.time_ns() // 1_000_000
        names = self._topics.queries, self._topics.decisions, self._topics.answers
        starts = [self._starts(name, None if everything else now_ms - LOOK_BACK_MS) for name in names]
        return BatchState(FORMAT, cluster, kafka.topic_prefix, now_ms, *starts)

    def _starts(self, topic: str, since_ms: int | None) -> list[int]:
        places = [(topic, partition) for partition in self._partitions]
        if since_ms is None:
            return [0 for _ in places]
        ends, found = self._reader.ends(places), self._reader.at(places, since_ms)
        return [found[place] if found[place] >= 0 else ends[place] for place in places]

    def _wait_for_open_transactions(self) -> None:
        """Wait until every query that was there when this process began can be seen."""
        places = [(self._topics.queries, partition) for partition in self._partitions]
        newest = self._reader.newest(places)

        def all_seen() -> bool:
            stable = self._reader.ends(places)
            return all(stable[place] >= newest[place] for place in places)

        if not poll_until(all_seen, OPEN_SECONDS):
            raise CheckBroker(f"{self._topics.queries}: a transaction of another producer does not end")

    def sent(self, state: BatchState) -> Iterator[tuple[Origin, str]]:
        topic = self._topics.queries
        for partition, start in zip(self._partitions, state.queries, strict=False):
            for record in self._reader.read_partition(topic, partition, start):
                yield Origin(partition, record.offset), (record.key or b"").decode("utf-8", "replace")

    def send(self, queries: Sequence[Outgoing]) -> list[Origin]:
        places: list[Origin | None] = [None] * len(queries)

        def delivered(number: int, error: KafkaError | None, message: Message) -> None:
            places[number] = None if error is not None else Origin(*clients.place_of(message))

        try:
            self._producer.begin_transaction()
            for number, query in enumerate(queries):
                clients.produce(
                    self._producer,
                    self._topics.queries,
                    query.value,
                    query.query_id,
                    headers=[*query.headers, *JSON_TYPE],
                    on_delivery=partial(delivered, number),
                )
            self._commit()
        except KafkaException as error:
            raise self._as_ours(error.args[0]) from error
        found = [place for place in places if place is not None]
        assert len(found) == len(queries), "a transaction is committed only when every record was delivered"
        return found

    def _commit(self) -> None:
        end = time.monotonic() + COMMIT_SECONDS
        while True:
            try:
                self._producer.commit_transaction(COMMIT_SECONDS)
                return
            except KafkaException as error:
                # A commit may be asked for again until it is known how it ended.
                if not error.args[0].retriable() or time.monotonic() > end:
                    raise

    def _as_ours(self, error: KafkaError) -> CheckBroker | LeaveProcess:
        if error.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED):
            return LeaveProcess("another process has taken this batch over; let it finish")
        return CheckBroker(f"{self._topics.queries}: {error.str()}; run the same command again to go on")

    def follow(self, state: BatchState) -> None:
        starts = {self._topics.decisions: state.decisions, self._topics.answers: state.answers}
        places = {(topic, partition): offset for topic, each in starts.items() for partition, offset in enumerate(each)}
        oldest = self._reader.oldest(places)
        config = clients.consumer_config(self._settings, f"{self._settings.kafka.group}-batch")
        self._consumer = Consumer(config | {"queued.max.messages.kbytes": QUEUED_KBYTES})
        self._left = set(places)
        self._consumer.assign([TopicPartition(*place, max(offset, oldest[place])) for place, offset in places.items()])

    def read(self) -> Read:
        assert self._consumer is not None, "`follow` comes first"
        block = clients.consume(self._consumer, CONSUMED_RECORDS, CONSUMED_SECONDS, is_patient=True)
        self._at_end -= {record.partition for record in block.records if record.topic == self._topics.answers}
        self._at_end |= {partition for topic, partition in block.ended if topic == self._topics.answers}
        self._left -= block.ended
        return Read(block.records, self._at_end)

    def has_caught_up(self) -> bool:
        return not self._left

    def has_workers(self) -> bool:
        return clients.has_members(self._admin, self._settings.kafka.group)
