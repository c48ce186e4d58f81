"""What committers and intake see of the simulated log: a transactional producer, a reader, and queries read again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from tests.simulation.log import FencedError, Log
from tests.simulation.steps import gate
from worker.contract.errors import CheckBroker
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings

# Sending again is the most frequent failure: that many times as frequent as the others.
SENT_AGAIN = 5


class LateEnd(NamedTuple):
    """An EndTxn that a client has sent once more, and that is still on its way."""

    transactional_id: str
    epoch: int


class Broker:
    """One log, what is still on its way to it, and how often it fails whom."""

    def __init__(self, log: Log, random: Random, seconds: Callable[[], float], failures: float) -> None:
        self.log, self.random, self.seconds = log, random, seconds
        self.failures = failures
        self.late: list[LateEnd] = []

    def now_ms(self) -> int:
        """Simulated time in milliseconds."""
        return int(self.seconds() * 1000)

    def fails(self) -> bool:
        """Whether this request goes wrong."""
        return self.random.random() < self.failures

    def read_partition(self, settings: Settings, topic: str, partition: int) -> Iterator[StoredRecord]:
        """As clients.read_partition: up to the end as it is at the start; the reader may be stopped on the way."""
        gate("restore begins")
        records = [*self.log.read((topic, partition))]
        for number, record in enumerate(records):
            if number == len(records) // 2:
                gate("restore")
            yield record
        if self.fails():
            raise CheckBroker(f"{topic}/{partition}: no answer")

    def open_transactions(self, settings: Settings, topics: Sequence[str], partition: int) -> set[str]:
        """As clients.open_transactions."""
        return {topic for topic in topics if self.log.last_stable((topic, partition)) < self.log.ends[topic, partition]}

    def last_value(self, settings: Settings, topic: str, partition: int, key: bytes) -> bytes | None:
        """As clients.last_value."""
        values = [record.value for record in self.read_partition(settings, topic, partition) if record.key == key]
        return values[-1] if values else None

    def fetch(self, partition: int, offsets: Iterable[int]) -> dict[int, StoredRecord]:
        """As recall.Recall.fetch."""
        wanted = set(offsets)
        if self.fails():
            raise CheckBroker(f"queries/{partition}: no answer")
        return {record.offset: record for record in self.log.read(("queries", partition)) if record.offset in wanted}


class SimulatedProducer:
    """As confluent_kafka.Producer with a transactional id: errors surface at commit, and every step may be the last."""

    def __init__(self, broker: Broker, config: dict[str, Any]) -> None:
        self._broker, self._log = broker, broker.log
        self._id: str = config["transactional.id"]
        self._on_error: Callable[[KafkaError], None] = config["error_cb"]
        self._epoch = 0
        self._failure: int | None = None
        self.events: list[Any] = []

    def init_transactions(self, timeout: float) -> None:
        gate("before fence")
        if self._broker.fails():
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        self._epoch = self._log.begin_epoch(self._id)
        gate("after fence")

    def begin_transaction(self) -> None:
        gate("before begin")

    def produce(self, topic: str, value: bytes | None, key: Any, partition: int, **options: Any) -> None:
        try:
            now_ms = self._broker.now_ms()
            transaction = self._log.transaction(self._id, self._epoch, now_ms)
        except FencedError:
            self._failure = KafkaError._FENCED
            return
        transaction.events = self.events
        key = key.encode() if isinstance(key, str) else key
        timestamp, headers = options.get("timestamp", now_ms), tuple(options.get("headers", ()))
        self._log.append((topic, partition), key, value, headers, timestamp, transaction)
        if self._broker.random.random() < 0.05:
            gate("amid produce")

    def commit_transaction(self, timeout: float) -> None:
        gate("after produce, before EndTxn")
        request_lost, answer_lost = self._broker.fails(), self._broker.fails()
        sent_again = any(self._broker.fails() for _ in range(SENT_AGAIN))
        if request_lost:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        self._end(self._log.end)
        gate("after EndTxn")
        if answer_lost:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        if sent_again:
            self._broker.late.append(LateEnd(self._id, self._epoch))
            self._on_error(KafkaError(KafkaError._TRANSPORT))

    def abort_transaction(self, timeout: float) -> None:
        self._end(self._log.abort)

    def flush(self, timeout: float) -> int:
        return 0

    def poll(self, timeout: float) -> int:
        return 0

    def _end(self, how: Callable[[str, int], None]) -> None:
        try:
            if self._failure is not None:
                raise FencedError
            how(self._id, self._epoch)
        except FencedError:
            raise KafkaException(KafkaError(KafkaError._FENCED)) from None
