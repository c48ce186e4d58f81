"""An explanation tells one query's way, with every LLM's standing at the time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from tests.drive import LLMS, NOT_A_QUERY, Drive, QueryChanges, completion, config, query
from tests.topics import decided
from tests.unit.test_verify import story
from worker.audit.explain import Attempt, Explanation, Search
from worker.contract import sentences
from worker.contract.decisions import Checkpoint, Decision, Routed
from worker.core.events import Reconfigured, Refused


def explained(decisions: Sequence[Decision], query_id: str) -> list[Explanation]:
    search = Search(query_id, 0)
    for record in decided(decisions):
        search.feed(record)
    return search.found()


def attempts(drive: Drive, query_id: str) -> list[Attempt]:
    """Those of a query whose id came once."""
    [found] = explained(drive.decisions, query_id)
    return found.attempts


def verdicts(attempt: Attempt) -> dict[str, str]:
    return {candidate.llm: candidate.verdict for candidate in attempt.candidates}


def test_every_attempt_is_told_with_its_candidates_and_its_end() -> None:
    """The LLM that failed is passed over in the second attempt, which is then settled."""
    drive = Drive().run([query(0, quality=[0.9, 0.8, 0.0]), query(1)])
    first = drive.dispatches[0].llm
    second = {"large": "medium", "medium": "large"}[first]
    again = query(0, at_ms=500, quality=[0.9, 0.8, 0.0])
    failed = completion(0, "0-0-1", first, ok=False, stated_micros=None, cost="zero", error="busy", retry=again)
    drive.run([failed, completion(1, "0-0-2", second, stated_micros=150)])
    told = [
        (attempt.decision.attempt, verdicts(attempt), attempt.closed.outcome if attempt.closed is not None else None)
        for attempt in attempts(drive, "q0")
    ]
    assert told == [
        (1, {first: "chosen", second: "outscored", "small": "too dear"}, "released"),
        (2, {first: "failed", second: "chosen", "small": "too dear"}, "settled"),
    ]


def test_a_score_is_quality_less_what_is_paid_to_the_budgets() -> None:
    """And what must be held is the cost times the margin, rounded up; best scores come first."""
    drive = Drive(config(margins=(1.5, 1.5, 1.5))).run([query(0, cost_micros=[601, 200, 20])])
    [attempt] = attempts(drive, "q0")
    large = next(candidate for candidate in attempt.candidates if candidate.llm == "large")
    [draw] = large.draws
    assert draw.price is not None
    assert (large.score, draw.reserve) == (large.quality - draw.price * 601, 902)
    assert attempt.candidates == sorted(attempt.candidates, key=lambda candidate: -candidate.score)


def test_nothing_is_told_of_a_query_that_was_never_decided() -> None:
    """No explanation rather than an empty one."""
    assert explained(Drive().run([query(0)]).decisions, "q7") == []


# Who could reserve


def test_the_accounts_are_those_just_before_the_decision() -> None:
    """What each LLM had left beside what it would have had to hold, chosen or not."""
    drive = Drive().run([query(offset) for offset in range(9)])
    left = {llm: drive.router.view.budgets[llm].available for llm in LLMS}
    drive.commit([query(9, cost_micros=[10**6, 100, 100])])
    [attempt] = attempts(drive, "q9")
    told = {c.llm: (c.draws[0].left, c.draws[0].reserve, c.affordable) for c in attempt.candidates}
    assert told == {
        "large": (left["large"], 1_200_000, False),
        "medium": (left["medium"], 120, True),
        "small": (left["small"], 120, True),
    }


@pytest.mark.parametrize("policy", ["priced", "port"])
@pytest.mark.parametrize("start", [0, 2], ids=["whole", "shortened"])
def test_who_was_chosen_could_reserve_and_who_was_skipped_could_not(policy: str, start: int) -> None:
    """In every decision of a story, also from the first checkpoint of a topic that has lost its beginning; what is
    before that checkpoint is not known."""
    budgets = {"large": 4_000, "medium": 2_000, "small": 300}
    decisions = Drive(config(policy=policy, budget_micros=budgets)).run(story()[:28]).decisions
    first = next(number for number, decision in enumerate(decisions) if isinstance(decision, Checkpoint))
    wrong = {
        (candidate.affordable, attempt.offset + start < first)
        for query_id in {decision.query_id for decision in decisions if isinstance(decision, Routed)}
        for found in explained(decisions[start:], query_id)
        for attempt in found.attempts
        for candidate in attempt.candidates
        if candidate.verdict in ("chosen", "drawn", "no budget")
        if candidate.affordable is not (candidate.verdict != "no budget")
    }
    assert wrong - ({(None, True)} if start else set()) == set()


# In words

RICH = config(budget_micros=dict.fromkeys(LLMS, 10**9), horizon_queries=60)
POOR = config(budget_micros=dict.fromkeys(LLMS, 0), horizon_queries=60)
OBSERVING = "the policy was still observing"
WORTHLESS: QueryChanges = {"quality": [0.0, 0.0, 0.0]}


def of_reason(drive: Drive, reason: str) -> Attempt:
    """The first attempt decided for this reason."""
    found = [d for d in drive.decisions if isinstance(d, Routed) and d.reason == reason]
    return attempts(drive, found[0].query_id)[0]


def test_a_draw_is_called_a_draw() -> None:
    """Scores have no say in it: the others were not outscored."""
    drive = Drive(replace(RICH, policy="port", observe_share=1.0)).run([query(offset) for offset in range(20)])
    drawn, none = of_reason(drive, "observing"), of_reason(drive, "priced_out")
    others = dict.fromkeys(LLMS, "not drawn")
    assert (drawn.why, verdicts(drawn)) == (
        f"{drawn.decision.llm} was drawn at random: {OBSERVING}",
        {**others, str(drawn.decision.llm): "drawn"},
    )
    assert (none.why, verdicts(none)) == (
        f"deferred: the random draw named no LLM to try: {OBSERVING}",
        others,
    )


def test_a_draw_to_explore_is_told_with_its_chance() -> None:
    """The others were not drawn, whatever their score."""
    drive = Drive(config(exploration_share=0.5)).run([query(offset) for offset in range(30)])
    found = of_reason(drive, "exploring")
    chance = found.decision.probabilities[str(found.decision.llm)]
    assert found.why == f"{found.decision.llm} was drawn at random, to explore: its chance was {chance:.2%}"
    assert sorted(verdicts(found).values()) == ["drawn", "not drawn", "not drawn"]


def test_a_draw_that_cannot_reserve_is_told_apart() -> None:
    """It had no budget; the others were not drawn."""
    drive = Drive(replace(POOR, policy="port", observe_share=1.0)).run([query(offset) for offset in range(9)])
    attempt = of_reason(drive, "exhausted")
    [skipped] = attempt.decision.skipped
    assert (attempt.why, verdicts(attempt)) == (
        f"deferred: {skipped} could not reserve (too little left of {skipped}), drawn at random while {OBSERVING}",
        {**dict.fromkeys(LLMS, "not drawn"), skipped: "no budget"},
    )


def test_port_asks_the_best_score_alone() -> None:
    """Also below 0: others are outscored, never too dear."""
    drive = Drive(replace(RICH, policy="port", observe_share=0.0)).run([query(0), query(1, quality=[0.2, 0.0, 0.1])])
    [attempt] = attempts(drive, "q1")
    assert (attempt.why, verdicts(attempt)) == (
        "large had the best score",
        {"large": "chosen", "medium": "outscored", "small": "outscored"},
    )


DEFERRED = {
    "priced out": (query(1, **WORTHLESS), "no LLM was worth the price of its budget", "too dear"),
    "late": (query(1, deadline_ms=1), "its deadline had passed", "not asked"),
    "a duplicate": (query(1, query_id="q0"), "another dispatch of this query id was open", "not asked"),
}


@pytest.mark.parametrize("case", DEFERRED)
def test_a_deferral_says_why(case: str) -> None:
    """And no LLM is said to have lost where none was asked."""
    late, why, verdict = DEFERRED[case]
    attempt = explained(Drive().run([query(0), late]).decisions, late.query_id)[-1].attempts[0]
    assert (attempt.why, set(verdicts(attempt).values())) == (f"deferred: {why}", {verdict})


def test_without_any_budget_the_best_could_not_reserve() -> None:
    """Those worth their price are named, best first."""
    drive = Drive(POOR).run([query(0, quality=[0.9, 0.8, 0.7], cost_micros=[1, 1, 1])])
    [attempt] = attempts(drive, "q0")
    names = ", ".join(attempt.decision.skipped)
    short = f"too little left of {names}"
    assert attempt.why == f"deferred: {names} could not reserve ({short}), and no other LLM was worth its price"


# Which query, and under which configuration


def test_each_query_that_came_under_an_id_is_told() -> None:
    """With attempts and an end of its own."""
    drive = Drive().run([query(0, query_id="same"), completion(0, "0-0-1", "large"), query(1)])
    sent = drive.dispatches[0]
    drive.run([completion(1, sent.id, sent.llm), query(2, query_id="same")])
    told = [
        (found.query_offset, [attempt.closed is not None for attempt in found.attempts])
        for found in explained(drive.decisions, "same")
    ]
    assert told == [(0, [True]), (2, [False])]


def test_a_dead_letter_is_named_with_its_reason() -> None:
    """By partition and offset, for an id was never read."""
    drive = Drive().run([query(0), Refused("queries", 1, 200, NOT_A_QUERY)])
    assert explained(drive.decisions, "0-1") == [Explanation("0-1", 0, 1, refused=sentences.reason(NOT_A_QUERY))]


def test_the_index_is_the_one_in_force_at_the_decision() -> None:
    """Whatever came into force since."""
    drive = Drive().run([query(0), Reconfigured(100, config(index="new")), query(1)])
    assert [attempts(drive, query_id)[0].index for query_id in ("q0", "q1")] == ["index", "new"]


def test_a_configuration_that_left_the_topic_is_taken_from_what_follows() -> None:
    """The candidates are there, and it is said where they come from."""
    decisions = Drive(config(checkpoint_every=6)).run([query(offset) for offset in range(9)]).decisions
    [found] = explained(decisions[2:], "q0")
    [attempt] = found.attempts
    assert {c.llm for c in attempt.candidates} == set(LLMS)
    assert {c.affordable for c in attempt.candidates} == {None}
    assert attempt.index == "index"
    assert attempt.note is not None
    assert ("configuration of then has left" in attempt.note, "accounts of then have left" in attempt.note) == (
        True,
        True,
    )


def test_without_any_configuration_it_says_so() -> None:
    """No table of nameless LLMs."""
    [found] = explained([d for d in Drive().run([query(0)]).decisions if isinstance(d, Routed)], "q0")
    [attempt] = found.attempts
    assert attempt.candidates == []
    assert attempt.index is None
    assert "no configuration is left" in (attempt.note or "")
