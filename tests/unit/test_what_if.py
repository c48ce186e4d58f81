"""What-if: the same queries under another configuration, beside what really happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Unpack

import msgspec
import pytest

from tests.drive import (
    CRASH,
    LLMS,
    NOT_A_QUERY,
    PRIOR,
    ConfigurationChanges,
    Drive,
    QueryChanges,
    completion,
    config,
    failure,
    query,
)
from tests.topics import decided
from tests.unit.test_verify import story
from worker.audit.outcomes import Served
from worker.audit.propensity import Explored
from worker.audit.what_if import Change, Estimated, WhatIf
from worker.contract.decisions import Checkpoint, Configured, Decision, Routed
from worker.core.events import Arrived, Reconfigured, Refused
from worker.core.router import Prior


def play(drive: Drive, change: Change, estimated: Estimated | None = None) -> WhatIf:
    return play_from(drive.decisions, change, estimated)


def play_from(decisions: Sequence[Decision], change: Change, estimated: Estimated | None = None) -> WhatIf:
    played = WhatIf(0, PRIOR, change, estimated)
    played.run(decided(decisions))
    return played


def answered(policy: str = "priced", queries: int = 40) -> Drive:
    """Queries of which every dispatch is answered at 100 micro-dollars with quality 0.5."""
    drive = Drive(config(policy=policy))
    for offset in range(queries):
        for dispatch in drive.commit([query(offset)]).dispatches:
            drive.commit([completion(offset, dispatch.id, dispatch.llm, at_ms=offset * 100, quality=0.5)])
    return drive


@pytest.mark.parametrize("policy", ["priced", "port"])
def test_without_a_change_it_is_what_happened(policy: str) -> None:
    """Failures, retries, expiries and all: the same dispatches, deferrals, costs and qualities."""
    played = play(Drive(config(policy=policy)).run(story()), Change())
    assert played.other.queries == played.real.queries
    assert played.other.deferred == played.real.deferred
    assert played.other.llms == played.real.llms


def test_smaller_budgets_are_kept() -> None:
    """With a tenth of the money, no LLM spends more than a tenth of its budget."""
    played = play(answered(), Change(budget_factor=0.1))
    budgets = {budget.name: budget.amount for budget in config().budgets}
    assert all(served.cost_micros <= budgets[llm] // 10 for llm, served in played.other.llms.items())
    assert 0 < played.other.total().dispatched < played.real.total().dispatched


@pytest.mark.parametrize("policy", ["priced", "port"])
@pytest.mark.parametrize("llm", LLMS)
def test_an_llm_left_out_is_neither_chosen_nor_drawn(policy: str, llm: str) -> None:
    """The others take over: no query is deferred for want of its budget."""
    played = play(answered(policy), Change(without=(llm,)))
    assert llm not in played.other.llms
    assert played.other.total().dispatched > 0
    assert played.other.deferred["exhausted"] == 0


def test_prices_can_be_fixed() -> None:
    """At prices of nothing the best estimate is taken, at prices beyond all quality none."""
    free = play(answered(queries=5), Change(prices={}))
    dear = play(answered(queries=5), Change(prices=dict.fromkeys(LLMS, 1.0)))
    best = [LLMS[query(offset).quality.index(max(query(offset).quality))] for offset in range(5)]
    assert {llm: served.dispatched for llm, served in free.other.llms.items()} == {
        llm: best.count(llm) for llm in dict.fromkeys(best)
    }
    assert dear.other.deferred == {"priced_out": 5}


def test_an_answer_is_known_only_where_the_same_llm_was_asked() -> None:
    """Elsewhere it costs what was estimated, and nobody has judged it."""
    drive = answered(queries=1)
    [routed] = [decision for decision in drive.decisions if isinstance(decision, Routed)]
    other = play(drive, Change(without=(str(routed.llm),))).other
    [(llm, served)] = other.llms.items()
    assert (served.judged, served.cost_micros) == (0, routed.cost_micros[LLMS.index(llm)])


def test_a_query_that_failed_and_was_tried_again_is_served_once() -> None:
    """Two dispatches, one answer: quality is estimated for the LLM that gave it, on both sides."""
    drive, quality = Drive(), [0.9, 0.8, 0.0]
    [first] = drive.commit([query(0, quality=quality)]).dispatches
    again = query(0, at_ms=500, quality=quality)
    failed = completion(0, first.id, first.llm, ok=False, stated_micros=7, retry=again)
    [second] = drive.commit([failed]).dispatches
    drive.commit([completion(1, second.id, second.llm, quality=0.5)])
    played = play(drive, Change())
    told = {first.llm: Served(1, 0, 7), second.llm: Served(1, 1, 100, quality[LLMS.index(second.llm)], 1, 0.5)}
    assert (played.real.llms, played.other.llms) == (told, told)


def test_completions_that_nobody_can_use_change_nothing() -> None:
    """Answers after them settle on both sides."""
    drive = Drive().run([query(0), query(1), Refused("completions", 7, 200, NOT_A_QUERY)])
    drive.run(completion(8 + number, sent.id, sent.llm) for number, sent in enumerate(drive.dispatches))
    played = play(drive, Change())
    assert (played.other.llms, played.other.total().served) == (played.real.llms, 2)


# Where the decisions have lost their beginning


def test_both_sides_begin_at_the_first_checkpoint_kept() -> None:
    """Without a change both agree from there on; what was dispatched before is in neither."""
    decisions = Drive().run(story()).decisions
    first = next(number for number, decision in enumerate(decisions) if isinstance(decision, Checkpoint))
    played = play_from(decisions[2:], Change())
    later = sum(isinstance(d, Routed) and d.llm is not None for d in decisions[first:])
    assert played.begins == "checkpoint"
    assert played.skipped == first - 2
    assert played.real.total().dispatched == later
    assert (played.other.deferred, played.other.llms) == (played.real.deferred, played.real.llms)


def test_a_checkpoint_that_lost_its_other_parts_is_passed_over() -> None:
    """Also when the next one follows at once."""
    decisions = Drive().run(story()).decisions
    first = next(number for number, decision in enumerate(decisions) if isinstance(decision, Checkpoint))
    torn = msgspec.structs.replace(decisions[first], parts=2)
    played = play_from([torn, *decisions[first:]], Change())
    assert played.begins == "checkpoint"
    assert played.skipped == 1
    assert played.real.llms == play_from(decisions[first:], Change()).real.llms


@pytest.mark.parametrize(
    "change",
    [Change(without=("medium",)), Change(prices={}), Change(policy="port"), Change(budget_factor=0.1)],
    ids=["without", "prices", "policy", "budgets"],
)
def test_a_change_is_in_force_from_the_checkpoint_on(change: Change) -> None:
    """Whatever is changed, the other side is another."""
    played = play_from(answered().decisions[2:], change)
    assert (played.begins, played.other.total() != played.real.total()) == ("checkpoint", True)


def test_without_a_checkpoint_there_is_nowhere_to_begin() -> None:
    """Every record is skipped."""
    decisions = [d for d in answered(queries=5).decisions if not isinstance(d, Checkpoint)][1:]
    played = play_from(decisions, Change())
    assert played.begins == "nowhere"
    assert played.skipped == len(decisions)
    assert played.real.queries == 0


# After an LLM was added or left out


def named(decision: Decision, llms: tuple[str, ...]) -> Decision:
    """The same decision under a configuration of these LLMs."""
    if isinstance(decision, Configured | Checkpoint) and decision.config is not None:
        return msgspec.structs.replace(decision, config=msgspec.structs.replace(decision.config, llms=llms))
    return decision


def with_an_llm_added(before: int) -> list[Decision]:
    """Decisions of which the first `before` were made with other LLMs than the rest."""
    others = ("large", "medium", "tiny")
    return [named(decision, others if n < before else LLMS) for n, decision in enumerate(answered().decisions)]


def test_after_an_llm_was_added_it_begins_at_the_next_checkpoint() -> None:
    """The prior is of the LLMs of now, so the prices before them cannot be reproduced, and those after them can: at
    the same budgets both sides are equal."""
    decisions = with_an_llm_added(20)
    played = WhatIf(0, PRIOR, Change(), llms=LLMS)
    played.run(decided(decisions))
    first = next(n for n, decision in enumerate(decisions) if n >= 20 and isinstance(decision, Checkpoint))
    later = sum(isinstance(decision, Routed) and decision.llm is not None for decision in decisions[first:])
    assert (played.begins, played.skipped + played.other_llms) == ("checkpoint", first)
    assert played.real.total().dispatched == later
    assert (played.other.deferred, played.other.llms) == (played.real.deferred, played.real.llms)


def test_when_the_llms_changed_and_no_checkpoint_followed_there_is_nowhere_to_begin() -> None:
    """Nothing is compared, where the prices of one side would be others'."""
    decisions = [*with_an_llm_added(0), named(answered(queries=1).decisions[0], ("another",))]
    played = WhatIf(0, PRIOR, Change(), llms=LLMS)
    played.run(decided(decisions))
    assert (played.begins, played.other_llms, played.real.queries) == ("nowhere", len(decisions), 0)


def served(drive: Drive, offsets: range, llms: int) -> None:
    """Queries that know so many LLMs; each dispatch is answered at what was estimated."""
    for offset in offsets:
        asked = query(offset)
        given: QueryChanges = {"quality": asked.quality[:llms], "cost_micros": asked.cost_micros[:llms]}
        for dispatch in drive.commit([query(offset, **given)]).dispatches:
            micros = round(asked.cost_micros[LLMS.index(dispatch.llm)])
            drive.commit([completion(offset, dispatch.id, dispatch.llm, at_ms=offset * 100, stated_micros=micros)])


def restarted_with_an_llm_more(policy: str) -> list[Decision]:
    """Decisions of a lane of two LLMs, which was restarted with an index and settings of three."""
    two = config(llms=LLMS[:2], budget_micros={"large": 20_000, "medium": 10_000}, margins=(1.2, 1.2), policy=policy)
    drive = Drive(two, Prior(PRIOR.quality[:, :2], PRIOR.cost_micros[:, :2]))
    served(drive, range(20), 2)
    drive.prior = PRIOR
    drive.run([CRASH, Reconfigured(2_000, config(index="of three", policy=policy))])
    served(drive, range(20, 60), 3)
    return drive.decisions


@pytest.mark.parametrize("policy", ["priced", "port"])
def test_a_restart_with_an_llm_more_is_reproduced_in_money(policy: str) -> None:
    """At budgets times 1, the other side spends what was really spent since the LLM was added, LLM by LLM. (A prior of
    another number of LLMs was dropped, and then 0.77 of 3.57 dollars were spent.)"""
    decisions = restarted_with_an_llm_more(policy)
    played = WhatIf(0, PRIOR, Change(budget_factor=1.0), llms=LLMS)
    played.run(decided(decisions))
    assert played.begins == "checkpoint"
    assert played.real.total().cost_micros > 5_000
    assert played.other.llms == played.real.llms


def test_the_index_of_before_the_restart_is_refused() -> None:
    """With the index of two LLMs, nothing after the restart can be reproduced: there is nowhere to begin."""
    played = WhatIf(0, Prior(PRIOR.quality[:, :2], PRIOR.cost_micros[:, :2]), Change(), llms=LLMS[:2])
    played.run(decided(restarted_with_an_llm_more("priced")))
    assert (played.begins, played.real.queries, played.other.queries) == ("nowhere", 0, 0)


# Another index


def halved(arrived: Arrived) -> Arrived:
    """Estimates of an index that thinks little of `large`."""
    quality = [arrived.quality[0] / 10, *arrived.quality[1:]]
    return msgspec.structs.replace(arrived, quality=quality, cost_micros=[50, 50, 50])


def test_another_index_estimates_every_query() -> None:
    """What it thinks little of, it chooses less; what it sends elsewhere costs what it says."""
    played = play(answered(), Change(prices={}), halved)
    real, other = (side.llms.get("large", Served()).dispatched for side in (played.real, played.other))
    assert real > 0
    assert other == 0
    assert played.other.llms["medium"].dispatched > 0


def test_a_retry_keeps_the_estimates_of_the_other_index() -> None:
    """The query is read once; what is tried next is chosen by the same estimates."""
    drive, quality = Drive(), [0.9, 0.5, 0.6]
    [first] = drive.commit([query(0, quality=quality, cost_micros=[10, 10, 10])]).dispatches
    again = query(0, at_ms=500, quality=quality, cost_micros=[10, 10, 10])
    drive.commit([failure(0, first.id, first.llm, retry=again)])
    swapped = lambda arrived: msgspec.structs.replace(arrived, quality=[0.9, 0.6, 0.5])  # noqa: E731
    played = play(drive, Change(prices={}), swapped)
    assert [(llm, served.dispatched) for llm, served in played.other.llms.items()] == [("large", 1), ("medium", 1)]


# Inverse propensity

TRUE = {"large": 0.9, "medium": 0.5, "small": 0.2}
ALWAYS_MEDIUM = Change(policy="priced", without=("large", "small"), prices={})


def drawn(queries: int = 300, judged: int = 300, **changes: Unpack[ConfigurationChanges]) -> Drive:
    """Queries drawn at random and answered with each LLM's TRUE quality, known for the first `judged` answers."""
    rich: ConfigurationChanges = {"policy": "port", "budget_micros": dict.fromkeys(LLMS, 10**9), "observe_share": 1.0}
    rich["horizon_queries"] = queries
    rich.update(changes)
    drive = Drive(config(**rich))
    answers = 0
    for offset in range(queries):
        for sent in drive.commit([query(offset)]).dispatches:
            quality = TRUE[sent.llm] if answers < judged else None
            drive.commit([completion(answers, sent.id, sent.llm, at_ms=offset * 100, quality=quality)])
            answers += 1
    return drive


def draws(drive: Drive) -> list[str]:
    return [str(d.llm) for d in drive.decisions if isinstance(d, Routed) and d.reason == "observing"]


def test_random_draws_tell_of_another_policy_without_estimates() -> None:
    """The answers of the LLM that it would have chosen stand for all three: near the true quality, not at it."""
    drive = drawn()
    explored, chosen = play(drive, ALWAYS_MEDIUM).exploration.explored, draws(drive)
    weighted = 3 * 0.5 * chosen.count("medium")
    assert msgspec.structs.replace(explored, weighted_quality=0.0) == Explored(len(chosen), len(chosen))
    assert explored.weighted_quality == pytest.approx(weighted)
    assert explored.quality == pytest.approx(0.5, abs=0.1)


def test_answers_that_nobody_judged_count_nowhere() -> None:
    """Neither as quality of nothing nor as queries: the estimate comes from the judged alone."""
    drive = drawn(judged=90)
    explored, chosen = play(drive, ALWAYS_MEDIUM).exploration.explored, draws(drive)
    weighted = 3 * 0.5 * chosen[:90].count("medium")
    assert msgspec.structs.replace(explored, weighted_quality=0.0) == Explored(len(chosen), 90)
    assert explored.weighted_quality == pytest.approx(weighted)
    assert explored.quality == pytest.approx(weighted / 90)


def test_draws_that_could_not_reserve_keep_their_place() -> None:
    """An LLM without budget is drawn like the others: without it, those left would seem better than they are."""
    drive = drawn(budget_micros={"large": 0, "medium": 10**9, "small": 10**9})
    explored = play(drive, ALWAYS_MEDIUM).exploration.explored
    exhausted = sum(isinstance(d, Routed) and d.reason == "exhausted" for d in drive.decisions)
    assert (explored.unaffordable, explored.drawn) == (exhausted, len(draws(drive)))
    assert explored.quality == pytest.approx(0.5, abs=0.1)


NO_ESTIMATE: dict[str, tuple[Callable[[], Drive], Change]] = {
    "nobody judged": (lambda: drawn(judged=0), ALWAYS_MEDIUM),
    "the other side draws too": (drawn, Change()),
    "nothing was drawn": (answered, ALWAYS_MEDIUM),
}


@pytest.mark.parametrize("case", NO_ESTIMATE)
def test_there_is_no_estimate_where_nothing_tells(case: str) -> None:
    """None, rather than a number that means nothing."""
    made, change = NO_ESTIMATE[case]
    explored = play(made(), change).exploration.explored
    assert explored.quality is None
    assert explored.weighted_quality == 0.0
