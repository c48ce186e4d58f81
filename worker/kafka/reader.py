"""Reads many partitions with one read_committed consumer: to their ends, and what is written afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from worker.contract.errors import CheckBroker
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.kafka import clients

Progress = Callable[[str, int], None]
Place = tuple[str, int]
Take = Callable[[StoredRecord], None]

BLOCK_RECORDS = 2_000
# Commit markers reach all partitions within milliseconds; under load it may take a second.
PATIENCE_SECONDS = 5.0


def silent(what: str, records: int) -> None:
    """Progress that nobody watches."""


class Reader:
    """Reads many partitions to their ends with one read_committed consumer; a context manager that closes it."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress

    def __enter__(self) -> Reader:
        self._admin = clients.admin_client(self._settings)
        self._consumer = Consumer(clients.consumer_config(self._settings, f"{self._settings.kafka.group}-audit"))
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def oldest(self, places: Iterable[Place]) -> dict[Place, int]:
        """The first offset that each partition still has. Raises CheckBroker."""
        return self._offsets(places, OffsetSpec.earliest())

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """The offset after the last committed record of each partition. Raises CheckBroker."""
        return self._offsets(places, OffsetSpec.latest())

    def at(self, places: Iterable[Place], timestamp_ms: int) -> dict[Place, int]:
        """The first offset of each partition from this time on, -1 where there is none. Raises CheckBroker."""
        return self._offsets(places, OffsetSpec.for_timestamp(timestamp_ms))

    def _offsets(self, places: Iterable[Place], which: OffsetSpec) -> dict[Place, int]:
        found = self._admin.list_offsets(
            {TopicPartition(*place): which for place in places},
            request_timeout=clients.TIMEOUT_SECONDS,
            isolation_level=IsolationLevel.READ_COMMITTED,
        )
        return {(place.topic, place.partition): _offset(place, result) for place, result in found.items()}

    def read(
        self,
        starts: Mapping[Place, int],
        take: Take,
        done: Callable[[], bool] = lambda: True,
    ) -> None:
        """Hand every committed record from `starts` on to `take`, each partition in order, until all ends are reached.

        What is then not `done` is waited for, PATIENCE_SECONDS at most. Raises CheckBroker.
        """
        what = min(starts)[0].split(".")[0]
        left = set(starts)
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in starts.items()])
        heard = time.monotonic()
        while left:
            if self._poll(what, take, left):
                heard = time.monotonic()
            elif time.monotonic() - heard > clients.TIMEOUT_SECONDS:
                topic, partition = min(left)
                raise CheckBroker(f"{topic}/{partition}: no answer in {clients.TIMEOUT_SECONDS:.0f} s")
        patience = time.monotonic() + PATIENCE_SECONDS
        while not done() and time.monotonic() < patience:
            self._poll(what, take, left)

    def more(self, take: Take) -> None:
        """What was written since to the partitions last read, if anything, waiting a moment for it."""
        self._poll("", take, set())

    def _poll(self, what: str, take: Take, left: set[Place]) -> bool:
        """Take one block; ends that it reaches are dropped from `left`. Returns whether there was anything."""
        messages = self._consumer.consume(BLOCK_RECORDS, timeout=clients.READ_SECONDS)
        for message in messages:
            error = message.error()
            if error is None:
                take(clients.stored(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard((message.topic(), message.partition()))
            else:
                raise CheckBroker(f"{message.topic()}/{message.partition()}: {error.str()}")
        self._progress(what, len(messages))
        return bool(messages)


def _offset(place: TopicPartition, result: Future[Any]) -> int:
    try:
        return int(result.result().offset)
    except KafkaException as error:
        raise CheckBroker(f"{place.topic}/{place.partition}: {error.args[0].str()}") from error
