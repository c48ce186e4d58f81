"""Decides batches of one partition and publishes each as one Kafka transaction.

The protocol (docs/ARCHITECTURE.md): `open_committer` fences the previous owner by `init_transactions` and only then
restores the ledger. A commit that did not end cleanly raises LeaveProcess: memory may be ahead of Kafka, so the process
ends and the next owner restores. A transaction that was cleanly aborted is tried again in smaller ones.

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

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from worker.contract import codec, dead_letters
from worker.contract.codec import Format
from worker.contract.codes import Reason
from worker.contract.errors import CheckBroker, FixSetting, LeaveProcess
from worker.contract.record import Headers, Record
from worker.contract.settings import Settings
from worker.core.events import Effects, Event
from worker.core.lane_view import LaneView
from worker.core.ledger import BrokenInvariant
from worker.core.outbox import ACCOUNT_KEY
from worker.core.router import Prior, Router
from worker.kafka import answers, clients
from worker.kafka.clients import TransactionalProducer, produce
from worker.kafka.clock import SYSTEM_CLOCK, Clock, poll_until
from worker.kafka.reader import Reader
from worker.service.hanging import end_hanging
from worker.service.home import wrong_group
from worker.service.intake import Input
from worker.service.lane_clock import LaneClock
from worker.service.metrics import Metrics
from worker.service.poison import Undelivered, refusal, replacement
from worker.service.rows import last_account, restored
from worker.service.transaction_size import TransactionSize

logger = structlog.get_logger()

# No request times out sooner (librdkafka's request timeouts are whole seconds), so a faster commit was not retried.
SUSPICIOUS_SECONDS = 1.0
# Of the transaction timeout: what a transaction should take at most, and when it is given up.
SLOW_SHARE, FLUSH_SHARE = 0.1, 0.4
# Records that were not sent because of an error of another.
PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
# A transactional id that rested for longer than the broker remembers (transactional.id.expiration.ms).
FORGOTTEN = (KafkaError.INVALID_PRODUCER_ID_MAPPING, KafkaError.UNKNOWN_PRODUCER_ID)

# The broker's time is run on by the monotonic clock for so long.
TIME_SECONDS = 10.0
# A new owner waits for the broker's time for so long.
HEAR_SECONDS = 5.0

Records = Mapping[tuple[str, int], Record]


class Aborted(Exception):
    """A transaction failed, and nothing of it is in Kafka. `may_fit`: the same may succeed with a new producer."""

    def __init__(self, problem: str, may_fit: bool) -> None:
        super().__init__(problem)
        self.may_fit = may_fit


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
    CheckFailed if the ledger is not one that lanes wrote.
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
        self._prior: Prior | None = None
        self._size = TransactionSize(SLOW_SHARE * self._timeout_seconds)
        self._undelivered: list[Undelivered] = []

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
            end_hanging(producer, self._kafka.reader, self._settings, self.partition)
            self._ask_time(producer)
        except KafkaException as error:
            raise answers.of_client(error.args[0], f"transactional id {config['transactional.id']}") from error

    def _ask_time(self, producer: TransactionalProducer) -> None:
        """Let the broker append to the ledger: what it appends has its time. Nobody sees an aborted record."""
        asked = self.clock.monotonic()
        producer.begin_transaction()
        produce(producer, self._topics.ledger, None, "time", self.partition)
        producer.flush(self._timeout_seconds)
        producer.abort_transaction(self._timeout_seconds)
        # A broker that has just written the end of a transaction may still answer that it knows of no record.
        if not poll_until(lambda: self._hear_time(asked), HEAR_SECONDS, 0.02, self.clock):
            logger.warning("no_broker_time", partition=self.partition, topic=self._topics.ledger)

    def _hear_time(self, asked: float) -> bool:
        appended_ms = self._kafka.reader.appended_ms(self._topics.ledger, self.partition)
        if appended_ms >= 0:
            self.clock.hear(appended_ms, asked)
        return appended_ms >= 0

    @property
    def _timeout_seconds(self) -> float:
        return self._settings.kafka.transaction_timeout_ms / 1000

    def restore(self, prior: Prior) -> None:
        """Make the router anew from the ledger; nobody else writes to it after `fence`. Raises CheckFailed."""
        self._prior = prior
        self.router, self._account_row = restored(self._kafka.reader, self._topics.ledger, self.partition, prior)
        if self._account_row is not None:
            self.clock.decided(self.view.clock_ms)

    def commit(self, inputs: Sequence[Input]) -> None:
        """Decide the inputs and publish every effect of them, in as many transactions as the broker takes.

        A transaction that was cleanly aborted leaves nothing in Kafka: the router is restored, and the inputs are tried
        again in smaller transactions. An input that is refused alone is decided in another form (`poison`).

        Raises LeaveProcess if a transaction neither ended nor was aborted cleanly: the next owner restores from Kafka.
        """
        waiting = list(inputs)
        while waiting:
            count = self._size.take(each.bytes for each in waiting)
            try:
                self._commit_once(waiting[:count])
            except Aborted as problem:
                if problem.may_fit:
                    continue
                self._size.failed(count)
                if count == 1:
                    waiting[0] = self._without_poison(waiting[0], problem)
            else:
                del waiting[:count]

    def _commit_once(self, inputs: Sequence[Input]) -> None:
        """One transaction.

        1. Replace the producer if it reported an error or was slow (`_replace_producer` says why).
        2. The router decides. From here on, memory is ahead of Kafka.
        3. Begin a transaction, and produce the dispatches, deferred queries, dead letters, decisions and ledger rows.
        4. Commit the transaction. The account row holds the offsets of the inputs, so they are applied with it.
        5. Remember the account row, and whether this commit was slow. Count the effects.

        Raises Aborted if step 3 or 4 failed and nothing of it is left, and LeaveProcess if nobody knows.
        """
        if self._suspicious:
            self._replace_producer()
        started = self.clock.monotonic()
        effects = self.router.handle([each.event for each in inputs])
        try:
            self._publish(effects, _records(inputs), _bare(inputs))
        except KafkaException as error:
            self._undo(error.args[0])
            raise Aborted(str(self._named(error.args[0])), error.args[0].code() in FORGOTTEN) from error
        self._account_row = effects.rows[ACCOUNT_KEY]
        seconds = self.clock.monotonic() - started
        self._suspicious = self._suspicious or seconds > SUSPICIOUS_SECONDS
        self._size.committed(len(inputs), seconds)
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

    def _undo(self, error: KafkaError) -> None:
        """Leave nothing of a failed transaction in Kafka, and restore. Raises LeaveProcess if that fails."""
        assert self._producer is not None, "a transaction has a producer"
        try:
            if error.code() in FORGOTTEN:
                # Nothing was written: the broker no longer knew who we are.
                self._replace_producer()
            elif error.txn_requires_abort():
                self._producer.abort_transaction(self._timeout_seconds)
            else:
                raise LeaveProcess(str(self._named(error)))
        except KafkaException as problem:
            raise LeaveProcess(f"{self._named(error)}; and then {problem.args[0].str()}") from problem
        assert self._prior is not None, "a lane is restored before it decides"
        self.restore(self._prior)
        logger.warning("transaction_aborted", partition=self.partition, error=str(self._named(error)))

    def _named(self, error: KafkaError) -> Exception:
        """The error, and the topic that did not take a record, if one did not."""
        if self._undelivered:
            topic, cause = self._undelivered[0]
            return answers.of_client(cause, f"partition {self.partition}, writing to {topic}")
        return answers.of_client(error, f"partition {self.partition}")

    def _without_poison(self, poison: Input, problem: Aborted) -> Input:
        """What to decide instead of an input that was refused alone. Raises LeaveProcess if it is not its own fault."""
        refused = refusal(self._undelivered)
        lesser = None if refused is None else replacement(poison, refused)
        if lesser is None:
            if poison.record is None:
                raise LeaveProcess(str(problem)) from problem
            place = f"{poison.record.topic}/{poison.record.partition} at offset {poison.record.offset}"
            raise LeaveProcess(f"{place} could not be committed: {problem}") from problem
        if poison.record is not None:
            topic, offset = poison.record.topic, poison.record.offset
            logger.error(
                "record_unpublishable", topic=topic, partition=self.partition, offset=offset, error=str(problem)
            )
        return lesser

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

    def _publish(self, effects: Effects, records: Records, bare: Set[tuple[str, int]] = frozenset()) -> None:
        producer = self._producer
        if producer is None:
            raise BrokenInvariant("fence() comes first")
        self._undelivered = []
        producer.begin_transaction()
        self._produce_queries(producer, effects, records)
        self._produce_dead_letters(producer, effects, records, bare)
        for key, value in effects.decisions:
            self._produce(producer, self._topics.decisions, value, key or None, codec.CONTENT_TYPE)
        for key, row in effects.rows.items():
            self._produce(producer, self._topics.ledger, row, key, codec.CONTENT_TYPE)
        # We abort what does not arrive, before the broker does: then nobody doubts how it ended.
        if clients.flush(producer, FLUSH_SHARE * self._timeout_seconds) and not self._undelivered:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the records did not arrive", False, False, True))
        producer.commit_transaction(self._timeout_seconds)
        producer.poll(0)

    def _produce_queries(self, producer: TransactionalProducer, effects: Effects, records: Records) -> None:
        form = self._settings.kafka.dispatch_format
        for dispatch in effects.dispatches:
            headers = self._headers(dispatch.origin.offset, records, form)
            topic, value = self._topics.dispatch(dispatch.llm), codec.encode_dispatch(dispatch, form)
            self._produce(producer, topic, value, dispatch.id, headers)
        for deferred in effects.deferred:
            headers = self._headers(deferred.origin.offset, records)
            value = codec.encode(deferred)
            self._produce(producer, self._topics.deferred, value, deferred.query_id, headers)

    def _produce(
        self,
        producer: TransactionalProducer,
        topic: str,
        value: bytes | None,
        key: str | bytes | None,
        headers: Headers,
    ) -> None:
        delivered = partial(self._on_delivery, topic)
        produce(producer, topic, value, key, self.partition, headers=headers, on_delivery=delivered)

    def _on_delivery(self, topic: str, error: KafkaError | None, _: Message) -> None:
        # Of a producer that has failed for good, confluent-kafka sets an exception and calls us; the commit tells it.
        with suppress(SystemError):
            if error is not None and error.code() not in PURGED:
                self._undelivered.append(Undelivered(topic, error))

    def _produce_dead_letters(
        self, producer: TransactionalProducer, effects: Effects, records: Records, bare: Set[tuple[str, int]]
    ) -> None:
        refused = [(event.topic, event.offset, event.rejection) for event in effects.refused]
        ignored = [("completions", record.cause.number, record) for record in effects.ignored]
        letters: list[tuple[str, int, Reason]] = [*refused, *ignored]
        for topic, offset, why in letters:
            place = self._topics.prefix + topic, offset
            if (record := records.get(place)) is None:
                continue
            limits = self._settings.limits
            most = (0, 0) if place in bare else (limits.max_dead_letter_bytes, limits.max_header_bytes)
            letter = dead_letters.dead_letter(record, why, *most)
            self._produce(producer, self._topics.dead_letters, letter.value, letter.key, letter.headers)

    def _headers(self, offset: int, records: Records, form: Format = "msgpack") -> list[tuple[str, bytes | None]]:
        record = records.get((self._topics.queries, offset))
        return codec.outgoing_headers(record.headers if record is not None else (), form)

    def _on_error(self, error: KafkaError) -> None:
        self._suspicious = True


def _records(inputs: Iterable[Input]) -> Records:
    """The records by topic and offset: an effect names the record that it follows from in this way."""
    found = [record for each in inputs for record in (each.record, each.retried) if record is not None]
    return {(record.topic, record.offset): record for record in found}


def _bare(inputs: Iterable[Input]) -> set[tuple[str, int]]:
    """The records whose dead letters carry none of their bytes, by topic and offset."""
    return {(each.record.topic, each.record.offset) for each in inputs if each.is_bare and each.record is not None}
