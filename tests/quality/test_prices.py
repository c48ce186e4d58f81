"""Budget prices: the dual's value and slope, known optima, certificates, and fits that fail."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import OptimizeResult, check_grad, linprog

from tests.drive import config
from worker.contract.codes import FitCode
from worker.core import solver
from worker.core.draws import Draws
from worker.core.market import Market, market_of
from worker.core.solver import certificate, dual, in_units, smoothed, solve
from worker.core.window import Sample
from worker.estimation.features import Float64


def market(quality: Float64, cost_micros: Float64, per_query: Float64) -> Market:
    """A market in which each LLM has a budget of its own."""
    names = tuple(f"llm-{number}" for number in range(quality.shape[1]))
    settings = config(llms=names, margins=(1.2,) * len(names), budget_micros=dict.fromkeys(names, 0))
    return market_of(Sample.untagged(quality, cost_micros), Draws(settings), per_query)


def random_market(seed: int, queries: int = 300, llms: int = 5) -> Market:
    """A market in which every budget is short."""
    draw = np.random.default_rng(seed)
    cost = draw.lognormal(5.0, 1.0, (queries, llms)) * draw.lognormal(0.0, 1.0, llms)
    return market(draw.random((queries, llms)), cost, cost.mean(axis=0) * 0.1)


def one_llm(budget: float) -> Market:
    """Qualities 0.1 .. 1.0 at a cost of 1 each."""
    return market(np.arange(1, 11)[:, None] / 10, np.ones((10, 1)), np.array([budget]))


@pytest.mark.parametrize(
    ("budget", "low", "high"),
    [(0.35, 0.6, 0.7), (0.85, 0.1, 0.2), (0.05, 0.9, 1.0), (5.0, 0.0, 0.0), (0.0, 1.0, np.inf)],
    ids=["3.5 of 10 queries", "8.5 of 10", "half a query", "more than all", "nothing"],
)
def test_the_price_is_the_quality_of_the_last_query_paid(budget: float, low: float, high: float) -> None:
    """If the budget pays 3.5 of ten queries, the price lies between the qualities of the fourth and the third best."""
    found, fit = solve(one_llm(budget), (0.0,))
    assert fit.status == "converged"
    assert low - 1e-6 <= found[0] <= high + 1e-6


@pytest.mark.parametrize("temperature", [0.1, 0.001])
@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_the_slope_of_the_smoothed_dual(seed: int, temperature: float) -> None:
    """The gradient is the numeric slope, and the smoothed dual is above the dual by at most its temperature's share."""
    here = random_market(seed)
    at = np.random.default_rng(seed + 100).random(5) * 0.5
    value = partial(smoothed, here, temperature=temperature)
    assert check_grad(lambda y: value(y)[0], lambda y: value(y)[1], at, epsilon=1e-7) < 1e-3
    assert 0 <= value(at)[0] - dual(here, at) <= temperature * np.log(6)


def optimum(here: Market) -> float:
    """The value of the routing LP, by HiGHS: the mean quality of the best routing in shares of queries."""
    llms, queries = here.quality.shape
    each = sparse.kron(sparse.eye(queries), np.ones((1, llms)), format="csr")
    places = np.arange(queries * llms)
    cost = here.uses[0].amount * here.unit[:, None]
    spent = sparse.csr_matrix((cost.T.ravel() / queries, (np.tile(np.arange(llms), queries), places)))
    limits = np.concatenate([np.ones(queries), here.budget])
    found = linprog(-here.quality.T.ravel(), A_ub=sparse.vstack([each, spent]), b_ub=limits, method="highs")
    assert found.status == 0, found.message
    return float(-found.fun / queries)


SIZES = [(17, 1, 0.1), (17, 1, 0.5), (17, 2, 0.1), (17, 3, 0.4), (100, 1, 0.1), (17, 18, 0.1), (300, 1, 0.2)]


@pytest.mark.parametrize(("llms", "copies", "budget"), SIZES)
@pytest.mark.parametrize("start", [0.0, 1e6], ids=["from nothing", "from far too high prices"])
def test_prices_reach_the_optimum(llms: int, copies: int, budget: float, start: float) -> None:
    """The dual objective is within 0.5 % of the LP's value, and the certificate within 5 %, also where LLMs are alike.

    Copies of an LLM have budgets of their own. The LP of the originals with the sums of the budgets has the same value.
    """
    draw = np.random.default_rng(llms)
    queries = 400 if llms < 100 else 150
    quality = np.clip(draw.random((queries, 1)) * 0.5 + draw.normal(0.3, 0.1, llms), 0, 1)
    quality = np.clip(quality + draw.normal(0, 0.1, (queries, llms)), 0, 1)
    cost = draw.lognormal(5.0, 0.7, (queries, llms)) * draw.lognormal(0.0, 1.0, llms)
    shares = draw.uniform(0.5, 1.5, (copies, llms)) / copies / llms * 17
    per_query = cost.mean(axis=0) * budget * shares
    here = market(np.tile(quality, copies), np.tile(cost, copies), per_query.ravel())
    best = optimum(market(quality, cost, per_query.sum(axis=0)))
    found, fit = solve(here, (start,) * len(here.budget))
    assert fit.status == "converged", fit
    assert fit.objective == pytest.approx(best, rel=0.005), fit
    assert fit.objective >= best - 1e-6
    assert 0 <= fit.gap <= 0.05, fit
    assert any(found), "budgets are short, so some have a price"


@pytest.mark.parametrize("seed", range(5))
def test_prices_certify(seed: int) -> None:
    """Routing by the prices reaches a value within 5 % of the bound that the prices prove."""
    _, fit = solve(random_market(seed), (0.0,) * 5)
    assert fit.status == "converged", fit
    assert 0.0 <= fit.gap < 0.05, fit


@pytest.mark.parametrize("seed", range(3))
def test_the_objective_bounds_every_routing(seed: int) -> None:
    """The primal value at any prices is below the objective at any other prices (weak duality)."""
    here, draw = random_market(seed), np.random.default_rng(seed)
    proofs = [certificate(here, draw.random(5) * 2) for _ in range(20)]
    assert max(proof.primal for proof in proofs) <= min(proof.objective for proof in proofs)


def test_at_the_optimum_a_price_means_a_spent_budget() -> None:
    """An LLM that no query needs has the price 0, and a budget with a price is spent (complementary slackness)."""
    quality = np.column_stack([np.linspace(0.1, 1.0, 100), np.zeros(100)])
    here = market(quality, np.ones((100, 2)), np.array([0.5, 0.5]))
    found, _ = solve(here, (0.0, 0.0))
    proof = certificate(here, in_units(here, found))
    assert found[1] == 0.0, "the LLM that no query needs has a price"
    assert proof.slackness < 0.01, found


FAILURES: list[tuple[str, float, int, FitCode]] = [
    ("not a number", np.nan, 2, "not_finite"),
    ("worse, after a failed line search", 50.0, 2, "line_search"),
    ("worse, after the most iterations", 50.0, 1, "iterations"),
    ("worse, within tolerance", 50.0, 0, "not_lower"),
]


@pytest.mark.parametrize(("price", "status", "code"), [c[1:] for c in FAILURES], ids=[c[0] for c in FAILURES])
def test_a_fit_that_failed_keeps_the_old_prices(
    price: float, status: int, code: FitCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prices that are not finite, or worse than those in force, are never adopted. The code of the fit says why."""
    here = random_market(1)
    old, _ = solve(here, (0.0,) * 5)
    found = OptimizeResult(x=np.full(5, price), nit=3, message="ABNORMAL", status=status, success=False)
    monkeypatch.setattr(solver, "_minimised", lambda *_: found)
    kept, fit = solve(here, old)
    assert kept == old
    assert fit.status == "kept"
    assert fit.iterations == 3
    assert fit.code == code


def test_prices_do_not_depend_on_the_currency() -> None:
    """If costs and budgets are a million times larger, prices are a million times smaller."""
    draw = np.random.default_rng(3)
    quality, cost = draw.random((200, 3)), draw.lognormal(3.0, 1.0, (200, 3))
    small, _ = solve(market(quality, cost, cost.mean(axis=0) * 0.2), (0.0,) * 3)
    large, _ = solve(market(quality, cost * 1e6, cost.mean(axis=0) * 0.2e6), (0.0,) * 3)
    assert np.array(large) * 1e6 == pytest.approx(np.array(small), rel=1e-3)
