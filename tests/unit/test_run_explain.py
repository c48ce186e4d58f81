"""Explanations find their query and its neighbours in topics and index, or say why they cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.drive import NOT_A_QUERY, Drive, config, query
from tests.topics import Shelf, record
from worker.audit.explain import Explanation
from worker.audit.run_explain import find, with_neighbours
from worker.contract import codec
from worker.contract.errors import CheckFailed
from worker.contract.messages import Query
from worker.contract.record import StoredRecord
from worker.contract.settings import IndexSettings, KafkaSettings, LlmSettings, Settings
from worker.core.events import Refused
from worker.estimation import index
from worker.estimation.history import History, normalised
from worker.kafka.reader import silent

LLMS = ("large", "medium", "small")
ROWS = 60
SHELF = Shelf()
Put = Callable[[Iterable[StoredRecord]], None]


@pytest.fixture(scope="module")
def past() -> History:
    """Made-up rows."""
    dice = np.random.default_rng(0)
    return History(
        ids=[f"row-{row}" for row in range(ROWS)],
        llms=LLMS,
        embeddings=normalised(dice.normal(size=(ROWS, 8)).astype(np.float32)),
        quality=dice.random((ROWS, len(LLMS))),
        cost_micros=dice.uniform(10, 1_000, (ROWS, len(LLMS))),
        input_tokens=np.full(ROWS, 100.0),
        categories=["any"] * ROWS,
    )


@pytest.fixture(scope="module")
def settings(past: History, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """With the index of that history, in which embeddings are supplied."""
    directory = tmp_path_factory.mktemp("index") / "index"
    index.build(past, directory, "supplied", neighbours=8)
    llms = dict.fromkeys(LLMS, LlmSettings(budget_usd=Decimal(1)))
    return Settings(llms=llms, index=IndexSettings(directory=directory), kafka=KafkaSettings(partitions=1))


@pytest.fixture
def asked(settings: Settings) -> str:
    """The hash of the index."""
    return index.load(settings.index.directory).manifest.index


@pytest.fixture
def topics() -> Put:
    """Puts records where the reader reads."""
    SHELF.records.clear()
    return SHELF.records.extend


def decided(drive: Drive) -> list[StoredRecord]:
    return [record("decisions", offset, None, codec.encode(d)) for offset, d in enumerate(drive.decisions)]


def came(past: History, offset: int, row: int) -> StoredRecord:
    """A query like a row of history."""
    return record("queries", offset, None, codec.encode(Query(embedding=past.embeddings[row].tobytes())))


def test_the_nearest_row_is_the_query_itself(past: History, settings: Settings, asked: str, topics: Put) -> None:
    """Two queries under one id have neighbours of their own."""
    drive = Drive(config(index=asked)).run([query(0, query_id="same"), query(1, query_id="same")])
    topics([*decided(drive), came(past, 0, row=7), came(past, 1, row=20)])
    found = with_neighbours(settings, find(settings, "same", silent, SHELF), 3, SHELF)
    told = [(one.query_offset, one.neighbours[0][0], len(one.neighbours), one.neighbours_unknown) for one in found]
    assert told == [(0, "row-7", 3, None), (1, "row-20", 3, None)]


def why(settings: Settings, query_id: str) -> str | None:
    """Why the neighbours of a query cannot be told."""
    [found] = with_neighbours(settings, find(settings, query_id, silent, SHELF), 3, SHELF)
    assert found.neighbours == []
    return found.neighbours_unknown


def test_another_index_has_other_neighbours(past: History, settings: Settings, topics: Put) -> None:
    """Nothing is told by an index that nobody asked."""
    topics([*decided(Drive(config(index="older")).run([query(0)])), came(past, 0, row=7)])
    assert why(settings, "q0") == f"the index in {settings.index.directory} is not the one that was asked then (older)"


def test_a_query_that_left_its_topic_has_no_neighbours(settings: Settings, asked: str, topics: Put) -> None:
    """Only its decisions are left."""
    topics(decided(Drive(config(index=asked)).run([query(0)])))
    assert why(settings, "q0") == "the query has left its topic"


def test_a_query_without_an_embedding_cannot_be_placed(settings: Settings, asked: str, topics: Put) -> None:
    """This index has no embedder of its own."""
    bare = record("queries", 0, None, codec.encode(Query(text="how?")))
    topics([*decided(Drive(config(index=asked)).run([query(0)])), bare])
    assert why(settings, "q0") == "the index was built on supplied embeddings: send an embedding"


def test_a_dead_letter_has_no_neighbours(settings: Settings, asked: str, topics: Put) -> None:
    """Nothing was estimated."""
    topics(decided(Drive(config(index=asked)).run([Refused("queries", 0, 0, NOT_A_QUERY)])))
    assert why(settings, "0-0") == "a dead letter is not estimated"


def test_without_an_index_the_rest_is_told(settings: Settings, topics: Put, tmp_path: Path) -> None:
    """The explanation stands; why it has no neighbours stands with it."""
    topics(decided(Drive().run([query(0)])))
    elsewhere = settings.model_copy(update={"index": IndexSettings(directory=tmp_path / "nowhere")})
    assert "nowhere" in (why(elsewhere, "q0") or "")


def test_a_record_that_is_no_decision_is_named(settings: Settings, topics: Put) -> None:
    """With its place."""
    topics([record("decisions", 3, None, b"\xc1")])
    with pytest.raises(CheckFailed, match="decisions/0 offset 3"):
        find(settings, "q0", silent, SHELF)


def test_the_json_says_all(past: History, settings: Settings, asked: str, topics: Put) -> None:
    """Why it went where it went, its neighbours, and who could reserve."""
    topics([*decided(Drive(config(index=asked)).run([query(0)])), came(past, 0, row=7)])
    found = with_neighbours(settings, find(settings, "q0", silent, SHELF), 1, SHELF)
    [told] = msgspec.json.decode(msgspec.json.encode(found))
    [attempt] = told["attempts"]
    assert told["neighbours"][0][0] == "row-7"
    assert "best score" in attempt["why"]
    assert attempt["candidates"][0]["affordable"]
    assert msgspec.convert(told, Explanation).query_id == "q0"
