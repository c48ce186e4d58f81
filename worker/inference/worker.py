"""The reference inference worker: consumes dispatches, has them answered, and produces completions.

Inference workers in any language do the same around a call to their LLM. They consume `dispatch.<llm>` read_committed,
answer, produce the completion to the origin's partition, and commit their position only after it was delivered. A
worker that is killed at any moment answers some dispatches twice, and leaves none unanswered. The lane records the
second answer and ignores it.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from worker.contract import codec
from worker.contract.errors import CheckBroker
from worker.contract.messages import Completion, Dispatch
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.kafka import clients

COMMIT_SECONDS = 1.0
POLL_SECONDS = 0.1
POLL_RECORDS = 500
FLUSH_SECONDS = 30.0

logger = structlog.get_logger()


# The completion of a dispatch, and the seconds until it is ready.
Answerer = Callable[[Dispatch], tuple[Completion, float]]


@dataclass
class PendingAnswers:
    """Dispatches that are taken and not yet answered, and the offset that may be committed for each partition."""

    _due: list[tuple[float, int, TopicPartition, Completion]] = field(default_factory=list)
    _open: dict[tuple[str, int], set[int]] = field(default_factory=lambda: defaultdict(set))
    _next: dict[tuple[str, int], int] = field(default_factory=dict)
    _taken: int = 0

    def take(self, topic: str, partition: int, offset: int, due: float, completion: Completion) -> None:
        """A dispatch whose completion is to be produced at `due`, in monotonic seconds."""
        self._taken += 1
        heapq.heappush(self._due, (due, self._taken, TopicPartition(topic, partition, offset), completion))
        self._open[topic, partition].add(offset)
        self._next[topic, partition] = offset + 1

    def skip(self, topic: str, partition: int, offset: int) -> None:
        """A record that is not answered."""
        self._next[topic, partition] = offset + 1

    def ready(self, now: float) -> list[Completion]:
        """The completions that are due, the earliest first; they count as answered."""
        completions = []
        while self._due and self._due[0][0] <= now:
            _, _, where, completion = heapq.heappop(self._due)
            self._open[where.topic, where.partition].discard(where.offset)
            completions.append(completion)
        return completions

    def wait_seconds(self, now: float) -> float:
        """The seconds until the next completion is due, at most POLL_SECONDS."""
        return min(POLL_SECONDS, max(0.0, self._due[0][0] - now)) if self._due else POLL_SECONDS

    def positions(self) -> list[TopicPartition]:
        """The offsets that may be committed: of each partition, that of its oldest unanswered dispatch."""
        return [
            TopicPartition(topic, partition, min(self._open[topic, partition], default=after))
            for (topic, partition), after in self._next.items()
        ]

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        """Forget partitions that another worker owns now: it takes their dispatches from the last commit on."""
        gone = {(where.topic, where.partition) for where in partitions}
        self._due = [entry for entry in self._due if (entry[2].topic, entry[2].partition) not in gone]
        heapq.heapify(self._due)
        for key in gone:
            self._open.pop(key, None)
            self._next.pop(key, None)


class InferenceWorker:
    """Consumes the dispatches of some LLMs, and produces the completions that `answer` gives."""

    def __init__(self, settings: Settings, llms: Sequence[str], answer: Answerer) -> None:
        self._settings = settings
        self._topics = [settings.topics.dispatch(llm) for llm in llms]
        self._answer = answer
        self._pending = PendingAnswers()
        self._failed: KafkaError | None = None

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until `stopping` is true. Raises CheckBroker if the broker refuses a completion."""
        config = clients.consumer_config(self._settings, f"{self._settings.kafka.group}-inference")
        own = {
            "session.timeout.ms": self._settings.kafka.session_timeout_ms,
            # The metadata of a broker that has just come back lack topics for a moment; five minutes would be long.
            "topic.metadata.refresh.interval.ms": 10_000,
            "enable.partition.eof": False,
        }
        producer, consumer = Producer(clients.producer_config(self._settings)), Consumer(config | own)
        consumer.subscribe(self._topics, on_revoke=self._on_revoke)
        logger.info("inference_started", topics=len(self._topics))
        try:
            self._loop(consumer, producer, stopping)
        except KafkaException as error:
            raise CheckBroker(f"inference: {error.args[0].str()}") from error
        finally:
            consumer.close()

    def _loop(self, consumer: Consumer, producer: Producer, stopping: Callable[[], bool]) -> None:
        commit_at = time.monotonic() + COMMIT_SECONDS
        while not stopping():
            self._take(clients.consume(consumer, POLL_RECORDS, self._pending.wait_seconds(time.monotonic())).records)
            for completion in self._pending.ready(time.monotonic()):
                self._produce(producer, completion)
            producer.poll(0)
            if time.monotonic() >= commit_at:
                self._commit(consumer, producer)
                commit_at = time.monotonic() + COMMIT_SECONDS
        self._commit(consumer, producer)

    def _take(self, records: Sequence[StoredRecord]) -> None:
        now = time.monotonic()
        for record in records:
            place = record.topic, record.partition, record.offset
            try:
                dispatch = codec.decode_dispatch(record.value or b"")
            except codec.UNREADABLE as problem:
                logger.warning("dispatch_skipped", place=place, error=str(problem), remedy="only lanes may write here")
                self._pending.skip(*place)
                continue
            completion, seconds = self._answer(dispatch)
            self._pending.take(*place, now + seconds, completion)

    def _produce(self, producer: Producer, completion: Completion) -> None:
        clients.produce(
            producer,
            self._settings.topics.completions,
            codec.encode(completion),
            completion.dispatch_id,
            completion.origin_partition,
            headers=codec.CONTENT_TYPE,
            on_delivery=self._on_delivery,
        )

    def _commit(self, consumer: Consumer, producer: Producer) -> None:
        positions = self._pending.positions()
        left = producer.flush(FLUSH_SECONDS)
        if left or self._failed is not None:
            raise CheckBroker(f"completions: {self._failed or f'{left} were not acknowledged'}")
        if positions:
            try:
                consumer.commit(offsets=positions, asynchronous=False)
            except KafkaException as error:
                # The group is rebalancing, or its coordinator moves. The next commit has these offsets too.
                logger.warning("commit_postponed", error=error.args[0].str())

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        self._failed = self._failed or error

    def _on_revoke(self, _: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._pending.drop(partitions)
