"""The baselines and charging rules, on cases small enough to work out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worker.contract.errors import FixSetting
from worker.estimation.estimator import Estimates
from worker.evaluation.baselines import BatchSplit, Fixed, MirrorDescent, optimum
from worker.evaluation.scenario import Plan, Scenario, arrival, best_spending, budgets, divide
from worker.evaluation.simulate import play_ledger, play_paper


@pytest.mark.parametrize(
    ("quality", "cost", "budget", "choice"),
    [
        pytest.param([[0.9, 0.5], [0.8, 0.5]], [[1, 1], [1, 1]], [2, 2], [0, 0], id="room for all"),
        pytest.param([[0.9, 0.5], [0.8, 0.1]], [[1, 1], [1, 1]], [1, 1], [1, 0], id="0.5 + 0.8 beats 0.9 + 0.1"),
        pytest.param([[0.9, 0.0], [0.4, 0.0]], [[1, 1], [1, 1]], [1, 0], [0, -1], id="room for one"),
        pytest.param([[0.9, 0.1], [0.5, 0.4]], [[4, 1], [1, 1]], [4, 1], [0, 1], id="the dear one is worth it"),
    ],
)
def test_the_lp_finds_the_best_routing(
    quality: list[list[float]], cost: list[list[float]], budget: list[float], choice: list[int]
) -> None:
    """The LP maximises the sum of quality within each budget, with at most one LLM for a query."""
    found = optimum(np.array(quality), np.array(cost, dtype=np.float64), np.array(budget, dtype=np.float64))
    assert found.tolist() == choice


def test_a_free_llm_takes_no_share_of_the_budget(scenario: Scenario) -> None:
    """The budgets are as they would be without it, and its own is nothing."""
    past, live, prior = scenario.past, scenario.live, scenario.estimator.prior
    free = np.array([0.0, 1.0, 1.0, 1.0])
    with_free = [replace(rows, cost_micros=rows.cost_micros * free) for rows in (past, live)]
    split = budgets(with_free[0], with_free[1], Plan(), 42, prior)
    others = budgets(past.columns([1, 2, 3]), live.columns([1, 2, 3]), Plan(), 42, prior)
    assert split.tolist() == [0, *others.tolist()]


def test_batch_split_spends_a_batch_its_share() -> None:
    """Of two batches of 256 equal queries, with budget for half of them, 128 queries of each are served."""
    estimates = Estimates(np.full((512, 1), 0.5), np.full((512, 1), 10), np.ones(512, dtype=np.float32))
    chooser = BatchSplit(estimates)
    served = [len(chooser.ranking(number, np.array([2560.0 - 1280.0 * (number >= 256)]))) for number in range(512)]
    assert sum(served[:256]) == 128, "first batch"
    assert sum(served[256:]) == 128, "second batch"


def test_mirror_descent_moves_prices_by_what_was_spent() -> None:
    """With step 0.1 and budget for 0.4 of a query, a served query adds 0.1 * (1 - 0.4) to the price, and a query that
    is not served takes 0.1 * 0.4 from it."""
    chooser = MirrorDescent(np.full((5, 1), 0.1), np.ones((5, 1)), np.array([0.4]), step=0.1)
    seen = [(chooser.ranking(number, np.zeros(1)), round(float(chooser.price[0]), 6)) for number in range(5)]
    assert seen == [([0], 0.06), ([0], 0.12), ([], 0.08), ([0], 0.14), ([], 0.10)]


def ten_queries(scenario: Scenario, cost: list[float], estimated: int, budget: int) -> Scenario:
    """The first queries of a scenario, with one LLM of these true costs, this estimate and this budget."""
    few = replace(
        scenario, live=scenario.live.rows(np.arange(len(cost))).columns([0]), budget_micros=np.array([budget])
    )
    few.live.cost_micros[:, 0] = cost
    few.live.quality[:, 0] = 1.0
    count = len(cost)
    estimates = Estimates(np.ones((count, 1)), np.full((count, 1), estimated), np.ones(count, dtype=np.float32))
    manifest = type(scenario.estimator.manifest)(
        **{name: getattr(scenario.estimator.manifest, name) for name in scenario.estimator.manifest.__struct_fields__}
        | {"margins": (1.5,)}
    )
    return replace(few, estimates=estimates, estimator=replace(scenario.estimator, manifest=manifest))


@pytest.mark.parametrize(
    ("cost", "budget", "paper", "ledger", "overrun"),
    [
        pytest.param([100.0] * 4, 300, [0, 0, 0, -1], [0, 0, -1, -1], 0, id="a reservation holds its margin"),
        pytest.param([250.0] * 4, 600, [0, 0, -1, -1], [0, 0, 0, 0], 400, id="dearer than reserved: overrun"),
        pytest.param([10.0, 400.0, 10.0, 10.0], 200, [0, -1, 0, 0], [0, -1, -1, -1], 0, id="a dear one is dropped"),
    ],
)
def test_who_is_served_under_each_rule(
    scenario: Scenario, cost: list[float], budget: int, paper: list[int], ledger: list[int], overrun: int
) -> None:
    """At an estimate of 100 and a margin of 1.5, the paper charges the true cost at once; Tollgate reserves 150 and
    settles later."""
    small = ten_queries(scenario, cost, 100, budget)
    everything = Fixed(np.zeros(len(cost), dtype=np.int64))
    known, late = play_paper(small, everything), play_ledger(small, everything)
    assert known.llm.tolist() == paper, "the paper's rule"
    assert late.llm.tolist() == ledger, "Tollgate's rule"
    assert late.overrun_micros == overrun


def test_budgets_are_the_cheapest_llm_times_the_plan(scenario: Scenario) -> None:
    """The total is the cost of the cheapest LLM times the plan's budget. It is split by sqrt(mean quality / mean cost)
    of history, and rounding loses at most a micro-dollar for each LLM."""
    once, twice = (
        budgets(scenario.past, scenario.live, Plan(budget=budget), 0, scenario.estimator.prior) for budget in (1.0, 2.0)
    )
    share = np.sqrt(scenario.past.quality.mean(axis=0) / scenario.past.cost_micros.mean(axis=0))
    cheapest = scenario.live.cost_micros.sum(axis=0).min()
    assert once.tolist() == pytest.approx((share / share.sum() * cheapest).tolist(), abs=1.0)
    assert np.abs(twice - 2 * once).max() <= 2, "twice the budget"


def test_nothing_is_learned_from_what_is_routed(scenario: Scenario) -> None:
    """Past and live rows are disjoint, and together they are all rows."""
    past, live = set(scenario.past.ids), set(scenario.live.ids)
    assert past & live == set()
    assert len(past | live) == 700, "rows are lost"


@pytest.mark.parametrize("test", [0, 695, 701])
def test_a_test_part_that_leaves_nothing_is_refused(scenario: Scenario, test: int) -> None:
    """A division without queries, or without enough history to learn from, is refused."""
    with pytest.raises(FixSetting, match="test"):
        divide(scenario.past, test, 0)


def test_orders_of_arrival(scenario: Scenario) -> None:
    """`source` orders queries by category, `hardest-last` by falling mean quality."""
    source, hardest = (scenario.live.rows(arrival(scenario.live, order)) for order in ("source", "hardest-last"))
    means = hardest.quality.mean(axis=1)
    assert source.categories == sorted(scenario.live.categories or [])
    assert means.tolist() == sorted(means, reverse=True)


SPENDING = {
    "room for all": (100.0, [0.5, 5.0]),
    "room for one dear answer": (5.5, [0.5, 5.0]),
    "room for cheap answers alone": (1.0, [1.0, 0.0]),
    "less than the cheapest": (0.6, [0.5, 0.0]),
    "none": (0.0, [0.0, 0.0]),
}


@pytest.mark.parametrize(("per_query", "expected"), SPENDING.values(), ids=SPENDING)
def test_the_best_spending_of_one_total_budget(per_query: float, expected: list[float]) -> None:
    """Two queries, LLMs of cost 1 and 10: the dear LLM is worth its price for the first query only."""
    prior = Estimates(np.array([[0.5, 0.9], [0.4, 0.4]]), np.array([[1, 10], [1, 10]]), np.ones(2, dtype=np.float32))
    assert best_spending(prior, per_query).tolist() == expected
