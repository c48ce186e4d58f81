"""Finds the price of each LLM's budget. Pure: numpy and scipy.

    min over y >= 0 of   sum_i y_i b_i  +  mean_j max(0, max_i (q_ji - y_i c_ji))

is the dual of the routing LP with budget b_i per query (arXiv 2509.02718, section 4.2, with the gate at 0). It is
solved in units of mean cost, without which L-BFGS-B does not move.

The inner maximum has kinks, and where several LLMs are alike L-BFGS-B stops at the first one. So the maximum is
smoothed: t * log(1 + sum_i exp((q_ji - y_i c_ji) / t)) is above it by at most t * log(1 + M), and falls to it as the
temperature t falls (Nesterov, Smooth minimization of non-smooth functions, 2005). Its slope is a routing in shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import OptimizeResult, minimize

from worker.contract.codes import FitCode
from worker.contract.messages import Fit
from worker.estimation.features import Float64

# In quality. The first finds the way, the second the place.
TEMPERATURES = (0.01, 0.001)
ITERATIONS = 100
LINE_SEARCHES = 30
# The smoothing leaves prices of this size where the budget is not scarce.
TRACE = 10 * TEMPERATURES[-1]
# What the smoothing may cost, as a share of the objective: at most 0.0004 with 6 copies of each of 17 LLMs.
AS_GOOD = 1e-3


@dataclass(frozen=True)
class Market:
    """Estimates and budgets in units of each LLM's mean cost, LLMs first: `quality`, `cost` [M, n], `budget` [M].

    `unit` [M] is 1 / mean cost: a price per micro-dollar is a price here times `unit`.
    """

    quality: Float64
    cost: Float64
    budget: Float64
    unit: Float64


@dataclass(frozen=True)
class Certificate:
    """What prices are worth: the dual `objective`, the `primal` value of routing by them, and unspent priced budget.

    `objective` bounds the mean quality of any routing from above; `primal` is what one in shares of queries reaches
    that keeps the budgets.
    `slackness` is sum_i y_i * (b_i - spent_i)+, which is 0 at the optimum (complementarity).
    """

    objective: float
    primal: float
    slackness: float

    @property
    def gap(self) -> float:
        """The share of the objective between the two bounds, in [0, 1]."""
        return max(0.0, self.objective - self.primal) / max(self.objective, 1e-12)


def market(quality: Float64, cost_micros: Float64, budget_per_query: Float64) -> Market:
    """Estimates [n, M] and micro-dollars per query [M] -> the same in units of mean cost."""
    unit = 1.0 / np.maximum(cost_micros.mean(axis=0), 1e-9)
    cost = np.ascontiguousarray((cost_micros * unit).T)
    return Market(np.ascontiguousarray(quality.T), cost, budget_per_query * unit, unit)


def solve(here: Market, start: tuple[float, ...]) -> tuple[tuple[float, ...], Fit]:
    """Prices per micro-dollar from `start` (the prices in force), and how they were found.

    New prices are taken only when they certify: a finite dual objective as good as that of the old prices. A fit that
    fails this keeps the old prices: its status is `kept`, and its code says why.
    """
    old = np.array(start) / here.unit
    found = _minimised(here, np.minimum(old, _highest(here)) if old.any() else np.full(len(old), 0.5))
    found.x = _without_traces(here, found.x)
    before, after = certificate(here, old), certificate(here, found.x)
    if not np.isfinite(found.x).all() or not after.objective <= before.objective * (1 + AS_GOOD):
        return start, Fit("kept", before.objective, before.gap, int(found.nit), why_kept(found))
    prices = tuple(float(price) for price in found.x * here.unit)
    return prices, Fit("converged", after.objective, after.gap, int(found.nit), ended(found))


def ended(found: OptimizeResult) -> FitCode:
    """How L-BFGS-B ended, by scipy's `status`: 0 within tolerance, 1 after the most iterations, 2 in a line search."""
    if found.status == 0:
        return "solved"
    return "iterations" if found.status == 1 else "line_search"


def why_kept(found: OptimizeResult) -> FitCode:
    """Why a solution is not taken: how the solver failed, else what is wrong with the solution."""
    if not np.isfinite(found.x).all():
        return "not_finite"
    return "not_lower" if found.status == 0 else ended(found)


def _minimised(here: Market, start: Float64) -> OptimizeResult:
    """The minimum at the lowest temperature; `nit` counts the iterations at all of them."""
    bounds = [(0.0, None)] * len(start)
    options = {"maxiter": ITERATIONS, "maxls": LINE_SEARCHES}
    found, iterations = OptimizeResult(x=start), 0
    for temperature in TEMPERATURES:
        value = partial(smoothed, here, temperature=temperature)
        found = minimize(value, found.x, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        iterations += int(found.nit)
    found.nit = iterations
    return found


def _without_traces(here: Market, prices: Float64) -> Float64:
    """The prices with those at 0 that only the smoothing keeps above it, if the dual objective is not higher then."""
    cleared = np.where(prices < TRACE, 0.0, prices)
    return cleared if dual(here, cleared) <= dual(here, prices) else prices


def _highest(here: Market) -> Float64:
    """Prices [M] at which no query is worth an LLM; above them the objective has no slope that leads back."""
    highest: Float64 = (here.quality / np.maximum(here.cost, 1e-9)).max(axis=1)
    return highest


def smoothed(here: Market, prices: Float64, temperature: float) -> tuple[float, Float64]:
    """The smoothed dual objective at prices [M] in units of mean cost, and its gradient [M]."""
    shares, top = _shares(here, prices, temperature)
    return float(prices @ here.budget + top.mean()), here.budget - (shares * here.cost).mean(axis=1)


def _shares(here: Market, prices: Float64, temperature: float) -> tuple[Float64, Float64]:
    """The share of each query that goes to each LLM [M, n], and the smoothed maximum [n]."""
    score = (here.quality - prices[:, None] * here.cost) / temperature
    # Not to be worth any LLM is a choice of score 0. The highest score is taken out, so that no power is too large.
    top = np.maximum(score.max(axis=0), 0.0)
    powers = np.exp(score - top)
    total = np.exp(-top) + powers.sum(axis=0)
    return powers / total, temperature * (top + np.log(total))


def dual(here: Market, prices: Float64) -> float:
    """The dual objective at prices [M] in units of mean cost."""
    top = (here.quality - prices[:, None] * here.cost).max(axis=0)
    return float(prices @ here.budget + np.maximum(top, 0.0).mean())


def certificate(here: Market, prices: Float64) -> Certificate:
    """Both bounds at prices [M] in units of mean cost; an LLM that would overspend gets less of every query."""
    shares, _ = _shares(here, prices, TEMPERATURES[-1])
    spent, value = (shares * here.cost).mean(axis=1), (shares * here.quality).mean(axis=1)
    kept = np.minimum(1.0, here.budget / np.maximum(spent, 1e-12))
    slack = float(prices @ np.maximum(here.budget - spent, 0.0))
    return Certificate(dual(here, prices), float(value @ kept), slack)
