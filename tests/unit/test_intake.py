"""Records become events: each one exactly one, in order, and none depends on the others of its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest

from worker.contract.completions import UsableCompletion
from worker.contract.record import StoredRecord
from worker.contract.settings import LlmSettings, Settings
from worker.contract.usage import Usage
from worker.core.events import Arrived, Completed, Refused
from worker.estimation import demo_data, index
from worker.estimation.embedder import Embedder, WordLlamaEmbedder
from worker.estimation.history import History
from worker.kafka.memory import Log, MemoryReader
from worker.service.intake import Intake
from worker.service.metrics import Metrics
from worker.service.prepare import Preparer

ROWS = 300


class Shelf(MemoryReader):
    """Queries that can be read again, without a broker; `asked` are the offsets that were asked for."""

    def __init__(self, records: Iterable[StoredRecord] = ()) -> None:
        log = Log()
        log.load(records)
        super().__init__(log)
        self.asked: list[int] = []

    def fetch_offsets(self, topic: str, partition: int, offsets: Iterable[int]) -> dict[int, StoredRecord]:
        wanted = list(offsets)
        self.asked += wanted
        return super().fetch_offsets(topic, partition, wanted)


@pytest.fixture(scope="module")
def history() -> History:
    """A part of the demo's data: 300 questions, 3 LLMs."""
    return demo_data.load().rows(np.arange(ROWS)).columns([0, 1, 2])


@pytest.fixture(scope="module")
def make(history: History, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Intake]:
    """Intakes on one small index of that history."""
    directory = tmp_path_factory.mktemp("index") / "index"
    index.build(history, directory, "wordllama", neighbours=16)
    estimator, embedder = index.load(directory), WordLlamaEmbedder.load()

    def made(shelf: Shelf | None = None, embedder: Embedder | None = embedder, **llm: Any) -> Intake:
        llms = {name: LlmSettings(budget_usd=Decimal(1), **llm) for name in history.llms}
        settings = Settings(llms=llms)
        prices = settings.price_lists(datetime(2026, 11, 25, tzinfo=UTC))
        return Intake(settings, Preparer(settings, estimator, embedder, prices), shelf or Shelf(), Metrics())

    return made


def record(offset: int, topic: str = "queries", **fields: Any) -> StoredRecord:
    """A record of partition 3."""
    return StoredRecord(topic, 3, offset, 1_000, b"key", msgpack.packb(fields), ())


def events(intake: Intake, records: list[StoredRecord], open_ids: Iterable[str] = ()) -> list[Any]:
    """The events of one batch, without the time."""
    inputs = intake.prepare(records, set(open_ids).__contains__)
    return [msgspec.structs.replace(event, at_ms=0) for event, *_ in inputs]


def code(event: Any) -> str | None:
    """Why a record was refused; None for one that was not."""
    return event.rejection.code if isinstance(event, Refused) else None


def mixed(history: History) -> list[StoredRecord]:
    """Good and bad queries, one behind the other."""
    embedding = history.embeddings[0].astype("<f4").tobytes()
    return [
        record(10, text="Which planet is the largest?"),
        record(11, txt="misspelt"),
        record(12, embedding=embedding, id="mine", deadline_ms=10**12),
        StoredRecord("queries", 3, 13, 1_000, None, b"\xc1", ()),
        record(14, embedding=bytes(1024)),
        record(15, embedding=b"\x00"),
        record(16),
        record(17, text=""),
        record(18, body={"messages": [{"role": "user", "content": "Which planet is the largest?"}]}),
        record(19, embedding=history.embeddings[1].tobytes(), text="never embedded"),
    ]


def test_every_query_becomes_one_event(make: Callable[..., Intake], history: History) -> None:
    """In the order of the records; what cannot be used says why, and the good ones around it arrive."""
    got = events(make(), mixed(history))
    assert [(event.offset, code(event) or event.query_id) for event in got] == [
        (10, "3-10"),
        (11, "unknown_field"),
        (12, "mine"),
        (13, "format"),
        (14, "embedding_zero"),
        (15, "embedding_dimension"),
        (16, "no_text"),
        (17, "no_text"),
        (18, "3-18"),
        (19, "3-19"),
    ]


def test_a_query_alone_is_as_in_a_batch(make: Callable[..., Intake], history: History) -> None:
    """Bit for bit: estimates, id, deadline and the bytes that are passed on."""
    intake, records = make(), mixed(history)
    assert [event for one in records for event in events(intake, [one])] == events(intake, records)


def test_a_chat_request_is_estimated_by_its_last_user_message(make: Callable[..., Intake], history: History) -> None:
    """`body` and `text` of the same words are the same query."""
    got = events(make(), mixed(history))
    assert (got[8].quality, got[8].cost_micros) == (got[0].quality, got[0].cost_micros)


def test_an_index_of_supplied_embeddings_refuses_text(make: Callable[..., Intake], history: History) -> None:
    """There is nothing to embed it with; embeddings are routed all the same."""
    got = events(make(embedder=None), mixed(history)[:3])
    assert [code(event) for event in got] == ["no_embedding", "unknown_field", None]


CAPS = [
    ("no price list", {}, {"input_tokens": 1, "max_output_tokens": 1}, False),
    (
        "counts and prices",
        {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2},
        {"input_tokens": 4, "max_output_tokens": 3},
        True,
    ),
    ("no maximum", {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}, {"input_tokens": 4}, False),
]


@pytest.mark.parametrize(("prices", "counts", "capped"), [c[1:] for c in CAPS], ids=[c[0] for c in CAPS])
def test_a_query_cannot_cost_more_than_its_own_counts(
    make: Callable[..., Intake], prices: dict[str, int], counts: dict[str, int], capped: bool
) -> None:
    """4 tokens at 1 and 3 at 2 micro-dollars cost 10 at most, where both counts and a price list are known."""
    (got,) = events(make(**prices), [record(1, "queries", text="Why?", **counts)])
    assert all(cost <= 10 for cost in got.cost_micros) is capped


# Completions

DONE = {"dispatch_id": "3-1-1", "origin_partition": 3, "llm": "x", "status": "ok"}
ANSWERS: list[tuple[str, dict[str, Any], UsableCompletion]] = [
    ("a cost", {"cost_micros": 7}, UsableCompletion("3-1-1", "x", stated_micros=7)),
    (
        "usage",
        {"usage": {"prompt_tokens": 5, "completion_tokens": 3}},
        UsableCompletion("3-1-1", "x", usage=Usage(5, 3)),
    ),
    ("a negative cost", {"cost_micros": -1}, UsableCompletion("3-1-1", "x", remarks=("cost_negative", "usage_absent"))),
    (
        "an unknown field",
        {"cost_micros": 7, "a": 1},
        UsableCompletion("3-1-1", "x", stated_micros=7, remarks=("unknown_field",)),
    ),
    (
        "another partition",
        {"cost_micros": 7, "origin_partition": 2},
        UsableCompletion("3-1-1", "x", stated_micros=7, remarks=("partition",)),
    ),
]


@pytest.mark.parametrize(("fields", "answer"), [c[1:] for c in ANSWERS], ids=[c[0] for c in ANSWERS])
def test_a_completion_becomes_an_answer(
    make: Callable[..., Intake], fields: dict[str, Any], answer: UsableCompletion
) -> None:
    """Whatever else is wrong with it, a completion that names its dispatch is an answer."""
    (got,) = events(make(), [record(1, "completions", **{**DONE, **fields})])
    assert got.answer == answer


REFUSED = [
    ("a dispatch of another partition", {"dispatch_id": "2-1-1"}, "partition"),
    ("no dispatch", {"dispatch_id": None}, "dispatch_id"),
    ("an id that no lane makes", {"dispatch_id": "x"}, "dispatch_id"),
]


@pytest.mark.parametrize(("fields", "expected"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_completion_is_refused_and_the_next_is_read(
    make: Callable[..., Intake], fields: dict[str, Any], expected: str
) -> None:
    """A completion that nobody can use settles nothing and stops nothing."""
    got = events(make(), [record(1, "completions", **{**DONE, **fields}), record(2, "completions", **DONE)])
    assert [code(event) for event in got] == [expected, None]


RETRIES = [
    ("an open dispatch failed", "error", ["3-10-1"], [10], True),
    ("its query has left the topic", "error", ["3-99-1"], [99], False),
    ("nothing is open", "error", [], [], False),
    ("all went well", "ok", ["3-10-1"], [], False),
]


@pytest.mark.parametrize(
    ("status", "open_ids", "asked", "found"), [c[1:] for c in RETRIES], ids=[c[0] for c in RETRIES]
)
def test_a_failed_dispatch_brings_its_query_again(
    make: Callable[..., Intake], history: History, status: str, open_ids: list[str], asked: list[int], found: bool
) -> None:
    """A query is read again only for an error of an open dispatch, and is then estimated as it was."""
    query = record(10, text="Which planet is the largest?")
    shelf = Shelf([query])
    dispatch_id = open_ids[0] if open_ids else "3-10-1"
    completion = {**DONE, "dispatch_id": dispatch_id, "llm": history.llms[0], "status": status}
    [done] = make(shelf).prepare([record(5, "completions", **completion)], set(open_ids).__contains__)
    (arrived,) = events(make(), [query])
    completed = done.event
    assert isinstance(completed, Completed)
    retry = completed.retry and msgspec.structs.replace(completed.retry, at_ms=0)
    assert (shelf.asked, retry) == (asked, arrived if found else None)


def test_an_input_brings_its_records(make: Callable[..., Intake], history: History) -> None:
    """Its own, and that of the query which is dispatched once more: the committer needs the headers of that."""
    query = record(10, text="Which planet is the largest?")
    failed = record(5, "completions", **{**DONE, "dispatch_id": "3-10-1", "status": "error"})
    [done] = make(Shelf([query])).prepare([failed], {"3-10-1"}.__contains__)
    assert done.record is failed, "an input brings the record that it was made from"
    assert done.retried is query, "a failed dispatch brings the record of its query"


def test_estimates_are_of_the_index(make: Callable[..., Intake], history: History) -> None:
    """One quality in [0, 1] and one cost for each LLM."""
    (got,) = [event for event in events(make(), mixed(history)[:1]) if isinstance(event, Arrived)]
    sound = [0 <= quality <= 1 and cost >= 0 for quality, cost in zip(got.quality, got.cost_micros, strict=True)]
    assert sound == [True] * len(history.llms)
