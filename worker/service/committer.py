"""Decides batches of one partition and publishes each as one Kafka transaction.

The protocol (docs/ARCHITECTURE.md): `open_committer` fences the previous owner by `init_transactions` and only then
restores the ledger. A commit that did not end cleanly raises LeaveProcess: memory may be ahead of Kafka, so the process
ends and the next owner restores.

librdkafka speaks the transaction protocol from before KIP-890 and retries a timed-out EndTxn inside, so a late EndTxn
could end the *next* transaction. After a transaction in which the producer reported an error or that took suspiciously
long, the producer is therefore replaced, and the new epoch makes the old one's late requests fail. A process that was
stopped for a while looks just like this, but another owner may have written meanwhile: having fenced, the committer
checks that the last account row is still its own.

A broker that dies between writing down that a transaction ends and writing its end markers can come back without ever
writing the rest of them (Kafka 4.3.1 and 4.4.0, docs/RELIABILITY.md): the records stay open, hidden, and the *next*
end of the same producer id in that partition ends them too. After fencing, nothing of the lane may be open. If the
ledger and the decisions are, nothing was decided, and a transaction of our own over the same partitions is aborted. If
they are not, it was decided, and the next commit to the partition shows what is hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from worker.contract import codec, dead_letters
from worker.contract.codec import Format
from worker.contract.codes import Reason
from worker.contract.errors import CheckBroker, FixSetting, LeaveProcess
from worker.contract.record import Record
from worker.contract.settings import Settings
from worker.core import snapshot
from worker.core.events import Effects, Event
from worker.core.lane_view import LaneView
from worker.core.ledger import BrokenInvariant
from worker.core.outbox import ACCOUNT_KEY
from worker.core.router import Prior, Router
from worker.kafka import clients
from worker.kafka.clients import TransactionalProducer, produce
from worker.kafka.clock import SYSTEM_CLOCK, Clock
from worker.kafka.reader import Reader
from worker.service.home import wrong_group
from worker.service.intake import Input
from worker.service.lane_clock import LaneClock
from worker.service.metrics import Metrics
from worker.service.rows import last_account, read_rows

logger = structlog.get_logger()

# No request times out sooner (librdkafka's request timeouts are whole seconds), so a faster commit was not retried.
SUSPICIOUS_SECONDS = 1.0

# The broker's time is run on by the monotonic clock for so long.
TIME_SECONDS = 10.0

Records = Mapping[tuple[str, int], Record]


class Kafka(NamedTuple):
    """How a committer reaches Kafka: a reader, and a function that makes a producer of a configuration."""

    reader: Reader
    producer: Callable[[dict[str, Any]], TransactionalProducer] = Producer


def open_committer(
    partition: int,
    settings: Settings,
    prior: Prior,
    metrics: Metrics,
    kafka: Kafka,
    clock: Clock = SYSTEM_CLOCK,
) -> Committer:
    """Fence the previous owner of `partition`, then restore its ledger.

    Raises CheckBroker if the broker does not answer, FixSetting if the ledger belongs to another consumer group, and
    BrokenInvariant if the ledger does not add up.
    """
    committer = Committer(partition, settings, Router(partition, prior), metrics, kafka, clock)
    committer.check_group()
    committer.fence()
    started = clock.monotonic()
    committer.restore(prior)
    metrics.restored(partition, clock.monotonic() - started)
    return committer


class Committer:
    """The router of one partition and the transactional producer that publishes what it decides."""

    def __init__(
        self,
        partition: int,
        settings: Settings,
        router: Router,
        metrics: Metrics,
        kafka: Kafka,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.partition = partition
        self.router = router
        self._settings = settings
        self._topics = settings.topics
        self._metrics = metrics
        self._kafka = kafka
        self.clock = LaneClock(clock)
        self._producer: TransactionalProducer | None = None
        self._account_row: bytes | None = None
        self._suspicious = False

    def may_retry(self, dispatch_id: str) -> bool:
        """Whether a query waits for this dispatch (as of the last decided batch)."""
        reservation = self.view.open.get(dispatch_id)
        return reservation is not None and reservation.may_retry

    @property
    def view(self) -> LaneView:
        """The lane's state as of the last decided batch."""
        return self.router.view

    def check_group(self) -> None:
        """Raise FixSetting if the ledger belongs to another consumer group: fencing would end a worker of that one."""
        row, ours = last_account(self._kafka.reader, self._topics.ledger, self.partition), self._settings.kafka.group
        if row is not None and row.group not in ("", ours):
            raise FixSetting(wrong_group(self.partition, self._topics.ledger, row.group, ours))

    def fence(self) -> None:
        """A new producer under this partition's fixed transactional id: fences the old owner, aborts what it left."""
        self._suspicious = False
        config = clients.transactional_config(self._settings, self.partition)
        self._producer = producer = self._kafka.producer({**config, "error_cb": self._on_error})
        try:
            producer.init_transactions(self._timeout_seconds)
            self._end_hanging(producer)
            self._ask_time(producer)
        except KafkaException as error:
            raise CheckBroker(f"partition {self.partition}: init_transactions: {error.args[0]}") from error

    def _end_hanging(self, producer: TransactionalProducer) -> None:
        topics, ledger = self._topics.written(self._settings.llms), self._topics.ledger
        hanging = self._open_transactions(topics)
        if hanging >= {ledger, self._topics.decisions}:
            producer.begin_transaction()
            for topic in topics:
                produce(producer, topic, None, "hanging", self.partition)
            # The abort marker ends what is open only where a record of ours arrived.
            producer.flush(self._timeout_seconds)
            producer.abort_transaction(self._timeout_seconds)
            logger.warning("hanging_transaction_aborted", partition=self.partition)
            hanging = self._open_transactions(topics)
        if ledger in hanging:
            raise CheckBroker(
                f"{ledger}/{self.partition}: holds a hanging transaction that no producer will end; "
                "find it with `kafka-transactions.sh find-hanging`, and end it with `kafka-transactions.sh abort`"
            )
        if hanging:
            remedy = "its readers wait until the next record there, which ends it; Kafka 4.1 does not lose end markers"
            logger.warning("hanging_transaction", partition=self.partition, topics=sorted(hanging), remedy=remedy)

    def _ask_time(self, producer: TransactionalProducer) -> None:
        """Let the broker append to the ledger: what it appends has its time. Nobody sees an aborted record."""
        asked = self.clock.monotonic()
        producer.begin_transaction()
        produce(producer, self._topics.ledger, None, "time", self.partition)
        producer.flush(self._timeout_seconds)
        producer.abort_transaction(self._timeout_seconds)
        self._hear_time(asked)

    def _hear_time(self, asked: float) -> None:
        appended_ms = self._kafka.reader.appended_ms(self._topics.ledger, self.partition)
        if appended_ms > 0:
            self.clock.hear(appended_ms, asked)

    def _open_transactions(self, topics: Sequence[str]) -> set[str]:
        return self._kafka.reader.open_transactions(topics, self.partition)

    @property
    def _timeout_seconds(self) -> float:
        return self._settings.kafka.transaction_timeout_ms / 1000

    def restore(self, prior: Prior) -> None:
        """Make the router anew from the ledger; nobody else writes to it after `fence`. Raises BrokenInvariant."""
        rows = read_rows(self._kafka.reader, self._topics.ledger, self.partition)
        self.router = Router.restored(self.partition, prior, snapshot.read_rows(rows))
        self._account_row = rows.get(ACCOUNT_KEY)
        if self._account_row is not None:
            self.clock.decided(self.view.clock_ms)

    def commit(self, inputs: Sequence[Input]) -> None:
        """Decide the inputs and publish every effect of them in one transaction.

        1. Replace the producer if it reported an error or was slow (`_replace_producer` says why).
        2. The router decides. From here on, memory is ahead of Kafka.
        3. Begin a transaction, and produce the dispatches, deferred queries, dead letters, decisions and ledger rows.
        4. Commit the transaction. The account row holds the offsets of the inputs, so they are applied with it.
        5. Remember the account row, and whether this commit was slow. Count the effects.

        Raises LeaveProcess if step 1, 3 or 4 fails: the next owner restores from Kafka.
        """
        if self._suspicious:
            self._replace_producer()
        started = self.clock.monotonic()
        effects = self.router.handle([each.event for each in inputs])
        try:
            self._publish(effects, _records(inputs))
        except KafkaException as error:
            raise LeaveProcess(f"partition {self.partition}: {error.args[0]}") from error
        self._account_row = effects.rows[ACCOUNT_KEY]
        seconds = self.clock.monotonic() - started
        self._suspicious = self._suspicious or seconds > SUSPICIOUS_SECONDS
        self._metrics.committed(effects, len(inputs), seconds)
        self.clock.decided(self.view.clock_ms)
        if self.clock.is_old(TIME_SECONDS):
            with suppress(CheckBroker):
                self._hear_time(started)

    def rewrite(
        self, router: Router, rows: Mapping[str, bytes], events: Sequence[Event], with_checkpoint: bool = False
    ) -> None:
        """Go on with another router: publish its `rows`, and what these events make of it, in one transaction.

        Raises CheckBroker.
        """
        self.router = router
        effects = router.handle(events, with_checkpoint)
        effects.rows = {**rows, **effects.rows}
        try:
            self._publish(effects, {})
        except KafkaException as error:
            raise CheckBroker(f"partition {self.partition}: {error.args[0]}") from error

    def _replace_producer(self) -> None:
        # Before, so that a successor at work is not fenced. Kafka answers EndTxn before it writes the end markers, so
        # a row older than our last says nothing.
        self._check_owner(self._last_sequence() <= self.view.sequence)
        self.fence()
        # After, because only then all is visible and nobody else can write.
        self._check_owner(self._last_row() == self._account_row)

    def _check_owner(self, still_owner: bool) -> None:
        if not still_owner:
            raise LeaveProcess(f"partition {self.partition}: another owner has written to its ledger since")

    def _last_sequence(self) -> int:
        row = last_account(self._kafka.reader, self._topics.ledger, self.partition)
        return 0 if row is None else row.sequence

    def _last_row(self) -> bytes | None:
        return self._kafka.reader.last_value(self._topics.ledger, self.partition, ACCOUNT_KEY.encode())

    def _publish(self, effects: Effects, records: Records) -> None:
        producer = self._producer
        if producer is None:
            raise BrokenInvariant("fence() comes first")
        producer.begin_transaction()
        self._produce_queries(producer, effects, records)
        self._produce_dead_letters(producer, effects, records)
        for key, value in effects.decisions:
            produce(producer, self._topics.decisions, value, key or None, self.partition, headers=codec.CONTENT_TYPE)
        for key, row in effects.rows.items():
            produce(producer, self._topics.ledger, row, key, self.partition, headers=codec.CONTENT_TYPE)
        producer.commit_transaction(self._timeout_seconds)
        producer.poll(0)

    def _produce_queries(self, producer: TransactionalProducer, effects: Effects, records: Records) -> None:
        form = self._settings.kafka.dispatch_format
        for dispatch in effects.dispatches:
            headers = self._headers(dispatch.origin.offset, records, form)
            topic, value = self._topics.dispatch(dispatch.llm), codec.encode_dispatch(dispatch, form)
            produce(producer, topic, value, dispatch.id, self.partition, headers=headers)
        for deferred in effects.deferred:
            headers = self._headers(deferred.origin.offset, records)
            value = codec.encode(deferred)
            produce(producer, self._topics.deferred, value, deferred.query_id, self.partition, headers=headers)

    def _produce_dead_letters(self, producer: TransactionalProducer, effects: Effects, records: Records) -> None:
        refused = [(event.topic, event.offset, event.rejection) for event in effects.refused]
        ignored = [("completions", record.cause.number, record) for record in effects.ignored]
        letters: list[tuple[str, int, Reason]] = [*refused, *ignored]
        for topic, offset, why in letters:
            record = records.get((self._topics.prefix + topic, offset))
            if record is None:
                continue
            limits = self._settings.limits
            letter = dead_letters.dead_letter(record, why, limits.max_dead_letter_bytes, limits.max_header_bytes)
            produce(
                producer,
                self._topics.dead_letters,
                letter.value,
                letter.key,
                self.partition,
                timestamp_ms=letter.timestamp,
                headers=letter.headers,
            )

    def _headers(self, offset: int, records: Records, form: Format = "msgpack") -> list[tuple[str, bytes | None]]:
        record = records.get((self._topics.queries, offset))
        return codec.outgoing_headers(record.headers if record is not None else (), form)

    def _on_error(self, error: KafkaError) -> None:
        self._suspicious = True


def _records(inputs: Iterable[Input]) -> Records:
    """The records by topic and offset: an effect names the record that it follows from in this way."""
    found = [record for _, record, retried in inputs for record in (record, retried) if record is not None]
    return {(record.topic, record.offset): record for record in found}
