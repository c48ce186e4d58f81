"""From records to events: decode, embed, search. Everything about a batch that does not depend on the lane's state.

Runs in the search threads, off the event loop, while the batch before commits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from worker.contract import codec, rejections, token_costs
from worker.contract.errors import RejectRecord
from worker.contract.messages import Completion, Query
from worker.contract.record import Record
from worker.contract.settings import Settings
from worker.core.ceilings import ceilings_micros
from worker.core.events import Arrived, Completed, Event, Refused
from worker.estimation.embedder import Embedder
from worker.estimation.estimator import Estimator
from worker.kafka.recall import Recall
from worker.service.metrics import Metrics, Unpriced

log = structlog.get_logger()

T = TypeVar("T")
Decoded = Query | RejectRecord


@dataclass(frozen=True)
class Prepared:
    """Events in the order of their records, and all records they speak of: also queries read again for a retry."""

    events: list[Event]
    records: list[Record]


@dataclass(frozen=True)
class Intake:
    """Shared by all lanes of a process; keeps nothing between batches but what it has warned of. `embedder` None:
    queries bring embeddings.

    `searching` is held while the index is searched: it bounds how many threads do that at once.
    """

    settings: Settings
    estimator: Estimator
    embedder: Embedder | None
    recall: Recall
    metrics: Metrics
    searching: AbstractContextManager[object] = field(default_factory=nullcontext)
    _warned: set[tuple[str, str]] = field(default_factory=set)

    def now_ms(self) -> int:
        """The time that events carry into the core."""
        return time.time_ns() // 1_000_000

    def prepare(self, records: Sequence[Record], is_open: Callable[[str], bool]) -> Prepared:
        """Events of records of one topic and partition. `is_open` tells which failed dispatches may be tried again.

        Raises CheckBroker if a query that is to be tried again cannot be read.
        """
        started = time.monotonic()
        if records[0].topic == self.settings.topics.queries:
            prepared = Prepared([*self._arrivals(records)], list(records))
        else:
            prepared = self._completions(records, is_open)
        self.metrics.searched(time.monotonic() - started)
        return prepared

    # Queries

    def _arrivals(self, records: Sequence[Record]) -> list[Arrived | Refused]:
        at_ms = self.now_ms()
        decoded = [_attempt(self._query, record) for record in records]
        queries, embeddings = self._embedded(decoded)
        estimates = self._estimates(queries, embeddings)
        return [
            Refused("queries", record.offset, at_ms, str(query), query.code)
            if isinstance(query, RejectRecord)
            else _arrived(record, query, next(estimates), at_ms)
            for record, query in zip(records, queries, strict=True)
        ]

    def _query(self, record: Record) -> Query:
        limits = self.settings.limits
        query = codec.decode_query(record.value, limits.max_query_bytes, limits.max_nesting)
        codec.check_headers(record, limits.max_header_bytes)
        return query

    def _embedded(self, decoded: Sequence[Decoded]) -> tuple[list[Decoded], NDArray[np.float32]]:
        """The queries with those refused that cannot be embedded, and the embeddings [n, dimension] of the others."""
        queries = [query for query in decoded if isinstance(query, Query)]
        embeddings, problems = codec.embedding_rows(queries, self.estimator.manifest.dimension)
        bare = [row for row, query in enumerate(queries) if query.embedding is None]
        if bare:
            texts = [codec.query_text(queries[row]) for row in bare]
            embeddings[bare], text_problems = self._embedded_texts(texts)
            for row, problem in zip(bare, text_problems, strict=True):
                problems[row] = problem
        checked = iter([problem or query for query, problem in zip(queries, problems, strict=True)])
        merged = [next(checked) if isinstance(query, Query) else query for query in decoded]
        return merged, embeddings[[problem is None for problem in problems]]

    def _embedded_texts(self, texts: Sequence[str | None]) -> tuple[NDArray[np.float32], Sequence[RejectRecord | None]]:
        if self.embedder is None:
            zeros = np.zeros((len(texts), self.estimator.manifest.dimension), np.float32)
            return zeros, [rejections.NO_EMBEDDING] * len(texts)
        embeddings, problems = self.embedder.embed([text or "" for text in texts])
        return embeddings, [
            problem if text else rejections.NO_TEXT for text, problem in zip(texts, problems, strict=True)
        ]

    def _estimates(
        self, queries: Sequence[Decoded], embeddings: NDArray[np.float32]
    ) -> Iterator[tuple[list[float], list[int]]]:
        usable = [query for query in queries if isinstance(query, Query)]
        if not usable:
            return iter(())
        tokens = np.array([codec.input_tokens(query, codec.query_text(query)) for query in usable])
        with self.searching:
            nearest = self.estimator.search(embeddings)
        self.metrics.similar(nearest[0][:, 0])
        estimates = self.estimator.predict(embeddings, tokens, nearest)
        prices = [self.settings.llms[llm].price_list for llm in self.estimator.manifest.llms]
        costs = np.minimum(estimates.cost_micros, ceilings_micros(usable, prices)).astype(np.int64)
        return zip(estimates.quality.tolist(), costs.tolist(), strict=True)

    # Completions

    def _completions(self, records: Sequence[Record], is_open: Callable[[str], bool]) -> Prepared:
        limits, at_ms = self.settings.limits, self.now_ms()
        decoded = [
            _attempt(self._completion, record, limits.max_completion_bytes, limits.max_nesting) for record in records
        ]
        failed = [
            completion.dispatch_id
            for completion in decoded
            if isinstance(completion, Completion) and completion.status == "error" and is_open(completion.dispatch_id)
        ]
        origins = {dispatch_id: int(dispatch_id.split("-")[1]) for dispatch_id in failed}
        again = self.recall.fetch(records[0].partition, origins.values()) if origins else {}
        retries = {event.offset: event for event in self._arrivals(list(again.values())) if isinstance(event, Arrived)}
        events: list[Event] = []
        for record, completion in zip(records, decoded, strict=True):
            done: Completed | RejectRecord
            if isinstance(completion, Completion):
                retry = retries.get(origins.get(completion.dispatch_id, -1))
                done = _attempt(self._completed, record, completion, at_ms, retry)
            else:
                done = completion
            events.append(_refused(record, done, at_ms) if isinstance(done, RejectRecord) else done)
        return Prepared(events, [*records, *again.values()])

    def _completion(self, record: Record, max_bytes: int, max_nesting: int) -> Completion:
        completion = codec.decode_completion(record.value, max_bytes, max_nesting, self.settings.limits.max_cost_micros)
        if completion.origin_partition != record.partition:
            raise rejections.wrong_partition(completion, record.partition)
        return completion

    def _completed(self, record: Record, completion: Completion, at_ms: int, retry: Arrived | None) -> Completed:
        cost_micros, basis = self._cost(completion)
        return Completed(
            offset=record.offset,
            at_ms=at_ms,
            dispatch_id=completion.dispatch_id,
            llm=completion.llm,
            ok=completion.status == "ok",
            cost_micros=cost_micros,
            basis=basis,
            quality=completion.quality,
            error=completion.error,
            retry=retry,
        )

    def _cost(self, completion: Completion) -> tuple[int | None, Literal["cost", "usage", "none"]]:
        if completion.cost_micros is not None:
            return completion.cost_micros, "cost"
        llm = self.settings.llms.get(completion.llm)
        if completion.usage is None or llm is None:
            return None, "none"
        if llm.price_list is None:
            return self._unpriced(completion.llm, "no_price_list", "llms.<name>.input_usd_per_mtok is not set")
        cost = token_costs.cost_micros(completion.usage, llm.price_list)
        if not isinstance(cost, int):
            return self._unpriced(completion.llm, "unknown_usage", cost.reason)
        if cost > self.settings.limits.max_cost_micros:
            raise rejections.too_dear(cost)
        return cost, "usage"

    def _unpriced(self, llm: str, reason: Unpriced, why: str) -> tuple[None, Literal["none"]]:
        self.metrics.unpriced(llm, reason)
        if (llm, reason) not in self._warned:
            self._warned.add((llm, reason))
            log.warning("usage_not_priced", llm=llm, reason=reason, why=why, remedy="its answers settle as reserved")
        return None, "none"


def _attempt(work: Callable[..., T], *arguments: object) -> T | RejectRecord:
    try:
        return work(*arguments)
    except RejectRecord as problem:
        return problem


def _arrived(record: Record, query: Query, estimate: tuple[list[float], list[int]], at_ms: int) -> Arrived:
    return Arrived(
        offset=record.offset,
        at_ms=at_ms,
        query_id=query.id or f"{record.partition}-{record.offset}",
        quality=estimate[0],
        cost_micros=estimate[1],
        deadline_ms=query.deadline_ms,
        query=codec.query_payload(record.value, query),
    )


def _refused(record: Record, problem: RejectRecord, at_ms: int) -> Refused:
    return Refused("completions", record.offset, at_ms, str(problem), problem.code)
