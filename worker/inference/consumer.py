"""The consumer of dispatches: it polls in one thread, and tells the loop which partitions come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.kafka import answers, clients
from worker.kafka.reader import Place

POLL_SECONDS = 0.1
POLL_RECORDS = 500
TOPICS_SECONDS = 30.0

logger = structlog.get_logger()

Handle = Callable[[list[Place]], Any]


class Polled(NamedTuple):
    """The next records, and the offsets at which partitions end after them."""

    records: list[StoredRecord]
    ends: dict[Place, int]


class DispatchConsumer:
    """A member of the group of inference workers. `assigned`, `leaving` and `lost` are coroutine functions of `loop`;
    a poll waits for them. A partition comes paused."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        assigned: Callable[[list[Place]], Awaitable[None]],
        leaving: Callable[[list[Place]], Awaitable[None]],
        lost: Callable[[list[Place]], Awaitable[None]],
    ) -> None:
        self._loop, self._kafka = loop, settings.kafka
        self._assigned, self._leaving, self._lost = assigned, leaving, lost
        config = clients.consumer_config(settings, f"{settings.kafka.group}-inference")
        self._metadata: Any = None
        # As of the last poll. A member that the group has put out has no name until it has joined again.
        self.is_member = False
        self._consumer = Consumer(
            config
            | {
                "session.timeout.ms": settings.kafka.session_timeout_ms,
                **({} if settings.kafka.instance_id is None else {"group.instance.id": settings.kafka.instance_id}),
                # At its default of 3 seconds, one late heartbeat would end a session of 3 seconds.
                "heartbeat.interval.ms": settings.kafka.session_timeout_ms // 3,
                # Partitions that stay with their worker keep their open calls.
                "partition.assignment.strategy": "cooperative-sticky",
                # The metadata of a broker that has just come back lack topics for a moment; five minutes would be long.
                "topic.metadata.refresh.interval.ms": 10_000,
                # The end tells that nothing but markers follows, so that a drained topic has no lag.
                "enable.partition.eof": True,
            }
        )

    def subscribe(self, topics: list[str]) -> None:
        """Take part in the work on these topics, and leave all others."""
        self._consumer.subscribe(
            topics,
            on_assign=self._on_assign,
            on_revoke=lambda _, partitions: self._wait(self._leaving, partitions),
            on_lost=lambda _, partitions: self._wait(self._lost, partitions),
        )

    def poll(self, pause: list[Place], resume: list[Place]) -> Polled:
        """Pause and resume partitions, and return what is next. Raises CheckBroker."""
        self._switch(self._consumer.pause, pause)
        self._switch(self._consumer.resume, resume)
        # `consume` alone would wait until it has as many records as were asked for.
        first = self._consumer.poll(POLL_SECONDS)
        messages = [] if first is None else [first, *self._consumer.consume(POLL_RECORDS, timeout=0)]
        self._metadata = self._consumer.consumer_group_metadata()
        self.is_member = bool(self._consumer.memberid())
        ends = {(m.topic() or "", m.partition() or 0): m.offset() or 0 for m in messages if _is_end(m)}
        return Polled([clients.stored(message) for message in messages if self._is_record(message)], ends)

    def _switch(self, switch: Callable[[list[TopicPartition]], object], places: list[Place]) -> None:
        if not places:
            return
        try:
            switch([TopicPartition(*place) for place in places])
        except KafkaException as error:
            # The partition has just gone: its new owner reads it.
            logger.debug("pause_skipped", error=error.args[0].str())

    def group_metadata(self) -> Any:
        """What a transaction needs, so that only a member of the group commits positions: as of the last poll.

        librdkafka answers this question only outside its callbacks, and a rebalance's callback waits for a transaction.
        """
        return self._metadata

    def topics(self) -> frozenset[str]:
        """The names of all topics."""
        return frozenset(self._consumer.list_topics(timeout=TOPICS_SECONDS).topics)

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _is_record(self, message: Message) -> bool:
        """False for an end, and for an error that passes by itself. Raises FixSetting or CheckBroker for another."""
        error = message.error()
        if error is None:
            return True
        if error.code() == KafkaError._FATAL and self._kafka.instance_id is not None:
            # librdkafka gives no code of it. What is fatal to a member is that another one has its name.
            raise answers.of_instance(f"{self._kafka.group}-inference")
        if error.fatal() or error.code() in (KafkaError._FATAL, *answers.MEANINGS):
            raise answers.of_client(error, f"inference: {clients.where(message)}")
        if not _is_end(message):
            logger.debug("poll_error", error=error.str())
        return False

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        consumer.pause(partitions)
        self._wait(self._assigned, partitions)

    def _wait(self, handle: Handle, partitions: list[TopicPartition]) -> None:
        places = [(one.topic, one.partition) for one in partitions]
        asyncio.run_coroutine_threadsafe(handle(places), self._loop).result()


def _is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF
