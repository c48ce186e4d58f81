"""The reference inference worker: answers dispatches with what history recorded, instead of calling LLMs.

Real inference workers do the same around a call to their LLM, in any language: consume `dispatch.<llm>` read_committed,
answer, produce the completion to the origin's partition, and commit their position only when it was delivered. Killed
at any moment, one answers some dispatches twice and none never; the lane records the second answer and ignores it.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isnan, log
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from worker.contract import codec
from worker.contract.errors import CheckBroker
from worker.contract.messages import Completion, Dispatch
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.kafka import clients

COMMIT_SECONDS = 1.0
POLL_SECONDS = 0.1
POLL_RECORDS = 500
FLUSH_SECONDS = 30.0

logger = structlog.get_logger()


@dataclass(frozen=True)
class Rules:
    """How the simulated LLMs behave. Every draw depends on the seed and the dispatch alone, so an answer given twice
    is the same twice. Latency is drawn from an exponential distribution with this mean."""

    latency_ms: float = 50.0
    error_rate: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Recorded:
    """What each LLM scored and cost on each query of a table, by query id."""

    rows: Mapping[str, int]
    history: History

    @classmethod
    def of(cls, history: History) -> Recorded:
        """The table, ready to be looked up."""
        return cls({query_id: row for row, query_id in enumerate(history.ids)}, history)

    def outcome(self, query_id: str, llm: str) -> tuple[float, int] | None:
        """Score and cost in micro-dollars; None where history does not know. `<id>/<n>` is the same query again."""
        row = self.rows.get(query_id.split("/", 1)[0])
        if row is None or llm not in self.history.llms:
            return None
        column = self.history.llms.index(llm)
        quality, cost_micros = self.history.quality[row, column], self.history.cost_micros[row, column]
        return None if isnan(quality + cost_micros) else (float(quality), round(float(cost_micros)))


def answer(dispatch: Dispatch, recorded: Recorded, rules: Rules) -> tuple[Completion, float]:
    """The completion of a dispatch, and the seconds that it takes.

    A query that history does not know costs what was estimated, and nobody judges its answer.
    """
    fate, pace = _draws(rules.seed, dispatch.id)
    seconds = -log(1.0 - pace) * rules.latency_ms / 1000
    known = recorded.outcome(dispatch.query_id, dispatch.llm)
    common: dict[str, Any] = {
        "dispatch_id": dispatch.id,
        "origin_partition": dispatch.origin.partition,
        "llm": dispatch.llm,
    }
    if fate < rules.error_rate:
        return Completion(**common, status="error", error="simulated: overloaded"), seconds
    quality, cost_micros = known if known is not None else (None, dispatch.cost_micros)
    return Completion(**common, status="ok", cost_micros=cost_micros, quality=quality), seconds


def _draws(seed: int, dispatch_id: str) -> tuple[float, float]:
    digest = blake2b(f"{seed}/{dispatch_id}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:7], "little") / 2**56, int.from_bytes(digest[8:15], "little") / 2**56


@dataclass
class Desk:
    """Dispatches taken and not yet answered, and up to where each partition may be committed. Pure but for its heap."""

    _due: list[tuple[float, int, TopicPartition, Completion]] = field(default_factory=list)
    _open: dict[tuple[str, int], set[int]] = field(default_factory=lambda: defaultdict(set))
    _next: dict[tuple[str, int], int] = field(default_factory=dict)
    _taken: int = 0

    def take(self, topic: str, partition: int, offset: int, due: float, completion: Completion) -> None:
        """Answer this dispatch when the clock shows `due`."""
        self._taken += 1
        heapq.heappush(self._due, (due, self._taken, TopicPartition(topic, partition, offset), completion))
        self._open[topic, partition].add(offset)
        self._next[topic, partition] = offset + 1

    def skip(self, topic: str, partition: int, offset: int) -> None:
        """Nobody answers this record."""
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
        """How long nothing is due, at most POLL_SECONDS."""
        return min(POLL_SECONDS, max(0.0, self._due[0][0] - now)) if self._due else POLL_SECONDS

    def positions(self) -> list[TopicPartition]:
        """What may be committed: everything before the oldest unanswered dispatch of each partition."""
        return [
            TopicPartition(topic, partition, min(self._open[topic, partition], default=after))
            for (topic, partition), after in self._next.items()
        ]

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        """Forget partitions that went to another worker: it takes their dispatches from the last commit."""
        gone = {(where.topic, where.partition) for where in partitions}
        self._due = [entry for entry in self._due if (entry[2].topic, entry[2].partition) not in gone]
        heapq.heapify(self._due)
        for key in gone:
            self._open.pop(key, None)
            self._next.pop(key, None)


class InferenceWorker:
    """Consumes the dispatches of some LLMs and produces completions until `stopping` says so."""

    def __init__(self, settings: Settings, llms: Sequence[str], recorded: Recorded, rules: Rules) -> None:
        self._settings = settings
        self._topics = [settings.topics.dispatch(llm) for llm in llms]
        self._recorded = recorded
        self._rules = rules
        self._desk = Desk()
        self._failed: KafkaError | None = None

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work. Raises CheckBroker when the broker refuses a completion."""
        config = clients.consumer_config(self._settings, f"{self._settings.kafka.group}-inference")
        own = {
            "session.timeout.ms": self._settings.kafka.session_timeout_ms,
            # Those of a broker that has just come back lack topics for a moment; the usual five minutes are long then.
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
            self._take(clients.consume(consumer, POLL_RECORDS, self._desk.wait_seconds(time.monotonic())).records)
            for completion in self._desk.ready(time.monotonic()):
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
                self._desk.skip(*place)
                continue
            completion, seconds = answer(dispatch, self._recorded, self._rules)
            self._desk.take(*place, now + seconds, completion)

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
        positions = self._desk.positions()
        left = producer.flush(FLUSH_SECONDS)
        if left or self._failed is not None:
            raise CheckBroker(f"completions: {self._failed or f'{left} were not acknowledged'}")
        if positions:
            try:
                consumer.commit(offsets=positions, asynchronous=False)
            except KafkaException as error:
                # A rebalance is under way or a coordinator moves: the next commit says the same again.
                logger.warning("commit_postponed", error=error.args[0].str())

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        self._failed = self._failed or error

    def _on_revoke(self, _: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._desk.drop(partitions)
