"""Finds the price of each LLM's budget. Pure: numpy and scipy.

    min over y >= 0 of   sum_i y_i b_i  +  mean_j max(0, max_i (q_ji - y_i c_ji))

is the dual of the routing LP with budget b_i per query (arXiv 2509.02718, section 4.2, with the gate at 0). It is
solved in units of mean cost, without which L-BFGS-B does not move, with the analytic subgradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize

from worker.contract.codes import FitCode
from worker.contract.messages import Fit
from worker.estimation.features import Float64

ITERATIONS = 200
LINE_SEARCHES = 30


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

    `objective` bounds the mean quality of any routing from above; `primal` is what one that keeps the budgets reaches.
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

    New prices are taken only when they certify: a finite dual objective no worse than that of the old prices. A fit
    that fails this keeps the old prices: its status is `kept`, and its code says why.
    """
    old = np.array(start) / here.unit
    found = _minimised(here, old if old.any() else np.full(len(old), 0.5))
    before, after = certificate(here, old), certificate(here, found.x)
    if not np.isfinite(found.x).all() or not after.objective <= before.objective:
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
    bounds = [(0.0, None)] * len(start)
    options = {"maxiter": ITERATIONS, "maxls": LINE_SEARCHES}
    return minimize(lambda y: dual(here, y), start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)


def dual(here: Market, prices: Float64) -> tuple[float, Float64]:
    """The dual objective at prices [M] in units of mean cost, and a subgradient [M]."""
    top, _, spent = _routing(here, prices)
    return float(prices @ here.budget + np.maximum(top, 0.0).mean()), here.budget - spent


def _routing(here: Market, prices: Float64) -> tuple[Float64, NDArray[np.int64], Float64]:
    """The best score [n] and its LLM [n] at these prices, and what it spends per query [M] behind the gate."""
    score = here.quality - prices[:, None] * here.cost
    best = score.argmax(axis=0)
    rows = np.arange(len(best))
    top = score[best, rows]
    paid = np.where(top > 0, here.cost[best, rows], 0.0)
    return top, best, np.bincount(best, paid, len(prices)) / len(best)


def certificate(here: Market, prices: Float64) -> Certificate:
    """Both bounds at prices [M] in units of mean cost; where routing overspends, it is thinned to fit the budget."""
    top, best, spent = _routing(here, prices)
    objective = float(prices @ here.budget + np.maximum(top, 0.0).mean())
    gained = np.where(top > 0, here.quality[best, np.arange(len(best))], 0.0)
    value = np.bincount(best, gained, len(prices)) / len(best)
    kept = np.minimum(1.0, here.budget / np.maximum(spent, 1e-12))
    slack = float(prices @ np.maximum(here.budget - spent, 0.0))
    return Certificate(objective, float(value @ kept), slack)
