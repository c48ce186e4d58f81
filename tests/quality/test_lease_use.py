"""What leases are worth: how much of a budget is used, how often lanes ask, and what many lanes lose beside one.

`pytest -rP tests/quality/test_lease_use.py` prints the figures. Time is simulated: a message takes 8 to 25 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, vstack

from tests.quality.lease_run import START_MS, LeaseRun, Query
from worker.contract.budgets import BudgetDefinition
from worker.contract.leases import Need

MINUTE_MS = 60_000
SKEW_MS = 120_000

# A hot budget by the minute: 30 queries of 500 to 1,500 tokens, and half as many again that want some.
TOKENS = 30_000
QUERIES_A_MINUTE = 45


def minutes(random: Random, count: int, lanes: int) -> Iterator[Query]:
    """Queries of so many minutes, as they arrive."""
    at_ms = float(START_MS)
    while (at_ms := at_ms + random.expovariate(QUERIES_A_MINUTE / MINUTE_MS)) < START_MS + count * MINUTE_MS:
        needs = (Need(1, random.randrange(500, 1_501)),)
        yield Query(int(at_ms), random.randrange(lanes), (("gpt-4o", needs, 1.0),))


@pytest.mark.parametrize(
    ("days", "crashes"),
    [pytest.param(0.25, 10, marks=pytest.mark.long), pytest.param(30, 50, marks=pytest.mark.soak)],
)
def test_a_hot_minute_budget_is_used_and_never_exceeded(days: float, crashes: int) -> None:
    """Eight lanes whose clocks are up to two minutes off, and crashes of lanes and of the treasury: no minute has more
    reserved and spent than its amount, and at least 97 % of what there is are used."""
    random, lanes, count = Random(15), 8, round(days * 1_440)
    skews_ms = [random.randrange(-SKEW_MS, SKEW_MS + 1) for _ in range(lanes)]
    run = LeaseRun(
        [BudgetDefinition("gpt-4o-tokens", "tokens", TOKENS, every="minute")],
        minutes(random, count, lanes),
        lanes,
        random,
        skew_ms=skews_ms.__getitem__,
        crashes_ms=[START_MS + random.randrange(count * MINUTE_MS) for _ in range(crashes)],
    )
    run.run()
    used = sum(run.spent.values()) / (TOKENS * count)
    most = max(run.most_used.values())
    print(f"{count} minutes, {lanes} lanes, {crashes} crashes: {used:.1%} used; at most {most} of {TOKENS} in a minute")
    print({name: run.counts[name] for name in sorted(run.counts)})
    assert most <= TOKENS
    assert run.counts["crashes"] == crashes
    assert used >= 0.97


LLMS = 11
COSTS = 100 * np.array([5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 500])
# Prices are solved on so many queries, as lanes solve them on their newest.
SAMPLE = 1_500


def priced(seed: int, count: int, lanes: int) -> tuple[list[Query], list[BudgetDefinition]]:
    """Queries for 11 LLMs, the best score first, and a budget for each LLM: half of what equal shares would cost.

    A dear LLM is better on average. The score is quality less price times cost, with the prices of the routing LP.
    """
    draw = np.random.default_rng(seed)
    quality = 0.3 + 0.05 * np.arange(LLMS) + draw.normal(0, 0.15, (count, LLMS))
    costs = np.maximum(1, np.round(COSTS * draw.uniform(0.5, 1.5, (count, LLMS)))).astype(int)
    budgets = (0.5 * count * COSTS / LLMS).astype(int)
    scores = quality - prices(quality[:SAMPLE], costs[:SAMPLE], budgets * min(count, SAMPLE) / count) * costs
    queries = []
    for number in range(count):
        order = [int(i) for i in np.argsort(-scores[number]) if scores[number, i] > 0]
        options = [(f"llm-{i}", (Need(i + 1, int(costs[number, i])),), float(quality[number, i])) for i in order]
        queries.append(Query(START_MS + 10 * number, int(draw.integers(lanes)), tuple(options)))
    return queries, [BudgetDefinition(f"llm-{i}", "usd", int(budget)) for i, budget in enumerate(budgets)]


def prices(quality: NDArray[np.float64], costs: NDArray[np.int64], budgets: NDArray[np.float64]) -> NDArray[np.float64]:
    """The dual of the budgets in the routing LP, by HiGHS."""
    count = len(quality)
    cells = np.arange(count * LLMS)
    once = csr_matrix((np.ones(count * LLMS), (np.repeat(np.arange(count), LLMS), cells)))
    use = csr_matrix((costs.ravel().astype(float), (np.tile(np.arange(LLMS), count), cells)))
    limits = np.concatenate([np.ones(count), budgets])
    solved = linprog(-quality.ravel(), A_ub=vstack([once, use]), b_ub=limits, bounds=(0, 1), method="highs")
    found: NDArray[np.float64] = -solved.ineqlin.marginals[count:]
    return found


def figures(lanes: int, count: int) -> tuple[float, float, float]:
    """Asks a query, worth beside that of one lane, and the 99th percentile of how long a query that asked waited."""
    queries, budgets = priced(1, count, lanes)
    run = LeaseRun(budgets, queries, lanes, Random(2))
    run.run()
    alone = LeaseRun(budgets, [query._replace(lane=0) for query in queries], 1, Random(2))
    alone.run()
    asks, ratio = run.counts["asks"] / count, run.worth / alone.worth
    # Of the queries that asked and were dispatched.
    wait_ms = float(np.percentile([waited_ms for waited_ms in run.waits_ms if waited_ms], 99))
    print(
        f"{lanes} lanes, {count} queries: {asks:.3f} asks a query, {ratio:.4f} of one lane; p99 wait {wait_ms:.0f} ms"
    )
    print({name: run.counts[name] for name in sorted(run.counts)})
    return asks, ratio, wait_ms


@pytest.mark.long
@pytest.mark.parametrize(("lanes", "least_ratio"), [(64, 0.98), (4, 0.995)])
def test_many_lanes_are_worth_as_much_as_one(lanes: int, least_ratio: float) -> None:
    """With a budget for each LLM, 64 lanes with 125 queries each keep 98 % of what one lane keeps, and ask at most 0.6
    times a query; 4 lanes keep 99.5 %. A query that asks waits for about two messages."""
    asks, ratio, wait_ms = figures(lanes, 8_000)
    assert ratio >= least_ratio
    assert asks <= 0.6
    # Two messages of 25 ms at most, and an LLM that was denied first.
    assert wait_ms <= 150


@pytest.mark.long
def test_lanes_with_many_queries_seldom_ask() -> None:
    """With 10,000 queries a lane, one query in twenty asks."""
    asks, _, _ = figures(4, 40_000)
    assert asks <= 0.05
