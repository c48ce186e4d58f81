"""What-if over topics: where it begins, what it estimates by, and what it says of that."""

from __future__ import annotations

import io
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from tests.drive import LLMS, CompletionChanges, Drive, QueryChanges, completion, config, query
from tests.topics import Shelf, record
from worker.audit.run_what_if import CAVEAT, Comparison, what_if
from worker.audit.what_if import Change
from worker.commands.what_if import show
from worker.contract import codec
from worker.contract.decisions import Checkpoint, Configured, Decision
from worker.contract.errors import CheckFailed
from worker.contract.messages import Query
from worker.contract.settings import IndexSettings, KafkaSettings, LlmSettings, Settings
from worker.estimation import index
from worker.estimation.history import History, normalised
from worker.kafka.reader import silent

ROWS, QUERIES = 60, 12


def history(quality: Sequence[float]) -> History:
    """Rows of which each LLM always answered with this quality."""
    return History(
        ids=[f"row-{row}" for row in range(ROWS)],
        llms=LLMS,
        embeddings=normalised(np.random.default_rng(0).normal(size=(ROWS, 8)).astype(np.float32)),
        quality=np.tile(quality, (ROWS, 1)),
        cost_micros=np.full((ROWS, len(LLMS)), 50.0),
        input_tokens=np.full(ROWS, 100.0),
        categories=["any"] * ROWS,
    )


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Indexes of two histories: `large` is best in one and worst in the other."""
    place = tmp_path_factory.mktemp("indexes")
    for name, quality in {"first": (0.9, 0.5, 0.1), "other": (0.1, 0.5, 0.3)}.items():
        index.build(history(quality), place / name, "supplied", neighbours=8)
    return {name: place / name for name in ("first", "other")}


@pytest.fixture
def shelf() -> Shelf:
    """The topics: queries like rows of history, and nothing decided yet."""
    made = Shelf()
    for offset, embedding in enumerate(history((1, 1, 1)).embeddings[:QUERIES]):
        made.records.append(record("queries", offset, None, codec.encode(Query(embedding=embedding.tobytes()))))
    return made


def decisions() -> list[Decision]:
    """Queries that were answered, but for the first: it failed, and is open at another LLM."""
    drive, answers = Drive(config(horizon_queries=1_000)), 0
    for offset in range(QUERIES):
        given: QueryChanges = {"quality": [0.9, 0.5, 0.1], "cost_micros": [50, 50, 50]}
        for sent in drive.commit([query(offset, **given)]).dispatches:
            again = query(offset, **given)
            fields: CompletionChanges = {"at_ms": offset * 100}
            if offset == 0:
                fields |= {"ok": False, "stated_micros": None, "cost": "zero", "retry": again}
            drive.commit([completion(answers, sent.id, sent.llm, **fields)])
            answers += 1
    return drive.decisions


def compare(
    shelf: Shelf, directories: dict[str, Path], decided: Sequence[Decision], name: str | None = None, first: int = 0
) -> Comparison:
    """Played at no price, by another index if it is named; `first` is the offset of the first decision."""
    for offset, decision in enumerate(decided):
        shelf.records.append(record("decisions", first + offset, None, codec.encode(decision)))
    settings = Settings(
        llms=dict.fromkeys(LLMS, LlmSettings(budget_usd=Decimal(1))),
        index=IndexSettings(directory=directories["first"]),
        kafka=KafkaSettings(partitions=1),
    )
    return what_if(settings, Change(prices={}), {}, None if name is None else directories[name], silent, shelf)


def test_another_index_chooses_by_its_own_estimates(shelf: Shelf, directories: dict[str, Path]) -> None:
    """Queries are read again and estimated by it; what failed and is tried again too."""
    compared = compare(shelf, directories, decisions(), "other")
    sent = {llm: served.dispatched for llm, served in compared.other.llms.items()}
    assert (sent, compared.notes) == ({"medium": QUERIES}, [CAVEAT])


def test_queries_that_left_their_topic_keep_their_estimates(shelf: Shelf, directories: dict[str, Path]) -> None:
    """And are counted."""
    del shelf.records[:5]
    compared = compare(shelf, directories, decisions(), "other")
    assert compared.notes == [CAVEAT, "5 queries have left their topic and keep the estimates that they had"]


def test_decisions_without_their_beginning_begin_at_a_checkpoint(shelf: Shelf, directories: dict[str, Path]) -> None:
    """And it is said."""
    compared = compare(shelf, directories, decisions()[3:], first=3)
    notes = [note.partition(":")[0] for note in compared.notes[1:]]
    assert (0 < compared.queries < QUERIES, notes[0]) == (True, "decisions/0")


def test_without_a_checkpoint_nothing_can_be_compared(shelf: Shelf, directories: dict[str, Path]) -> None:
    """It is an error, not an empty comparison."""
    kept = [decision for decision in decisions() if not isinstance(decision, Checkpoint | Configured)]
    with pytest.raises(CheckFailed, match="decisions/0: has lost its beginning and holds no checkpoint"):
        compare(shelf, directories, kept, first=3)


@pytest.mark.parametrize("since", [0, 9], ids=["all decisions", "the first decisions"])
def test_decisions_with_other_llms_than_the_index(shelf: Shelf, directories: dict[str, Path], since: int) -> None:
    """If a checkpoint follows them, the comparison begins there and says so; else it is refused."""
    told = decisions()
    last = len(told) if since == 0 else since
    for number, decision in enumerate(told[:last]):
        if isinstance(decision, Configured | Checkpoint) and decision.config is not None:
            others = msgspec.structs.replace(decision.config, llms=("large", "medium", "tiny"))
            told[number] = msgspec.structs.replace(decision, config=others)
    if since == 0:
        with pytest.raises(CheckFailed, match="decisions/0: all decisions were made with other LLMs"):
            compare(shelf, directories, told)
        return
    compared = compare(shelf, directories, told)
    assert 0 < compared.queries < QUERIES
    assert "earlier decisions were made with other LLMs" in compared.notes[1]


def test_nothing_decided_is_nothing_to_compare(shelf: Shelf, directories: dict[str, Path]) -> None:
    """An empty partition is no error."""
    assert compare(shelf, directories, []).queries == 0


ROWS_SHOWN = [
    ["large", "real", "12", "11", "0.0011", "0.900", "11", "1.000"],
    ["what", "if", "0", "0", "0.0000", "-", "0", "-"],
    ["medium", "real", "1", "0", "0.0000", "-", "0", "-"],
    ["what", "if", "12", "12", "0.0006", "0.500", "0", "-"],
]


def test_the_tables_fit_and_tell_true_quality_for_each_llm(shelf: Shelf, directories: dict[str, Path]) -> None:
    """Both sides of an LLM stand below each other; what nobody judged has no quality."""
    written = io.StringIO()
    show(Console(file=written, width=80), compare(shelf, directories, decisions(), "other"))
    said = written.getvalue()
    rows = [line.split() for line in said.splitlines() if "real " in line or "what if " in line]
    assert rows[1:] == ROWS_SHOWN
    assert max(map(len, said.splitlines())) <= 80
