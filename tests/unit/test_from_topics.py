"""History from the topics of a running system: each answer is a cell, with its cost and what was said of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from worker.contract import codec
from worker.contract.decisions import Cause, ChargedAgain, Closed, Decision, Routed
from worker.contract.judgements import Judgement, read_judgement
from worker.contract.record import StoredRecord
from worker.contract.settings import KafkaSettings, Settings
from worker.exports.from_topics import FromTopics, read_topics
from worker.kafka.memory import MemoryBroker

SETTINGS = Settings(kafka=KafkaSettings(partitions=2))
TOPICS = SETTINGS.topics


class System:
    """The topics of a system, written by hand. All queries are in partition 0."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, int], list[StoredRecord]] = {}

    def write(self, topic: str, value: bytes, partition: int = 0, timestamp: int = 0) -> int:
        """One record; returns its offset."""
        place = self._records.setdefault((topic, partition), [])
        place.append(StoredRecord(topic, partition, len(place), timestamp, None, value, ()))
        return len(place) - 1

    def ask(self, text: str | None) -> int:
        """A query."""
        query = {"embedding": [1.0]} if text is None else {"text": text}
        return self.write(TOPICS.queries, msgspec.json.encode(query))

    def route(
        self, offset: int, llm: str, query_id: str, attempt: int = 1, probabilities: dict[str, float] | None = None
    ) -> None:
        """A dispatch of it."""
        cause, likely = Cause("queries", offset), probabilities or {}
        fields = query_id, offset, attempt, [0.5], [1.0], [0.0], llm
        self.decide(Routed(b"", cause, 5, *fields, "best_score", probabilities=likely))

    def close(self, offset: int, attempt: int = 1, **fields: Any) -> None:
        """The end of a dispatch: settled for 200 micro-dollars, unless the fields say another thing."""
        closed: dict[str, Any] = {"outcome": "settled", "spent_micros": 200, "basis": "usage", **fields}
        cause = Cause("completions", 0)
        self.decide(Closed(b"", cause, 9, f"0-{offset}-{attempt}", "", "", reserved_micros=300, **closed))

    def decide(self, decision: Decision) -> None:
        """A decision."""
        self.write(TOPICS.decisions, codec.encode(decision))

    def judge(self, partition: int = 0, timestamp: int = 0, **fields: Any) -> None:
        """A judgement."""
        self.write(TOPICS.judgements, codec.encode(Judgement(**fields)), partition, timestamp)

    def read(self, by: str | None = None) -> FromTopics:
        """History."""
        broker = MemoryBroker()
        broker.log.load(record for records in self._records.values() for record in records)
        return read_topics(SETTINGS, broker.reader(), by=by)


def answered(text: str | None = "One?", llm: str = "big", query_id: str = "q", **fields: Any) -> System:
    """A system with one answer."""
    system = System()
    offset = system.ask(text)
    system.route(offset, llm, query_id)
    system.close(offset, **fields)
    return system


def cells(found: FromTopics) -> list[tuple[str, str | None, str, float | None, float | None]]:
    """Each answer: its query, its prompt, its LLM, its score and its cost in micro-dollars."""
    return [
        (
            one.answer.query_id,
            one.answer.prompt,
            one.llm,
            None if one.score is None else float(one.score),
            None if one.cost_usd is None else float(one.cost_usd * 1_000_000),
        )
        for one in found.results
    ]


JUDGED: list[tuple[str, list[dict[str, Any]], float | None]] = [
    ("nobody", [], None),
    ("of the dispatch", [{"quality": 0.4, "dispatch_id": "0-0-1"}], 0.4),
    ("of the query", [{"quality": 0.4, "query_id": "q"}], 0.4),
    ("of another", [{"quality": 0.4, "dispatch_id": "0-1-1"}], None),
    ("two judges", [{"quality": 0.4, "query_id": "q", "by": "a"}, {"quality": 0.8, "query_id": "q", "by": "b"}], 0.6),
    ("one judge again", [{"quality": 0.4, "query_id": "q"}, {"quality": 0.8, "query_id": "q", "timestamp": 1}], 0.8),
    (
        "again, in another partition",
        [{"quality": 0.8, "query_id": "q", "timestamp": 1}, {"quality": 0.4, "query_id": "q", "partition": 1}],
        0.8,
    ),
]


@pytest.mark.parametrize(("judgements", "score"), [row[1:] for row in JUDGED], ids=[row[0] for row in JUDGED])
def test_a_score_that_came_later(judgements: list[dict[str, Any]], score: float | None) -> None:
    """It is the mean of what the judges say last."""
    system = answered()
    for judgement in judgements:
        system.judge(**judgement)
    assert cells(system.read()) == [("q", "One?", "big", pytest.approx(score) if score else None, 200.0)]


def test_a_score_of_the_completion() -> None:
    """It counts where no judge says another."""
    system = answered(quality=0.3)
    assert cells(system.read())[0][3] == 0.3
    system.judge(quality=0.9, query_id="q")
    assert cells(system.read())[0][3] == 0.9


def test_one_judge() -> None:
    """With `by`, only this judge counts."""
    system = answered()
    system.judge(quality=0.2, query_id="q", by="a")
    system.judge(quality=0.8, query_id="q", by="b")
    assert cells(system.read("b"))[0][3] == 0.8


COSTS = [("usage", 200.0), ("cost", 200.0), ("none", 200.0), ("reservation", None), ("limit", None)]


@pytest.mark.parametrize(("basis", "cost"), COSTS)
def test_a_cost_that_nobody_told_is_unknown(basis: str, cost: float | None) -> None:
    """What was booked as reserved is not what the answer costs."""
    assert cells(answered(basis=basis).read())[0][4] == cost


LEFT: list[tuple[str, dict[str, Any], str]] = [
    ("an error", {"outcome": "released", "error": "overloaded"}, "error"),
    ("an error that cost", {"error": "content_filter"}, "error"),
    ("expired", {"outcome": "expired"}, "error"),
    ("only an embedding", {"text": None}, "no_prompt"),
]


@pytest.mark.parametrize(("fields", "reason"), [row[1:] for row in LEFT], ids=[row[0] for row in LEFT])
def test_what_is_no_answer_is_left_out(fields: dict[str, Any], reason: str) -> None:
    """It is counted, with its reason."""
    found = answered(**fields).read()
    assert (cells(found), found.reasons()) == ([], {reason: 1})


def test_attempts_of_a_query() -> None:
    """The LLM that failed has no cell, the one that answered has; what is said of the query is said of it."""
    system = answered(error="overloaded", outcome="released")
    system.route(0, "small", "q", 2)
    system.close(0, 2)
    system.route(0, "tiny", "other", 3)
    system.judge(quality=1.0, query_id="q")
    found = system.read()
    assert cells(found) == [("q", "One?", "small", 1.0, 200.0)]
    assert found.reasons() == {"error": 1, "unfinished": 1}


def test_the_newest_of_two_answers_of_one_llm() -> None:
    """A query that was sent again under its id has one cell for each LLM."""
    system = answered()
    again = system.ask("One?")
    system.route(again, "big", "q")
    system.close(again, spent_micros=300)
    assert cells(system.read()) == [("q", "One?", "big", None, 300.0)]
    assert system.read().reasons() == {"duplicate": 1}


def test_an_answer_after_the_expiry() -> None:
    """It is an answer, and its cost is what it was charged in the end."""
    system = answered(outcome="expired", spent_micros=0, basis="none")
    cause = Cause("completions", 1)
    system.decide(ChargedAgain(b"", cause, 9, "0-0-1", "q", "big", "late", 250, "usage"))
    assert cells(system.read()) == [("q", "One?", "big", None, 250.0)]


UNUSABLE = [b"", b"[]", b"{}", b'{"quality": 2, "query_id": "q"}', b'{"quality": "good", "query_id": "q"}']


@pytest.mark.parametrize("value", UNUSABLE)
def test_an_unusable_judgement(value: bytes) -> None:
    """It is nobody's score."""
    assert read_judgement(value, 1_000) is None


def test_judgements_that_are_left_out() -> None:
    """An unusable one, and one of an answer that is not there, are counted."""
    system = answered()
    system.write(TOPICS.judgements, b"[]")
    system.judge(quality=1.0, query_id="unknown")
    assert system.read().reasons() == {"judgement_without_row": 1, "unreadable": 1}
