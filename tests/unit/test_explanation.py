"""An explanation tells one query's way, with every LLM's standing at the time."""

from __future__ import annotations

from tests.drive import Drive, completion, config, query
from worker.explanation import Explanation, Search


def explained(drive: Drive, query_id: str) -> Explanation | None:
    search = Search(query_id, 0)
    for offset, decision in enumerate(drive.decisions):
        search.feed(offset, decision)
    return search.found()


def test_every_attempt_is_told_with_its_candidates_and_its_end() -> None:
    """The LLM that failed is passed over in the second attempt, which is then settled."""
    drive = Drive().run([query(0, quality=[0.9, 0.8, 0.0]), query(1)])
    first = drive.dispatches[0].llm
    second = {"large": "medium", "medium": "large"}[first]
    again = query(0, at_ms=500, quality=[0.9, 0.8, 0.0])
    failed = completion(0, "0-0-1", first, ok=False, cost_micros=None, basis="none", error="busy", retry=again)
    drive.run([failed, completion(1, "0-0-2", second, cost_micros=150)])
    found = explained(drive, "q0")
    assert found is not None
    told = [
        (
            attempt.decision.attempt,
            {candidate.llm: candidate.verdict for candidate in attempt.candidates},
            attempt.closed.outcome if attempt.closed is not None else None,
        )
        for attempt in found.attempts
    ]
    assert told == [
        (1, {first: "chosen", second: "outscored", "small": "too dear"}, "released"),
        (2, {first: "failed before", second: "chosen", "small": "too dear"}, "settled"),
    ]


def test_a_score_is_quality_less_price_times_cost() -> None:
    """And what must be held is the cost times the margin, rounded up; best scores come first."""
    drive = Drive(config(margins=(1.5, 1.5, 1.5))).run([query(0, cost_micros=[601, 200, 20])])
    found = explained(drive, "q0")
    assert found is not None
    [attempt] = found.attempts
    large = next(candidate for candidate in attempt.candidates if candidate.llm == "large")
    assert (large.score, large.reserve_micros) == (large.quality - large.price * 601, 902)
    assert attempt.candidates == sorted(attempt.candidates, key=lambda candidate: -candidate.score)


def test_a_deferral_says_why() -> None:
    """What no LLM is worth is priced out."""
    found = explained(Drive().run([query(0, quality=[0.0, 0.0, 0.0])]), "q0")
    assert found is not None
    assert [attempt.why for attempt in found.attempts] == ["deferred: no LLM was worth the price of its budget"]


def test_nothing_is_told_of_a_query_that_was_never_decided() -> None:
    """No explanation rather than an empty one."""
    assert explained(Drive().run([query(0)]), "q7") is None
