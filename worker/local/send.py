"""Sends one query and follows it to its answer, for a person who tries a system out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from confluent_kafka import KafkaError, Producer
from msgspec import Struct
from msgspec.structs import replace

from worker.contract import codec, sentences
from worker.contract.answers import Answer
from worker.contract.decisions import Cause, Closed, Decision, Rejected, Routed
from worker.contract.dispatch_id import DispatchId
from worker.contract.errors import CheckBroker
from worker.contract.messages import Origin, Query
from worker.contract.settings import Settings
from worker.core.outbox import CONFIGURATION_KEY
from worker.kafka import clients
from worker.kafka.clock import poll_until
from worker.kafka.reader import KafkaReader, OpenReader, Place, Reader, silent

PRODUCE_SECONDS = 15.0
LOOK_SECONDS = 0.05

MissingCause = Literal["no_worker", "not_decided", "no_completion", "other_partition", "not_applied", "rejected"]


class ScoredLlm(Struct, frozen=True):
    """One LLM in a decision: its estimates, `paid` = price x cost in quality, and score = quality - paid."""

    llm: str
    quality: float
    cost_micros: float
    paid: float
    score: float


class Missing(Struct, frozen=True):
    """Why a decision or an answer did not come in time, as far as the topics tell.

    `no_worker`: the consumer group has no member. `not_decided`: it has. `no_completion`: no inference worker has
    answered. `other_partition`: the completion went to partition `detail` instead of the query's. `not_applied`: the
    completion waits for a worker. `rejected`: the completion is a dead letter; `detail` says why.
    """

    cause: MissingCause
    detail: str = ""


class SendResult(Struct, frozen=True):
    """What was decided about a query and answered in the time given.

    `attempts` are the decisions about it, the first with the `candidates`; none if it was `rejected`. `closed` are the
    ends of its dispatches. `missing` says why nothing was decided, or why a dispatch is still open. `answer` is what
    the LLM answered, if its inference worker publishes answers.
    """

    origin: Origin
    attempts: list[Routed]
    candidates: list[ScoredLlm]
    rejected: str | None
    closed: list[Closed]
    missing: Missing | None = None
    answer: Answer | None = None

    @property
    def open(self) -> Routed | None:
        """The attempt whose dispatch is not answered yet; None if there is none."""
        ended = {closed.dispatch_id for closed in self.closed}
        routed = (one for one in self.attempts if one.llm is not None)
        return next((one for one in routed if dispatch_id(self.origin, one) not in ended), None)


def send(settings: Settings, query: Query, wait_seconds: float, open_reader: OpenReader = KafkaReader) -> SendResult:
    """Produce `query`, wait for its decision, and then as long again for its answer. Raises CheckBroker."""
    admin = clients.admin_client(settings)
    topics, partitions = settings.topics, range(settings.kafka.partitions)
    with open_reader(settings, silent) as reader:
        decisions = reader.ends((topics.decisions, partition) for partition in partitions)
        completions = reader.ends((topics.completions, partition) for partition in partitions)
        answers = reader.ends((topics.answers, partition) for partition in partitions)
        origin = _produce(settings, query)
        follow = _Follow(settings, reader, origin, decisions[topics.decisions, origin.partition])
        if not follow.until(lambda reply: bool(reply.attempts or reply.rejected is not None), wait_seconds):
            has_workers = clients.has_members(admin, settings.kafka.group)
            return follow.reply(Missing("not_decided" if has_workers else "no_worker"))
        if not follow.until(lambda reply: reply.open is None, wait_seconds):
            return follow.reply(_unanswered(reader, follow, completions))
        reply = follow.reply()
        return replace(reply, answer=_answer(reader, topics.answers, reply, answers[topics.answers, origin.partition]))


def _answer(reader: Reader, topic: str, reply: SendResult, start: int) -> Answer | None:
    """The answer of the dispatch that settled; it is there when its completion is."""
    settled = {closed.dispatch_id for closed in reply.closed}
    for record in reader.read_partition(topic, reply.origin.partition, start):
        answer = codec.decode_answer(record.value or b"")
        if answer.dispatch_id in settled:
            return answer
    return None


def dispatch_id(origin: Origin, routed: Routed) -> str:
    """The id of the dispatch that an attempt published."""
    return str(DispatchId(origin.partition, origin.offset, routed.attempt))


def candidates(llms: tuple[str, ...], routed: Routed) -> list[ScoredLlm]:
    """The LLMs of a decision with their scores, in the order of the configuration."""
    rows = zip(llms, routed.quality, routed.cost_micros, routed.charges, strict=True)
    return [ScoredLlm(llm, quality, cost, charge, quality - charge) for llm, quality, cost, charge in rows]


def _produce(settings: Settings, query: Query) -> Origin:
    producer = Producer(clients.producer_config(settings))
    delivered: list[Origin | KafkaError] = []
    clients.produce(
        producer,
        settings.topics.queries,
        codec.encode(query),
        query.id,
        headers=codec.CONTENT_TYPE,
        on_delivery=lambda error, message: delivered.append(error or Origin(*clients.place_of(message))),
    )
    producer.flush(PRODUCE_SECONDS)
    if not delivered or isinstance(delivered[0], KafkaError):
        reason = delivered[0] if delivered else "no answer"
        raise CheckBroker(f"{settings.topics.queries}: the broker did not accept the query: {reason}")
    return delivered[0]


def _unanswered(reader: Reader, follow: _Follow, starts: Mapping[Place, int]) -> Missing:
    """Looks for the completion of the open dispatch in every partition, from `starts` on."""
    opened = follow.reply().open
    assert opened is not None, "only an open dispatch is unanswered"
    origin, id_ = follow.origin, dispatch_id(follow.origin, opened)
    # An id in a completion that cannot be decoded is found too.
    named = re.compile(rb"(?<![0-9-])%s(?![0-9])" % id_.encode())
    for (topic, partition), start in starts.items():
        for record in reader.read_partition(topic, partition, start):
            if named.search(record.value or b"") is None:
                continue
            if partition != origin.partition:
                return Missing("other_partition", str(partition))
            rejection = follow.rejection(Cause("completions", record.offset))
            return Missing("not_applied") if rejection is None else Missing("rejected", rejection)
    return Missing("no_completion")


def _llms(settings: Settings, reader: Reader, partition: int) -> tuple[str, ...]:
    rows = reader.read_partition(settings.topics.ledger, partition)
    last = [row.value for row in rows if row.key == CONFIGURATION_KEY.encode() and row.value is not None][-1]
    return codec.decode_configuration(last).llms


class _Follow:
    """The decisions of the query's partition, each read once; `seen` holds them."""

    def __init__(self, settings: Settings, reader: Reader, origin: Origin, start: int) -> None:
        self.origin = origin
        self.seen: list[Decision] = []
        self._settings, self._reader = settings, reader
        self._next = start
        self._candidates: list[ScoredLlm] | None = None

    def until(self, wanted: Callable[[SendResult], bool], seconds: float) -> bool:
        """Read until the reply is as `wanted`. False if it is not after `seconds`."""

        def look() -> bool:
            self.seen.extend(self._new())
            return wanted(self.reply())

        return poll_until(look, seconds, LOOK_SECONDS)

    def reply(self, missing: Missing | None = None) -> SendResult:
        """What was decided about the query so far."""
        origin = self.origin
        attempts = [one for one in self.seen if isinstance(one, Routed) and one.offset == origin.offset]
        return SendResult(
            origin=origin,
            attempts=attempts,
            candidates=self._of(attempts[0]) if attempts else [],
            rejected=self.rejection(Cause("queries", origin.offset)),
            closed=[one for one in self.seen if isinstance(one, Closed) and _is_of(one, origin)],
            missing=missing,
        )

    def rejection(self, cause: Cause) -> str | None:
        """Why a record is a dead letter, in words; None if it is not one so far."""
        found = [one for one in self.seen if isinstance(one, Rejected) and one.cause == cause]
        return sentences.reason(found[0]) if found else None

    def _of(self, routed: Routed) -> list[ScoredLlm]:
        if self._candidates is None:
            self._candidates = candidates(_llms(self._settings, self._reader, self.origin.partition), routed)
        return self._candidates

    def _new(self) -> Iterator[Decision]:
        topic = self._settings.topics.decisions
        for record in self._reader.read_partition(topic, self.origin.partition, self._next):
            self._next = record.offset + 1
            if record.value is not None:
                yield codec.decode_decision(record.value)


def _is_of(closed: Closed, origin: Origin) -> bool:
    """Whether this dispatch was one of the query."""
    parsed = DispatchId.parse(closed.dispatch_id)
    return parsed is not None and (parsed.partition, parsed.offset) == (origin.partition, origin.offset)
