"""A lane in memory and the calls of its dispatches: real intake, router, committer and HTTP calls, without a Kafka.

What the inference worker publishes is what `tollgate infer` publishes, and `verify` proves the topics at the end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import numpy as np

from worker.audit.topics import PartitionTopics
from worker.audit.verify import Verified, verify
from worker.contract import codec
from worker.contract.answers import Unavailable
from worker.contract.decisions import Closed, Decision, Routed
from worker.contract.messages import Dispatch
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.core.lane_view import LaneView
from worker.core.partition_config import configuration
from worker.core.router import Prior
from worker.estimation.estimator import Estimator
from worker.estimation.history import History, normalised
from worker.inference.answerers import LlmAnswerer
from worker.inference.published import Outgoing, records_of
from worker.kafka.clock import SYSTEM_CLOCK
from worker.kafka.memory import Log, MemoryProducer, MemoryReader
from worker.service.committer import Kafka, open_committer
from worker.service.home import opening_events
from worker.service.intake import Input, Intake
from worker.service.metrics import Metrics
from worker.service.prepare import Preparer

DIMENSION = 8


def past(quality: dict[str, float], cost_micros: float, rows: int = 60) -> History:
    """History in which each LLM is always as good as said, and every answer costs the same."""
    draw = np.random.default_rng(0)
    embeddings = draw.normal(size=(rows, DIMENSION)).astype(np.float32)
    return History(
        ids=[str(row) for row in range(rows)],
        llms=tuple(quality),
        embeddings=normalised(embeddings),
        quality=np.tile([*quality.values()], (rows, 1)) + draw.normal(scale=0.01, size=(rows, 1)),
        cost_micros=np.full((rows, len(quality)), cost_micros),
        input_tokens=np.full(rows, 12.0),
        categories=["x"] * rows,
    )


class LaneOfCalls:
    """Partition 0 of a system, whose LLMs `answerer` calls. Everything runs on the caller's event loop."""

    def __init__(self, settings: Settings, estimator: Estimator, answerer: LlmAnswerer) -> None:
        self.log = Log()
        self._settings, self._answerer = settings, answerer
        self._taken: dict[str, int] = {}
        reader, prices = MemoryReader(self.log), settings.price_lists(datetime.now(UTC))
        preparer = Preparer(settings, estimator, None, prices, nullcontext())
        self._intake = Intake(settings, preparer, reader, Metrics())
        kafka = Kafka(reader, lambda options: MemoryProducer(self.log, options, SYSTEM_CLOCK.now_ms))
        prior = Prior(estimator.prior.quality, estimator.prior.cost_micros.astype(float))
        self._committer = open_committer(0, settings, prior, Metrics(), kafka)
        config = configuration(settings, estimator.manifest, 0, prices)
        first = opening_events(reader, settings, self._committer.view, config, SYSTEM_CLOCK.now_ms())
        self._committer.commit([Input(event) for event in first])

    @property
    def view(self) -> LaneView:
        """The lane's state."""
        return self._committer.view

    def ask(self, body: dict[str, Any], **fields: Any) -> None:
        """A query with such a request, and other fields, arrives and is decided."""
        query = {"embedding": [1.0] * DIMENSION, "body": body, **fields}
        self._append(Outgoing(self._settings.topics.queries, 0, "", json.dumps(query).encode(), ()))
        self._take(self._settings.topics.queries)

    async def call_all(self) -> None:
        """Call the LLMs of all dispatches, and of those that follow from their ends, until none is left to call."""
        while dispatches := self._dispatched():
            for record, dispatch in dispatches:
                await self._call(record, dispatch)

    async def call_all_after_silence(self) -> None:
        """Wait until the time that a dispatch may go without an answer is over; then as `call_all`."""
        for one in [one for one in self.view.open.values() if one.may_retry]:
            while (now_ms := SYSTEM_CLOCK.now_ms()) < one.unanswered_at_ms:
                await asyncio.sleep((one.unanswered_at_ms - now_ms) / 1_000)
            self._committer.commit(self._intake.unanswered(0, [one], now_ms))
        await self.call_all()

    def decided(self) -> list[Decision]:
        """Every decision."""
        return [codec.decode_decision(record.value or b"") for record in self._read(self._settings.topics.decisions)]

    def path(self) -> list[str | None]:
        """The LLM of each decision about a query; None for a deferral."""
        return [one.llm for one in self.decided() if isinstance(one, Routed)]

    def closed(self) -> list[Closed]:
        """How each dispatch ended, in order."""
        return [one for one in self.decided() if isinstance(one, Closed)]

    def answers(self) -> int:
        """How many answers were published."""
        return len(self._read(self._settings.topics.answers))

    def proof(self) -> Verified:
        """What `verify` says of the topics."""
        topics = PartitionTopics(MemoryReader(self.log), 0)
        return verify(0, self._settings.topics, list(self._settings.llms), topics)

    async def _call(self, record: StoredRecord, dispatch: Dispatch) -> None:
        answered = await self._answerer.answer(dispatch)
        if answered.leaves is None:
            records = records_of(dispatch, record, answered, self._settings, (), SYSTEM_CLOCK.now_ms())
        else:
            value = codec.encode(Unavailable(dispatch.llm, answered.leaves, "a worker"))
            records = [Outgoing(self._settings.topics.completions, 0, dispatch.llm, value, codec.CONTENT_TYPE)]
        for one in records:
            self._append(one)
        self._take(self._settings.topics.completions)

    def _dispatched(self) -> list[tuple[StoredRecord, Dispatch]]:
        """The dispatches that were not called yet."""
        topics = [self._settings.topics.dispatch(llm) for llm in self._settings.llms]
        records = [record for topic in topics for record in self._new(topic)]
        return [(record, codec.decode_dispatch(record.value or b"")) for record in records]

    def _take(self, topic: str) -> None:
        """Decide on what came in."""
        self._committer.commit(self._intake.prepare(self._new(topic), self._committer.may_retry))

    def _new(self, topic: str) -> Sequence[StoredRecord]:
        records = self._read(topic, self._taken.get(topic, 0))
        if records:
            self._taken[topic] = records[-1].offset + 1
        return records

    def _read(self, topic: str, start: int = 0) -> list[StoredRecord]:
        return list(self.log.read((topic, 0), start))

    def _append(self, one: Outgoing) -> None:
        key = one.key.encode() or None
        self.log.append((one.topic, 0), key, one.value, tuple(one.headers), SYSTEM_CLOCK.now_ms())
