"""Gives a topic that was made anew the offsets of the old one: it is filled up with records that nobody reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from worker.contract.errors import CheckBroker
from worker.contract.record import Record
from worker.contract.settings import Settings
from worker.kafka import admin, clients
from worker.kafka.clients import TIMEOUT_SECONDS, produce
from worker.kafka.reader import Place

FILLER = b"tollgate/filler"
# On a copy of a record: the offset that it had.
COPIED_FROM = "tollgate-copied-from"


class Refill(Protocol):
    """Writes to topics whose lanes have no worker. Every method raises CheckBroker."""

    def create(self, topics: Iterable[str]) -> list[str]:
        """Create those of the topics that are missing; returns them."""

    def fill(self, place: Place, count: int) -> None:
        """Append so many records that nobody reads."""

    def append(self, place: Place, records: Iterable[Record]) -> None:
        """Append copies of records, each with the offset that it had."""

    def drop_before(self, place: Place, offset: int) -> None:
        """Remove what lies before an offset."""


class KafkaRefill:
    """Refill of a Kafka cluster."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin: AdminClient = clients.admin_client(settings)
        self._failed: list[KafkaError] = []

    def create(self, topics: Iterable[str]) -> list[str]:
        found, wanted = admin.partitions(self._admin), admin.wanted(self._settings)
        return admin.make(self._admin, self._settings, {one: wanted[one] for one in topics if one not in found})

    def fill(self, place: Place, count: int) -> None:
        producer = Producer(clients.producer_config(self._settings))
        for _ in range(count):
            produce(producer, place[0], None, FILLER, place[1], on_delivery=self._delivered)
        self._finish(producer, place)

    def append(self, place: Place, records: Iterable[Record]) -> None:
        producer = Producer(clients.producer_config(self._settings))
        for record in records:
            headers = [*record.headers, (COPIED_FROM, str(record.offset).encode())]
            produce(
                producer,
                place[0],
                record.value,
                record.key,
                place[1],
                headers=headers,
                on_delivery=self._delivered,
            )
        self._finish(producer, place)

    def drop_before(self, place: Place, offset: int) -> None:
        futures = self._admin.delete_records([TopicPartition(*place, offset)], request_timeout=TIMEOUT_SECONDS)
        try:
            for future in futures.values():
                future.result()
        except KafkaException as error:
            raise CheckBroker(f"{place[0]}/{place[1]}: records were not deleted: {error.args[0].str()}") from error

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed.append(error)

    def _finish(self, producer: Producer, place: Place) -> None:
        left = producer.flush(TIMEOUT_SECONDS)
        if left or self._failed:
            why = self._failed[0].str() if self._failed else "no answer in time"
            raise CheckBroker(f"{place[0]}/{place[1]}: records were not written: {why}")
