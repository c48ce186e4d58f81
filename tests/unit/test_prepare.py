"""Preparing queries: one row for each record, and a problem stops only its own row."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from worker.contract.record import StoredRecord
from worker.contract.settings import LlmSettings, Settings
from worker.core.events import Arrived, Refused
from worker.service.prepare import Preparer, Row, event

DIMENSION = 3
LLMS = ("large", "small")


class Index:
    """Estimates that show which embedding was estimated; `searched` counts the rows of each search."""

    def __init__(self) -> None:
        self.manifest = SimpleNamespace(dimension=DIMENSION, llms=LLMS, embedder="supplied")
        self.searched: list[int] = []

    def search(self, embeddings: Any) -> Any:
        self.searched.append(len(embeddings))
        return embeddings[:, :1], None

    def predict(self, embeddings: Any, input_tokens: Any, nearest: Any) -> Any:
        return SimpleNamespace(quality=embeddings[:, :2].astype(float), cost_micros=np.full((len(embeddings), 2), 7))


def prepare(*values: bytes) -> tuple[list[Row], Index]:
    """The rows of these record values, and the index that was searched."""
    index: Any = Index()
    settings = Settings(llms=dict.fromkeys(LLMS, LlmSettings(budget_usd=Decimal(1))))
    records = [StoredRecord("queries", 2, 10 + n, 0, None, value, ()) for n, value in enumerate(values)]
    return Preparer(settings, index, None).prepare(records), index


def embedding(*numbers: float) -> bytes:
    """A query that brings this embedding."""
    return msgspec.msgpack.encode({"embedding": list(numbers)})


def test_a_problem_stops_only_its_own_row() -> None:
    """Unreadable bytes and a zero embedding are refused; the query between them is estimated, in one search."""
    rows, index = prepare(b"\xc1", embedding(3, 0, 4), embedding(0, 0, 0))
    assert [row.problem and row.problem.code for row in rows] == ["format", None, "embedding_zero"]
    assert rows[1].estimate is not None
    assert rows[1].estimate.quality == pytest.approx([0.6, 0.0]), "the embedding is normalised before the search"
    assert index.searched == [1], "only rows without a problem are searched"


def test_nothing_usable_searches_nothing() -> None:
    """A batch of unreadable records costs no search."""
    _, index = prepare(b"\xc1", b"")
    assert index.searched == []


def test_a_row_becomes_one_event() -> None:
    """An estimated row arrives at the time given; a row with a problem is refused with its code."""
    rows, _ = prepare(embedding(1, 0, 0), b"\xc1")
    arrived, refused = (event(row, 77) for row in rows)
    assert isinstance(arrived, Arrived)
    assert arrived.query_id == "2-10", "a query without an id is named by its partition and offset"
    assert arrived.at_ms == 77
    assert isinstance(refused, Refused)
    assert refused.rejection.code == "format"
