"""Produces the queries of a history at a steady rate: the load of demos, tests and benchmarks."""

from __future__ import annotations

import threading
import time
from math import isnan

from confluent_kafka import KafkaError, Message, Producer

from worker.contract import codec
from worker.contract.errors import CheckBroker
from worker.contract.messages import Query
from worker.contract.settings import Settings
from worker.estimation.history import History, Prompts
from worker.kafka import clients

FLUSH_SECONDS = 120.0
POLL_EVERY = 20


def query_of(history: History | Prompts, number: int) -> Query:
    """Row `number` of a history as a query; past its end it begins again, with `<id>/<number>` as ids."""
    row = number % len(history.ids)
    id_ = history.ids[row] if number < len(history.ids) else f"{history.ids[row]}/{number}"
    if isinstance(history, Prompts):
        return Query(id=id_, text=history.texts[row])
    tokens = history.input_tokens[row]
    return Query(
        id=id_,
        embedding=history.embeddings[row].astype("<f2").tobytes(),
        embedding_dtype="float16",
        input_tokens=None if isnan(tokens) else int(tokens),
    )


class LoadGenerator:
    """A thread that produces `count` queries, `rate` a second (0: as fast as it goes), each keyed by its id.

    `first` is the number of the first one (`query_of`). `sent` maps (partition, offset) to the monotonic time at which
    the query was produced; it grows as the broker acknowledges. Call `start` and `finish`.
    """

    def __init__(self, settings: Settings, history: History | Prompts, count: int, rate: float, first: int = 0) -> None:
        self.count = count
        self.rate = rate
        self._first = first
        self.sent: dict[tuple[int, int], float] = {}
        self._settings = settings
        self._history = history
        self._failed: KafkaError | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Start to produce."""
        self._thread.start()

    def finish(self) -> int:
        """Wait for the last acknowledgement; returns how many queries the broker has. Raises CheckBroker."""
        self._thread.join()
        if self._failed is not None:
            raise CheckBroker(f"{self._settings.topics.queries}: {self._failed}")
        return len(self.sent)

    def stop(self) -> None:
        """Stop to produce."""
        self._stopping.set()
        self._thread.join()

    @property
    def running(self) -> bool:
        """Whether queries are still being produced."""
        return self._thread.is_alive()

    def _run(self) -> None:
        # A broker that is killed and started again loses nothing: an unacknowledged query is sent again. It doubles
        # nothing: only one request is in flight. Of several, librdkafka may repeat a later one first. The broker
        # refuses it, librdkafka repeats all under a new epoch, and then the broker does not know which it has.
        config = clients.producer_config(self._settings) | {
            "message.timeout.ms": 300_000,
            "max.in.flight": 1,
            "linger.ms": 1,
        }
        producer, started = Producer(config), time.monotonic()
        for number in range(self.count):
            if self._stopping.is_set():
                break
            self._produce(producer, self._first + number)
            if self.rate > 0:
                self._pace(producer, started + number / self.rate)
            elif number % POLL_EVERY == 0:
                producer.poll(0)
        producer.flush(FLUSH_SECONDS)

    def _pace(self, producer: Producer, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            producer.poll(min(left, 0.05))
        producer.poll(0)

    def _produce(self, producer: Producer, number: int) -> None:
        query = query_of(self._history, number)
        produced = time.monotonic()

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failed = error
            else:
                self.sent[clients.place_of(message)] = produced

        topic, value = self._settings.topics.queries, codec.encode(query)
        clients.produce(producer, topic, value, query.id, headers=codec.CONTENT_TYPE, on_delivery=delivered)
