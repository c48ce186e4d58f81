"""The routing algorithms that Tollgate is compared with. Pure.

Each is a chooser: for each query and the balances, it names the LLMs to try. The first eight and the offline optima are
those of arXiv 2509.02718, with one difference: the ridge of Tollgate's estimator replaces the paper's RoBERTa.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from worker.estimation.estimator import Estimates
from worker.estimation.features import Float64
from worker.evaluation.scenario import Scenario

BATCH_ROWS = 256

Choice = NDArray[np.int64]


class Chooser(Protocol):
    """Names the LLMs to try for query `number`, best first. `balance_micros` float64 [M] is the money left."""

    def ranking(self, number: int, balance_micros: Float64) -> list[int]:
        """LLMs to try; none: do not serve it."""


@dataclass(frozen=True)
class Fixed:
    """Chosen beforehand: `choice` [n], -1 for none."""

    choice: Choice

    def ranking(self, number: int, balance_micros: Float64) -> list[int]:
        """The one LLM chosen, if any."""
        chosen = int(self.choice[number])
        return [] if chosen < 0 else [chosen]


@dataclass
class BatchSplit:
    """The LP over one batch of queries at a time, with the batch's share of the money left."""

    estimates: Estimates
    choice: Choice = field(init=False)

    def __post_init__(self) -> None:
        self.choice = np.full(len(self.estimates.quality), -1)

    def ranking(self, number: int, balance_micros: Float64) -> list[int]:
        """The LP's choice, solved when a batch begins."""
        if number % BATCH_ROWS == 0:
            rows = slice(number, number + BATCH_ROWS)
            quality, cost = self.estimates.quality[rows], self.estimates.cost_micros[rows]
            share = len(quality) / (len(self.choice) - number)
            self.choice[rows] = optimum(quality, cost.astype(np.float64), balance_micros * share)
        chosen = int(self.choice[number])
        return [] if chosen < 0 else [chosen]


@dataclass
class MirrorDescent:
    """Dual mirror descent (arXiv 2011.10124, Euclidean): one subgradient step on the prices after every query.

    Prices `price` [M] are per mean cost and start at 0; `per_query` [M] is the budget per query in mean costs.
    """

    quality: Float64
    cost: Float64
    per_query: Float64
    step: float
    price: Float64 = field(init=False)

    def __post_init__(self) -> None:
        self.price = np.zeros(len(self.per_query))

    def ranking(self, number: int, balance_micros: Float64) -> list[int]:
        """The best score above 0, at prices moved by every query before."""
        score = self.quality[number] - self.price * self.cost[number]
        best = int(score.argmax())
        spent = np.zeros(len(score))
        if score[best] > 0:
            spent[best] = self.cost[number, best]
        self.price = np.maximum(self.price + self.step * (spent - self.per_query), 0.0)
        return [best] if score[best] > 0 else []


def mirror_descent(scenario: Scenario) -> MirrorDescent:
    """Dual mirror descent on Tollgate's estimates, with the step of its regret bound, 1 / sqrt(n)."""
    cost = scenario.estimates.cost_micros.astype(np.float64)
    unit = np.maximum(scenario.estimator.prior.cost_micros.mean(axis=0), 1e-9)
    per_query = scenario.budget_micros / unit / scenario.queries
    return MirrorDescent(scenario.estimates.quality, cost / unit, per_query, float(scenario.queries) ** -0.5)


def at_random(scenario: Scenario) -> Fixed:
    """Any LLM, each as likely."""
    return Fixed(np.random.default_rng(scenario.seed).integers(0, len(scenario.live.llms), scenario.queries))


def by_quality(estimates: Estimates) -> Fixed:
    """The LLM of the highest estimated quality."""
    return Fixed(estimates.quality.argmax(axis=1))


def by_cost(estimates: Estimates) -> Fixed:
    """The LLM of the lowest estimated cost."""
    return Fixed(estimates.cost_micros.argmin(axis=1))


def offline(scenario: Scenario, quality: Float64, cost_micros: Float64) -> Fixed:
    """The LP over all queries at once, on these values [n, M]."""
    return Fixed(optimum(quality, cost_micros, scenario.budget_micros.astype(np.float64)))


def optimum(quality: Float64, cost: Float64, budget: Float64) -> Choice:
    """argmax of the LP over x [n, M] in [0, 1]: max sum(quality * x), cost within each budget, one LLM a query.

    -1: the LP does not serve the query. The LP splits at most M queries; each goes to its largest part.
    """
    n, llms = quality.shape
    unit = np.maximum(cost.mean(axis=0), 1e-9)
    which, rows = np.tile(np.arange(llms), n), np.repeat(np.arange(n), llms)
    cells = np.arange(n * llms)
    spend = sparse.csr_matrix(((cost / unit).ravel(), (which, cells)), shape=(llms, n * llms))
    once = sparse.csr_matrix((np.ones(n * llms), (rows, cells)), shape=(n, n * llms))
    limits = np.concatenate([np.maximum(budget, 0.0) / unit, np.ones(n)])
    solved = linprog(-quality.ravel(), A_ub=sparse.vstack([spend, once]), b_ub=limits, method="highs")
    share = solved.x.reshape(n, llms)
    return np.where(share.max(axis=1) > 0, share.argmax(axis=1), -1)
