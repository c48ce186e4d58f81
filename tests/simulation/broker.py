"""The clients of the simulated log: those of the package, failing at random and stopping at every step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from random import Random
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from tests.simulation.steps import gate
from worker.contract.errors import CheckBroker
from worker.contract.record import StoredRecord
from worker.core.events import Event
from worker.kafka.memory import Log, MemoryProducer, MemoryReader, Transaction
from worker.kafka.reader import Place

# Sending again is the most frequent failure: that many times as frequent as the others.
SENT_AGAIN = 5
DROPPED = 0.05


class LateEnd(NamedTuple):
    """An EndTxn that a client has sent once more, and that is still on its way."""

    transactional_id: str
    epoch: int


class Broker:
    """One log, the requests that are still on their way to it, how often a request fails, and how often a fetch is
    `dropped` because its caller was cancelled.

    `decided` are the events that were decided in each transaction, for the auditor.
    """

    def __init__(self, log: Log, random: Random, seconds: Callable[[], float], failures: float) -> None:
        self.log, self.random, self.seconds = log, random, seconds
        self.failures, self.dropped = failures, DROPPED if failures else 0.0
        self.late: list[LateEnd] = []
        self.decided: dict[Transaction, list[Event]] = {}
        # What the consumer group has committed: for lag monitors, and where a client begins that is not sought.
        self.group_offsets: defaultdict[Place, int] = defaultdict(int)

    def now_ms(self) -> int:
        """Simulated time in milliseconds."""
        return int(self.seconds() * 1000)

    def fails(self) -> bool:
        """Whether this request goes wrong."""
        return self.random.random() < self.failures


class SimulatedReader(MemoryReader):
    """A reader that may be stopped on the way, and that may get no answer."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.log)
        self._broker = broker

    def read_partition(
        self, topic: str, partition: int, start: int | None = None, end: int | None = None
    ) -> Iterator[StoredRecord]:
        gate("restore begins")
        records = [*super().read_partition(topic, partition, start, end)]
        for number, record in enumerate(records):
            if number == len(records) // 2:
                gate("restore")
            yield record
        self._may_fail(topic, partition)

    def fetch_offsets(self, topic: str, partition: int, offsets: Iterable[int]) -> dict[int, StoredRecord]:
        self._may_fail(topic, partition)
        wanted = set(offsets)
        return {record.offset: record for record in super().read_partition(topic, partition) if record.offset in wanted}

    def _may_fail(self, topic: str, partition: int) -> None:
        if self._broker.fails():
            raise CheckBroker(f"{topic}/{partition}: no answer")


class SimulatedProducer(MemoryProducer):
    """A transactional producer whose requests and answers get lost, and where every step may be the last.

    `events` are those that its owner decides now.
    """

    def __init__(self, broker: Broker, config: Mapping[str, Any]) -> None:
        super().__init__(broker.log, config, broker.now_ms)
        self._broker = broker
        self._on_error: Callable[[KafkaError], None] = config["error_cb"]
        self.events: list[Event] = []

    def init_transactions(self, timeout: float) -> None:
        gate("before fence")
        if self._broker.fails():
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        super().init_transactions(timeout)
        gate("after fence")

    def begin_transaction(self) -> None:
        gate("before begin")

    def produce(self, *arguments: Any, **named: Any) -> None:
        super().produce(*arguments, **named)
        if (transaction := self._log.open.get(self._transactional_id())) is not None and self.is_current:
            self._broker.decided[transaction] = self.events
        if self._broker.random.random() < 0.05:
            gate("amid produce")

    def commit_transaction(self, timeout: float) -> None:
        gate("after produce, before EndTxn")
        request_lost, answer_lost = self._broker.fails(), self._broker.fails()
        sent_again = any(self._broker.fails() for _ in range(SENT_AGAIN))
        if request_lost:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        super().commit_transaction(timeout)
        gate("after EndTxn")
        if answer_lost:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        if sent_again:
            self._broker.late.append(LateEnd(self._transactional_id(), self._epoch))
            self._on_error(KafkaError(KafkaError._TRANSPORT))
