"""Publishes what calls began and how they ended.

`begun` records are written by an idempotent producer, and a call starts only after they are acknowledged. An end is
one transaction: completion, answer, the end of the `begun` record and the consumed position, with the consumer's group
metadata, so that a worker that the group has put out cannot publish (KIP-447). The transactional id belongs to the
worker's name: a worker that starts again aborts at once what it left open, and nobody waits for a timeout.

Kafka answers EndTxn before it has written the markers. Until then it refuses the positions of the same producer's next
transaction, and librdkafka asks again only after 100 ms. So two producers take turns: transactions still follow one
another, and the markers of one are written while the other is at work.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from worker.contract.errors import CheckBroker, LeaveProcess
from worker.contract.settings import Settings
from worker.inference.published import Outgoing, without_answer
from worker.kafka import clients
from worker.kafka.limited import within

FLUSH_SECONDS = 30.0
TRIES_SECONDS = 60.0
PAUSE_SECONDS = 0.1
# A coordinator that is not rebalancing takes positions in milliseconds.
OFFSETS_SECONDS = 1.0
# Then the call itself should have given up.
GIVE_UP_SECONDS = 5.0
REBALANCING = {
    KafkaError._TIMED_OUT,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
}
# A request that was retried inside librdkafka may end the next transaction, so the producer takes a new epoch then
# (ARCHITECTURE, "The protocol", 4). Requests time out after a second or more.
SUSPICIOUS_SECONDS = 1.0
# The ends of the transactional ids, one for each producer.
TURNS = ("", "/2")

logger = structlog.get_logger()

GroupMetadata = Callable[[], Any]


class Publisher:
    """Produces to Kafka; its methods block, each is called from one thread at a time."""

    def __init__(self, settings: Settings, name: str, group_metadata: GroupMetadata) -> None:
        self._settings = settings
        self._name = name
        self._group_metadata = group_metadata
        self._plain = Producer(clients.producer_config(settings) | {"linger.ms": 0})
        self._turns = deque((turn, self._new(turn)) for turn in TURNS)

    def _new(self, turn: str) -> Producer:
        """A producer of a new epoch: what an older one of this name left open is aborted."""
        kafka = self._settings.kafka
        own = {
            "transactional.id": f"{kafka.group}-inference-{self._name}{turn}",
            "transaction.timeout.ms": kafka.transaction_timeout_ms,
            "socket.timeout.ms": min(clients.SOCKET_TIMEOUT_MS, kafka.transaction_timeout_ms),
            "linger.ms": 0,
        }
        producer = Producer(clients.producer_config(self._settings) | own)
        try:
            producer.init_transactions(TRIES_SECONDS)
        except KafkaException as error:
            raise CheckBroker(f"inference: {error.args[0].str()}") from error
        return producer

    def begin(self, rows: Sequence[Outgoing]) -> None:
        """Write `begun` records; returns when the broker has them. Raises CheckBroker."""
        failed: list[KafkaError] = []
        for row in rows:
            _produce(self._plain, row, failed)
        left = self._plain.flush(FLUSH_SECONDS)
        if left or failed:
            raise CheckBroker(f"{self._settings.topics.begun}: {failed[0] if failed else f'{left} not acknowledged'}")

    def publish(self, ends: Sequence[list[Outgoing]], positions: Sequence[TopicPartition]) -> bool:
        """Publish ended calls and positions as one transaction. An answer that is too large for its topic is left out.

        Returns whether the positions are committed. While the group rebalances, it takes none, and the rebalance may be
        waiting for us: the ends are published without them. The next transaction has the positions again, and `restore`
        does not need them. Raises LeaveProcess if another worker has this one's name, or the broker does not commit for
        a minute.
        """
        until = time.monotonic() + TRIES_SECONDS
        ends = list(ends)
        while True:
            began = time.monotonic()
            too_large = set[int]()
            try:
                self._transaction(ends, positions, too_large)
            except TimeoutError:
                logger.warning("positions_unanswered", remedy="none: the answers are published without positions")
                positions = []
                self._replace()
                continue
            except KafkaException as problem:
                error: KafkaError = problem.args[0]
                if error.code() in REBALANCING and not error.fatal() and positions:
                    positions = []
                if error.fatal() or time.monotonic() > until:
                    raise LeaveProcess(self._reason(error)) from problem
                logger.debug("transaction_repeated", error=error.str())
                self._abort()
                ends = [without_answer(end) if number in too_large else end for number, end in enumerate(ends)]
                time.sleep(0.0 if too_large else PAUSE_SECONDS)
                continue
            if time.monotonic() - began > SUSPICIOUS_SECONDS:
                self._replace()
            self._turns.rotate()
            return bool(positions)

    def _transaction(
        self, ends: Sequence[list[Outgoing]], positions: Sequence[TopicPartition], too_large: set[int]
    ) -> None:
        (_, producer), failed = self._turns[0], list[KafkaError]()
        producer.begin_transaction()
        for number, end in enumerate(ends):
            for record in end:
                _produce(producer, record, failed, partial(too_large.add, number))
        if positions:
            self._send_positions(producer, positions, failed)
        producer.commit_transaction(FLUSH_SECONDS)

    def _send_positions(
        self, producer: Producer, positions: Sequence[TopicPartition], failed: Sequence[KafkaError]
    ) -> None:
        """Raises TimeoutError if librdkafka does not answer. That producer is lost then: one of a new epoch aborts what
        it has sent.

        librdkafka (2.16) does not keep the limit that it is given. If a record of the transaction fails while the
        group's coordinator is looked for, it drops the request, and the caller waits for ever. So no record is on its
        way when positions are sent; and a broker that dies later is waited for no longer than GIVE_UP_SECONDS.
        """
        if clients.flush(producer, FLUSH_SECONDS) or failed:
            raise KafkaException(failed[0] if failed else KafkaError(KafkaError._TIMED_OUT))
        group = self._group_metadata()
        within(GIVE_UP_SECONDS, producer.send_offsets_to_transaction, list(positions), group, OFFSETS_SECONDS)

    def _abort(self) -> None:
        try:
            self._turns[0][1].abort_transaction(FLUSH_SECONDS)
        except KafkaException as problem:
            if problem.args[0].fatal():
                raise LeaveProcess(self._reason(problem.args[0])) from problem
            self._replace()

    def _replace(self) -> None:
        turn, _ = self._turns[0]
        self._turns[0] = turn, self._new(turn)

    def _reason(self, error: KafkaError) -> str:
        if error.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED):
            return f"inference: another worker has the name {self._name}; give each its own with --name"
        return f"inference: the broker did not commit: {error.str()}"


def _produce(
    producer: Producer, record: Outgoing, failed: list[KafkaError], on_too_large: Callable[[], object] | None = None
) -> None:
    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is None:
            return
        failed.append(error)
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE and record.is_answer and on_too_large is not None:
            on_too_large()

    clients.produce(
        producer,
        record.topic,
        record.value,
        record.key,
        clients.ANY_PARTITION if record.partition is None else record.partition,
        headers=record.headers,
        on_delivery=delivered,
    )
