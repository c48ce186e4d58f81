"""Finds the price of each budget. Pure: numpy and scipy.

    min over y >= 0 of   sum_b y_b B_b  +  sum_j w_j max(0, max_i (q_ji - sum_b y_b use_b,ji))

is the dual of the routing LP for queries of weight w_j, 1 in sum, with B_b of each budget per query (arXiv 2509.02718,
section 4.2, with the gate at 0, and with a sum over all budgets that a query draws on). It is solved in units of mean
use, without which L-BFGS-B does not move.

The inner maximum has kinks, and where several LLMs are alike L-BFGS-B stops at the first one. So the maximum is
smoothed: t * log(1 + sum_i exp(score_ji / t)) is above it by at most t * log(1 + M), and falls to it as the temperature
t falls (Nesterov, Smooth minimization of non-smooth functions, 2005). Its slope is a routing in shares.

Prices of budgets that overlap are not unique; what a query pays to all of them is. So prices are compared by the
objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import OptimizeResult, minimize

from worker.contract.codes import FitCode
from worker.contract.messages import Fit
from worker.core.market import Market, Use
from worker.estimation.features import Float64

# In quality. The first finds the way, the second the place.
TEMPERATURES = (0.01, 0.001)
ITERATIONS = 200
LINE_SEARCHES = 30
# The smoothing leaves prices of this size where the budget is not scarce.
TRACE = 10 * TEMPERATURES[-1]
# What the smoothing may cost, as a share of the objective: at most 0.0004 with 6 copies of each of 17 LLMs.
AS_GOOD = 1e-3


@dataclass(frozen=True)
class Certificate:
    """What prices are worth: the dual `objective`, the `primal` value of routing by them, and unspent priced budget.

    `objective` bounds the mean quality of any routing from above; `primal` is what one in shares of queries reaches
    that keeps the budgets.
    `slackness` is sum_b y_b * (B_b - spent_b)+, which is 0 at the optimum (complementarity).
    """

    objective: float
    primal: float
    slackness: float

    @property
    def gap(self) -> float:
        """The share of the objective between the two bounds, in [0, 1]."""
        return max(0.0, self.objective - self.primal) / max(self.objective, 1e-12)


def solve(here: Market, start: tuple[float, ...]) -> tuple[tuple[float, ...], Fit]:
    """Prices in quality per unit of each budget, from `start` (the prices in force), and how they were found.

    New prices are taken only when they certify: a finite dual objective as good as that of the old prices. A fit that
    fails this keeps the old prices: its status is `kept`, and its code says why.
    """
    old = in_units(here, start)
    found = _minimised(here, np.minimum(old, _highest(here)) if old.any() else np.where(here.unit > 0, 0.5, 0.0))
    found.x = _without_traces(here, found.x)
    before, after = certificate(here, old), certificate(here, found.x)
    if not np.isfinite(found.x).all() or not after.objective <= before.objective * (1 + AS_GOOD):
        return start, Fit("kept", before.objective, before.gap, int(found.nit), why_kept(found))
    prices = tuple(float(price) for price in found.x * here.unit)
    return prices, Fit("converged", after.objective, after.gap, int(found.nit), ended(found))


def in_units(here: Market, prices: Sequence[float]) -> Float64:
    """Prices [B] per unit of each budget as prices per mean use; 0 for a budget that no query uses."""
    return np.where(here.unit > 0, np.array(prices) / np.where(here.unit > 0, here.unit, 1.0), 0.0)


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
    """Prices [B] at which no query is worth an LLM; above them the objective has no slope that leads back."""
    highest = np.zeros(len(here.budget))
    for use in here.uses:
        worth = (here.quality / np.maximum(use.amount, 1e-9)).max(axis=1)
        draws = use.draws.tocsc()
        for number in range(len(highest)):
            rows = draws.indices[draws.indptr[number] : draws.indptr[number + 1]]
            if len(rows) and here.unit[number] > 0:
                highest[number] = worth[rows % len(worth)].max() / here.unit[number]
    return highest


def smoothed(here: Market, prices: Float64, temperature: float) -> tuple[float, Float64]:
    """The smoothed dual objective at prices [B] in units of mean use, and its gradient [B]."""
    shares, top = _shares(here, prices, temperature)
    slope = here.budget - sum(use.draws.T @ here.spent(use, shares) for use in here.uses)
    return float(prices @ here.budget + top @ here.weight), slope


def _shares(here: Market, prices: Float64, temperature: float) -> tuple[Float64, Float64]:
    """The share of each query that goes to each LLM [M, n], and the smoothed maximum [n]."""
    score = (here.quality - here.charge(prices)) / temperature
    # Not to be worth any LLM is a choice of score 0. The highest score is taken out, so that no power is too large.
    top = np.maximum(score.max(axis=0), 0.0)
    powers = np.exp(score - top)
    total = np.exp(-top) + powers.sum(axis=0)
    return powers / total, temperature * (top + np.log(total))


def dual(here: Market, prices: Float64) -> float:
    """The dual objective at prices [B] in units of mean use."""
    top = (here.quality - here.charge(prices)).max(axis=0)
    return float(prices @ here.budget + np.maximum(top, 0.0) @ here.weight)


def certificate(here: Market, prices: Float64) -> Certificate:
    """Both bounds at prices [B] in units of mean use. Of a budget that would be overspent, whatever draws on it gets
    less of every query."""
    shares, _ = _shares(here, prices, TEMPERATURES[-1])
    spent = sum((use.draws.T @ here.spent(use, shares) for use in here.uses), np.zeros(len(prices)))
    kept = np.minimum(1.0, here.budget / np.maximum(spent, 1e-12))
    served = here.summed(shares * here.quality)
    for use in here.uses:
        served = served * _lowest(use, kept)
    slack = float(prices @ np.maximum(here.budget - spent, 0.0))
    return Certificate(dual(here, prices), float(served.sum()), slack)


def _lowest(use: Use, values: Float64) -> Float64:
    """The lowest of values [B], at most 1, over the budgets that each cell and LLM draws on: [K * M]."""
    lowest = np.ones(use.draws.shape[0])
    rows = np.diff(use.draws.indptr) > 0
    if rows.any():
        lowest[rows] = np.minimum.reduceat(values[use.draws.indices], use.draws.indptr[:-1][rows])
    return lowest
