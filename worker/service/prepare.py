"""Decodes, embeds and estimates queries. No metrics, retries or clock: workers, replays, what-if and explain share it.

Each query is estimated alone: the others in its batch do not change its estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.contract import codec, rejections
from worker.contract.asks import asks_of
from worker.contract.codes import Rejection
from worker.contract.extras import tags_of
from worker.contract.messages import Query
from worker.contract.record import Record
from worker.contract.rejections import Limits, read_query
from worker.contract.requests import known_tokens, question
from worker.contract.settings import Settings
from worker.contract.token_costs import PriceList
from worker.core.events import Arrived, Refused
from worker.estimation.bounds import asked, bounded
from worker.estimation.embedder import SUPPLIED, Embedder, load_embedder
from worker.estimation.estimator import COST_STEPS, Estimator
from worker.estimation.manifest import Manifest


class Estimate(NamedTuple):
    """One query's quality in [0, 1] and cost with each LLM, its similarity to the nearest past query, and its input
    tokens (nan: not known)."""

    quality: list[float]
    cost_micros: list[float]
    similarity: float
    input_tokens: float


@dataclass(slots=True)
class Row:
    """One query record. Each step fills in a field or sets `problem`; a row with a problem goes no further.

    `embedding` is float32 [dimension], L2-normalised.
    """

    record: Record
    query: Query | None = None
    problem: Rejection | None = None
    embedding: NDArray[np.float32] | None = None
    estimate: Estimate | None = None


@dataclass(frozen=True)
class Preparer:
    """Prepares queries with one index. `embedder` is None if queries must bring embeddings. `prices` are the price
    lists in force, by LLM.

    `searching` is held while the index is searched: it limits how many threads search at once.
    """

    settings: Settings
    estimator: Estimator
    embedder: Embedder | None
    prices: Mapping[str, PriceList] = field(default_factory=dict)
    searching: AbstractContextManager[object] = field(default_factory=nullcontext)

    @classmethod
    def load(cls, settings: Settings, estimator: Estimator, prices: Mapping[str, PriceList]) -> Preparer:
        """A preparer with the embedder that the index was built with. Raises FixSetting."""
        return cls(settings, estimator, load_embedder(estimator.manifest.embedder), prices)

    def prepare(self, records: Iterable[Record]) -> list[Row]:
        """One row for each record, in order: estimated, or with a problem."""
        rows = self.embed(records)
        self._estimate(_usable(rows))
        return rows

    def embed(self, records: Iterable[Record]) -> list[Row]:
        """One row for each record, in order: embedded, or with a problem."""
        rows = [Row(record) for record in records]
        for row in rows:
            self._decode(row)
        self._take_embeddings(_usable(rows))
        self._embed_texts([row for row in _usable(rows) if _query(row).embedding is None])
        return rows

    def _decode(self, row: Row) -> None:
        query = read_query(row.record, Limits.of_queries(self.settings.limits))
        if isinstance(query, Rejection):
            row.problem = query
        else:
            row.query = query

    def _take_embeddings(self, rows: Sequence[Row]) -> None:
        queries, manifest = [_query(row) for row in rows], self.estimator.manifest
        embeddings, problems = codec.embedding_rows(
            queries, manifest.dimension, self.settings.index.embedding_dtype, _embedder_named(manifest)
        )
        for row, embedding, problem in zip(rows, embeddings, problems, strict=True):
            row.embedding, row.problem = embedding, problem

    def _embed_texts(self, rows: Sequence[Row]) -> None:
        for row in rows:
            text = question(_query(row))
            if self.embedder is None:
                row.problem = rejections.NO_EMBEDDING
            elif text is None:
                row.problem = rejections.NO_TEXT
            else:
                embeddings, problems = self.embedder.embed([text])
                row.embedding, row.problem = embeddings[0], problems[0]

    def _estimate(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        queries = [_query(row) for row in rows]
        embeddings = np.array([row.embedding for row in rows], np.float32)
        said = asked(queries)
        with self.searching:
            nearest = self.estimator.search(embeddings)
        estimates = self.estimator.predict(embeddings, said.input_tokens, nearest)
        prices = [self.prices.get(llm) for llm in self.estimator.manifest.llms]
        costs = np.ceil(bounded(estimates.cost_micros, said, prices) * COST_STEPS) / COST_STEPS
        columns = (estimates.quality.tolist(), costs.tolist(), nearest[0][:, 0].tolist(), said.input_tokens.tolist())
        for row, *estimated in zip(rows, *columns, strict=True):
            row.estimate = Estimate(*estimated)


def event(row: Row, at_ms: int) -> Arrived | Refused:
    """What a prepared row means to the router."""
    record = row.record
    if row.problem is not None:
        return Refused("queries", record.offset, at_ms, row.problem)
    query = _query(row)
    assert row.estimate is not None, "a row without a problem is estimated"
    return Arrived(
        offset=record.offset,
        at_ms=at_ms,
        query_id=query.id or f"{record.partition}-{record.offset}",
        quality=row.estimate.quality,
        cost_micros=row.estimate.cost_micros,
        deadline_ms=query.deadline_ms,
        query=codec.query_payload(record.value, query),
        asks=asks_of(query, row.estimate.input_tokens),
        tags=tags_of(query),
        input_tokens=known_tokens(row.estimate.input_tokens),
    )


def _embedder_named(manifest: Manifest) -> str | None:
    """The embedder that the index was built with; None where embeddings were supplied by a model that it does not
    name."""
    return None if manifest.embedder == SUPPLIED else manifest.embedder


def _usable(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.problem is None]


def _query(row: Row) -> Query:
    assert row.query is not None, "a row without a problem is decoded"
    return row.query
