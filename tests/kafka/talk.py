"""Speaks to a system as a producer and an inference team do: raw records in, raw records out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.kafka.commands import PATIENCE_SECONDS
from tests.topics import value as value_of
from worker.contract import codec
from worker.contract.decisions import Decision
from worker.contract.messages import Dispatch
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.kafka import clients
from worker.kafka.reader import KafkaReader
from worker.local.processes import wait_for

PLACEHOLDER, NOT_UTF8 = "a-header-name", b"a-header-n\xffme"
CHECKSUM_AT, CHECKED_FROM = 17, 21

Kind = TypeVar("Kind")
Headers = Sequence[tuple[str, bytes | None]]


class Sent(NamedTuple):
    """Where a record went."""

    partition: int
    offset: int


def enlarge(settings: Settings) -> None:
    """Let `queries` take records of 30 MB, as a producer may have asked for."""
    entry = ConfigEntry("max.message.bytes", "30000000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, settings.topics.queries, incremental_configs=[entry])
    admin = AdminClient(clients.common_config(settings))
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(PATIENCE_SECONDS)


class Talk:
    """Produces to one partition and reads any topic of the system from its beginning."""

    def __init__(self, settings: Settings, partition: int = 0) -> None:
        self.settings = settings
        self.partition = partition
        self._producer = Producer(clients.producer_config(settings))

    def query(self, value: bytes | None, key: bytes | None = None, headers: Headers = ()) -> Sent:
        """Produce to `queries`."""
        return self._produce(self.settings.topics.queries, value, key, headers)

    def completion(self, value: bytes | None, **fields: Any) -> Sent:
        """Produce to `completions`: raw bytes, or the fields of a completion as a MessagePack map."""
        value = msgspec.msgpack.encode({"origin_partition": self.partition, **fields}) if value is None else value
        return self._produce(self.settings.topics.completions, value, None, ())

    def begun(self, dispatch: Dispatch) -> Sent:
        """Say on `begun` that the call of this dispatch has begun."""
        return self._produce(self.settings.topics.begun, b"begun", dispatch.id.encode(), ())

    def raw_completion(self, value: bytes | None) -> Sent:
        """Produce these bytes, or none, to `completions`."""
        return self._produce(self.settings.topics.completions, value, None, ())

    def read(self, topic: str) -> list[StoredRecord]:
        """Everything committed in the partition."""
        return list(KafkaReader(self.settings).read_partition(topic, self.partition))

    def decisions(self) -> list[Decision]:
        """All decisions of the partition."""
        return [codec.decode_decision(value_of(record)) for record in self.read(self.settings.topics.decisions)]

    def dispatches(self) -> list[Dispatch]:
        """All dispatches of the partition, in the order in which they were made."""
        topics = [self.settings.topics.dispatch(llm) for llm in self.settings.llms]
        records = [record for topic in topics for record in self.read(topic)]
        dispatches = [codec.decode_dispatch(value_of(record)) for record in records]
        return sorted(dispatches, key=lambda dispatch: (dispatch.origin.offset, dispatch.attempt))

    def letters(self) -> list[StoredRecord]:
        """All dead letters of the partition."""
        return self.read(self.settings.topics.dead_letters)

    def wait(self, what: str, topic: str, count: int) -> list[StoredRecord]:
        """The records of a topic, as soon as there are `count`."""
        wait_for(what, lambda: len(self.read(topic)) >= count, PATIENCE_SECONDS, every_seconds=0.3)
        return self.read(topic)

    def wait_decisions(self, kind: type[Kind], count: int) -> list[Kind]:
        """All decisions of one kind, as soon as there are `count`."""

        def found() -> list[Kind]:
            return [decision for decision in self.decisions() if isinstance(decision, kind)]

        wait_for(f"{count} {kind.__name__}", lambda: len(found()) >= count, PATIENCE_SECONDS, every_seconds=0.3)
        return found()

    def _produce(self, topic: str, value: bytes | None, key: bytes | None, headers: Headers) -> Sent:
        sent: list[tuple[KafkaError | None, Message]] = []
        self._producer.produce(
            topic,
            value,
            key,
            self.partition,
            headers=list(headers),
            on_delivery=lambda error, message: sent.append((error, message)),
        )
        self._producer.flush(PATIENCE_SECONDS)
        error, message = sent[0]
        assert error is None, error
        return Sent(*clients.place_of(message))


def produce_raw(settings: Settings, partition: int, values: Sequence[tuple[bytes, bool]]) -> None:
    """One batch; `True` gives a record a header whose name is not UTF-8, which no Python client would send."""

    async def produce() -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=settings.kafka.bootstrap_servers, max_batch_size=1_000_000
        ) as producer:
            batch = producer.create_batch()
            for value, bad in values:
                headers = [(PLACEHOLDER if bad else "good", b"1")]
                batch.append(timestamp=None, key=None, value=value, headers=headers)
            raw = bytearray(bytes(batch._builder.build()).replace(PLACEHOLDER.encode(), NOT_UTF8))
            raw[CHECKSUM_AT:CHECKED_FROM] = calc_crc32c(bytes(raw[CHECKED_FROM:])).to_bytes(4, "big")
            batch.close()
            batch._buffer = raw
            await (await producer.send_batch(batch, settings.topics.queries, partition=partition))

    asyncio.run(produce())
