"""Bad neighbours of a chaos run: producers that abort, queries and completions that nobody can read."""

from __future__ import annotations

import random
import threading

from confluent_kafka import KafkaException, Producer

from worker.contract.settings import Settings
from worker.kafka import clients

TRIES_SECONDS = 30.0
WAIT_SECONDS = 1.0
# As bytes: no JSON and no MessagePack, half of each, an answer to nobody, nothing at all.
UNREADABLE = (
    b"",
    b"\xc1",
    b"{",
    b"[]",
    b"\x83\xa2id",
    b'{"id": 7}',
    b'{"text": "' + b"x" * 5_000,
    b'{"dispatch_id": "0-999999999-1", "origin_partition": 0, "llm": "nobody", "status": "ok", "cost_micros": 1}',
    b'{"dispatch_id": 5}',
)


class Noise:
    """A thread that makes some noise every second. Use it as a context manager.

    `unreadable` counts the queries of these that the broker has. A transaction that it does not end ends by itself.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._dice = random.Random(seed)  # noqa: S311 - repeatable by seed, not secret
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="noise", daemon=True)
        self.unreadable = 0

    def __enter__(self) -> Noise:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Make no more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(WAIT_SECONDS):
            self._send()
            # Without a broker there is no noise.
            try:
                self._abort()
            except KafkaException:
                continue

    def _send(self) -> None:
        producer = Producer(clients.producer_config(self._settings) | {"linger.ms": 0})
        topics = self._settings.topics
        for topic in (topics.queries, topics.completions):
            value, partition = self._dice.choice(UNREADABLE), self._dice.randrange(self._settings.kafka.partitions)
            clients.produce(producer, topic, value, partition=partition, on_delivery=self._delivered)
        producer.flush(TRIES_SECONDS)

    def _delivered(self, error: object, message: object) -> None:
        topic = message.topic() if hasattr(message, "topic") else None
        self.unreadable += error is None and topic == self._settings.topics.queries

    def _abort(self) -> None:
        """A transaction whose queries nobody may route."""
        own = {
            "transactional.id": f"{self._settings.kafka.group}-noise",
            "transaction.timeout.ms": self._settings.kafka.transaction_timeout_ms,
            "socket.timeout.ms": clients.SOCKET_TIMEOUT_MS,
        }
        producer = Producer(clients.producer_config(self._settings) | own)
        producer.init_transactions(TRIES_SECONDS)
        producer.begin_transaction()
        for partition in range(self._settings.kafka.partitions):
            clients.produce(producer, self._settings.topics.queries, b'{"text": "never"}', partition=partition)
        producer.flush(TRIES_SECONDS)
        producer.abort_transaction(TRIES_SECONDS)
