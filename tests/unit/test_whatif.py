"""What-if: the same queries under another configuration, beside what really happened."""

from __future__ import annotations

import pytest

from tests.drive import LLMS, PRIOR, Drive, completion, config, query
from tests.unit.test_proof import story
from worker.messages import Closed, Routed
from worker.whatif import Change, WhatIf


def play(drive: Drive, change: Change) -> WhatIf:
    played = WhatIf(0, PRIOR, change)
    played.run(drive.decisions)
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
    assert (played.other.queries, played.other.deferred, played.other.llms) == (
        played.real.queries,
        played.real.deferred,
        played.real.llms,
    )


def test_smaller_budgets_are_kept() -> None:
    """With a tenth of the money, no LLM spends more than a tenth of its budget."""
    played = play(answered(), Change(budget_factor=0.1))
    budgets = config().budget_micros
    assert all(served.cost_micros <= budgets[llm] // 10 for llm, served in played.other.llms.items())
    assert 0 < played.other.total().dispatched < played.real.total().dispatched


@pytest.mark.parametrize("llm", LLMS)
def test_an_llm_left_out_serves_nothing(llm: str) -> None:
    """The others take over."""
    played = play(answered(), Change(without=(llm,)))
    assert (llm in played.other.llms, played.other.total().dispatched > 0) == (False, True)


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


def test_random_draws_tell_of_other_configurations_without_estimates() -> None:
    """Played again unchanged, each drawn LLM is met: the true quality counts once for each of the LLMs."""
    drive = answered("port")
    drawn = {d.offset for d in drive.decisions if isinstance(d, Routed) and d.reason == "observing" and d.llm}
    closed = [d for d in drive.decisions if isinstance(d, Closed) and int(d.dispatch_id.split("-")[1]) in drawn]
    played = play(drive, Change())
    assert (played.explored, played.weighted_quality) == (len(drawn), len(LLMS) * 0.5 * len(closed))
    assert drawn
