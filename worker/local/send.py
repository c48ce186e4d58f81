"""Sends one query and follows what becomes of it, for a person who tries a system out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, TypeGuard

from confluent_kafka import KafkaError, Producer
from msgspec import Struct

from worker.contract import codec
from worker.contract.errors import CheckBroker
from worker.contract.messages import Closed, Decision, Origin, Query, Rejected, Routed
from worker.contract.settings import Settings
from worker.core.outbox import CONFIGURATION_KEY
from worker.kafka import clients

PRODUCE_SECONDS = 15.0
LOOK_SECONDS = 0.05


class Candidate(Struct, frozen=True):
    """One LLM in a decision: its estimates, `paid` = price x cost in quality, and score = quality - paid."""

    llm: str
    quality: float
    cost_micros: int
    paid: float
    score: float


class Reply(Struct, frozen=True):
    """What became of a query in the time given: `decision` and `rejected` None if nothing was decided."""

    origin: Origin
    decision: Routed | None
    candidates: list[Candidate]
    rejected: str | None
    closed: list[Closed]


def send(settings: Settings, query: Query, wait_seconds: float) -> Reply:
    """Produce `query`, wait for its decision, and then as long again for its answer. Raises CheckBroker."""
    ends = [clients.end_offset(settings, settings.topics.decisions, p) for p in range(settings.kafka.partitions)]
    origin = _produce(settings, query)
    follow = _Follow(settings, origin, ends[origin.partition])
    first = follow.until(lambda one: isinstance(one, Routed | Rejected) and one.offset == origin.offset, wait_seconds)
    if not isinstance(first, Routed):
        return Reply(origin, None, [], first.reason if isinstance(first, Rejected) else None, [])
    closed: list[Closed] = []
    if first.llm is not None:
        follow.until(lambda one: _is_answer(one, origin) and one.outcome != "released", wait_seconds)
        closed = [one for one in follow.seen if _is_answer(one, origin)]
    return Reply(origin, first, candidates(_llms(settings, origin.partition), first), None, closed)


def _is_answer(decision: Decision, origin: Origin) -> TypeGuard[Closed]:
    attempts = f"{origin.partition}-{origin.offset}-"
    return isinstance(decision, Closed) and decision.dispatch_id.startswith(attempts)


def candidates(llms: tuple[str, ...], routed: Routed) -> list[Candidate]:
    """The LLMs of a decision with their scores, in the order of the configuration."""
    rows = zip(llms, routed.quality, routed.cost_micros, routed.prices, strict=True)
    return [Candidate(llm, quality, cost, price * cost, quality - price * cost) for llm, quality, cost, price in rows]


def _produce(settings: Settings, query: Query) -> Origin:
    producer = Producer(clients.producer_config(settings))
    delivered: list[Any] = []
    producer.produce(
        settings.topics.queries,
        codec.encode(query),
        headers=codec.CONTENT_TYPE,
        on_delivery=lambda error, message: delivered.append(error or Origin(message.partition(), message.offset())),
    )
    producer.flush(PRODUCE_SECONDS)
    if not delivered or isinstance(delivered[0], KafkaError):
        raise CheckBroker(f"the query was not taken: {delivered[0] if delivered else 'no answer'}")
    origin: Origin = delivered[0]
    return origin


def _llms(settings: Settings, partition: int) -> tuple[str, ...]:
    rows = clients.read_partition(settings, settings.topics.ledger, partition)
    last = [row.value for row in rows if row.key == CONFIGURATION_KEY.encode() and row.value is not None][-1]
    return codec.decode_configuration(last).llms


class _Follow:
    """The decisions of the query's partition, each read once; `seen` holds them."""

    def __init__(self, settings: Settings, origin: Origin, start: int) -> None:
        self._settings = settings
        self._origin = origin
        self._next = start
        self.seen: list[Decision] = []

    def until(self, wanted: Any, seconds: float) -> Decision | None:
        """The first decision that is `wanted`, waiting for it; None after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            for decision in self._new():
                self.seen.append(decision)
            found = next((decision for decision in self.seen if wanted(decision)), None)
            if found is not None or time.monotonic() > end:
                return found
            time.sleep(LOOK_SECONDS)

    def _new(self) -> Iterator[Decision]:
        topic = self._settings.topics.decisions
        for record in clients.read_partition(self._settings, topic, self._origin.partition, self._next):
            self._next = record.offset + 1
            if record.value is not None:
                yield codec.decode_decision(record.value)
