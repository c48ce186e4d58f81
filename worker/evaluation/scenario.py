"""One evaluation: history to learn from, queries to route in their order, budgets, and every estimate of them.

The set-up is that of PORT (arXiv 2509.02718, section 5): the budget is the cheapest LLM's cost for all queries, split
over the LLMs by sqrt(mean quality / mean cost) in history.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worker.contract.accounts import Budget
from worker.contract.errors import FixSetting
from worker.contract.messages import Configuration
from worker.estimation import index
from worker.estimation.estimator import Estimates, Estimator, postprocessed
from worker.estimation.features import Float32, Float64
from worker.estimation.history import History
from worker.estimation.neighbours import exact_nearest

Order = Literal["random", "source", "hardest-last"]
Split = Literal["efficiency", "uniform", "cost", "quality", "random", "best"]
ORDERS: tuple[Order, ...] = ("random", "source", "hardest-last")
SPLITS: tuple[Split, ...] = ("efficiency", "uniform", "cost", "quality", "random", "best")
PAPER_NEIGHBOURS = 5
TEST_SHARE = 0.45
PRICE_HALVINGS = 60


@dataclass(frozen=True)
class Plan:
    """The options of an evaluation.

    `test` None takes 45 % of the rows. `budget` is a multiple of the cheapest LLM's cost for all queries. `horizon` is
    the setting of the horizon, as a share of the true number of queries. Without `forecast`, prices are solved on
    the newest queries.
    """

    test: int | None = None
    budget: float = 1.0
    order: Order = "random"
    split: Split = "efficiency"
    resolve_every: int = 100
    window: int = 1000
    observe_share: float = 0.025
    settle_lag: int = 100
    horizon: float = 1.0
    forecast: bool = True


@dataclass(frozen=True)
class Scenario:
    """The inputs of a policy and the truth that it is judged by, for n queries and M LLMs.

    `live` holds the queries in the order of their arrival, with true quality and cost. `budget_micros` int64 [M].
    `estimates` are Tollgate's. `plain` are the paper's: means of the 5 nearest neighbours, found by the graph, and
    `exact` the same by exact search; their costs are not rounded. `ridge` are the trained predictor's alone.
    """

    plan: Plan
    seed: int
    past: History
    live: History
    budget_micros: NDArray[np.int64]
    estimator: Estimator
    estimates: Estimates
    plain: Estimates
    exact: Estimates
    ridge: Estimates

    @property
    def queries(self) -> int:
        """The number of queries to route."""
        return len(self.live.ids)

    def rows(self, which: NDArray[np.int64]) -> Scenario:
        """Only these queries, in this order, under the same budgets."""
        return replace(
            self,
            live=self.live.rows(which),
            estimates=self.estimates.rows(which),
            plain=self.plain.rows(which),
            exact=self.exact.rows(which),
            ridge=self.ridge.rows(which),
        )

    @property
    def of_llms(self) -> tuple[Budget, ...]:
        """The budget of each LLM."""
        named = zip(self.live.llms, self.budget_micros.tolist(), strict=True)
        return tuple(Budget(llm, "usd", micros, (llm,)) for llm, micros in named)

    def configuration(self, policy: str) -> Configuration:
        """The settings of one lane that routes all queries."""
        return Configuration(
            llms=self.live.llms,
            budgets=self.of_llms,
            margins=self.estimator.manifest.margins,
            policy=policy,
            horizon_queries=round(self.queries * self.plan.horizon),
            horizon_floor_queries=self.plan.resolve_every,
            resolve_every_queries=self.plan.resolve_every,
            window_queries=self.plan.window,
            observe_share=self.plan.observe_share,
            max_attempts=1,
            reservation_ms=10**9,
            checkpoint_every=10**9,
            seed=self.seed,
            max_cost_micros=10**12,
            index=self.estimator.manifest.index,
            kinds=(self.estimator.manifest.kinds or None) if self.plan.forecast else None,
        )


def divide(history: History, test: int | None, seed: int) -> tuple[History, History]:
    """Draw the queries to route from history: (past, live). Rows that some LLM never saw stay in the past."""
    whole: NDArray[np.bool_] = np.asarray(~np.isnan(history.quality + history.cost_micros).any(axis=1))
    drawn = np.random.default_rng(seed).permutation(len(history.ids))
    wanted = round(len(drawn) * TEST_SHARE) if test is None else test
    full = drawn[whole[drawn]]
    if not 0 < wanted <= len(full) or len(drawn) - wanted < index.FEWEST_ROWS:
        raise FixSetting(f"test: {wanted} of {len(drawn)} rows ({len(full)} without gaps) leaves too few")
    live = full[:wanted]
    return history.rows(drawn[~np.isin(drawn, live)]), history.rows(live)


def arrival(live: History, order: Order) -> NDArray[np.int64]:
    """The rows of `live` in their order of arrival: as drawn, by category, or by falling mean quality."""
    if order == "random":
        return np.arange(len(live.ids))
    if order == "hardest-last":
        return np.argsort(-live.quality.mean(axis=1), kind="stable")
    if live.categories is None:
        raise FixSetting("order: source needs a `source` or `category` column in the table")
    return np.argsort(np.array(live.categories), kind="stable")


def budgets(past: History, live: History, plan: Plan, seed: int, prior: Estimates) -> NDArray[np.int64]:
    """Micro-dollars [M]: the cheapest LLM's cost for all queries times `plan.budget`, split by `plan.split`.

    The cheapest LLM is the cheapest that is not free: a budget of nothing would compare nothing. `prior` are estimates
    of a sample of history.
    """
    costs = live.cost_micros.sum(axis=0)
    total = plan.budget * float(costs[costs > 0].min(initial=np.inf)) if (costs > 0).any() else 0.0
    shares = best_spending(prior, total / len(live.ids)) if plan.split == "best" else _shares(past, plan.split, seed)
    split: NDArray[np.int64] = np.floor(shares / max(shares.sum(), 1e-9) * total).astype(np.int64)
    return split


def _shares(past: History, split: Split, seed: int) -> Float64:
    quality, cost = np.nanmean(past.quality, axis=0), np.nanmean(past.cost_micros, axis=0)
    shares: dict[Split, Float64] = {
        # A free LLM needs no money.
        "efficiency": np.where(cost > 0, np.sqrt(quality / np.maximum(cost, 1e-9)), 0.0),
        "uniform": np.ones(len(cost)),
        "cost": cost,
        "quality": quality,
        "random": np.random.default_rng(seed).random(len(cost)),
    }
    return shares[split]


def best_spending(prior: Estimates, per_query_micros: float) -> Float64:
    """Micro-dollars per query that the best routing of `prior` under one total budget spends on each LLM, [M].

    Each query goes to the LLM of the highest quality - price x cost. The price is the lowest that the budget allows.
    """
    high = float((prior.quality / np.maximum(prior.cost_micros, 1.0)).max())
    if (spent := _spending(prior, 0.0)).sum() <= per_query_micros:
        return spent
    low = 0.0
    for _ in range(PRICE_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _spending(prior, middle).sum() > per_query_micros else (low, middle)
    return _spending(prior, high)


def _spending(prior: Estimates, price: float) -> Float64:
    score = prior.quality - price * prior.cost_micros
    rows, chosen = np.arange(len(score)), score.argmax(axis=1)
    cost = np.where(score[rows, chosen] > 0, prior.cost_micros[rows, chosen], 0.0)
    return np.bincount(chosen, cost, score.shape[1]) / len(score)


def make_scenario(past: History, live: History, plan: Plan, seed: int, neighbours: int | None = None) -> Scenario:
    """Build an index of `past` as the worker would, estimate `live` with it, and set the budgets."""
    return assembled(built(past, seed, neighbours), past, live, plan, seed)


def assembled(estimator: Estimator, past: History, live: History, plan: Plan, seed: int) -> Scenario:
    """A scenario on an index that was built from `past` before."""
    k = min(PAPER_NEIGHBOURS, len(past.ids))
    drawn = Scenario(
        plan=Plan(),
        seed=seed,
        past=past,
        live=live,
        budget_micros=budgets(past, live, plan, seed, estimator.prior),
        estimator=estimator,
        estimates=estimator.estimate(live.embeddings, live.input_tokens),
        plain=paper_estimates(past, *estimator.nearest(live.embeddings, k)),
        exact=paper_estimates(past, *exact_nearest(past.embeddings, live.embeddings, k)),
        ridge=ridge_estimates(estimator, live),
    )
    return replanned(drawn, plan)


def replanned(scenario: Scenario, plan: Plan) -> Scenario:
    """The same queries and estimates under another plan. Of a scenario that was reordered, the order stays."""
    arrived = scenario.rows(arrival(scenario.live, plan.order))
    granted = budgets(scenario.past, scenario.live, plan, scenario.seed, scenario.estimator.prior)
    return replace(arrived, plan=plan, budget_micros=granted)


def built(past: History, seed: int, neighbours: int | None = None) -> Estimator:
    """An estimator of `past`, through the files that the worker would load."""
    with tempfile.TemporaryDirectory(prefix="tollgate-") as place:
        index.build(past, Path(place) / "index", "supplied", neighbours, seed)
        return index.load(Path(place) / "index")


def paper_estimates(past: History, similarity: Float32, rows: NDArray[np.int64]) -> Estimates:
    """The paper's features: plain means over the nearest rows [n, k]. A gap in history counts as its LLM's mean.

    Costs stay fractions: the paper's fit, with its numerical gradient, loses by what rounding makes equal.
    """
    quality, cost = (_means(filled(table), rows) for table in (past.quality, past.cost_micros))
    return Estimates(quality, cost, similarity[:, 0])


def filled(table: Float64) -> Float64:
    """Values [n, M] with each column's gaps at its mean."""
    return np.where(np.isnan(table), np.nanmean(table, axis=0), table)


def _means(table: Float64, rows: NDArray[np.int64]) -> Float64:
    means: Float64 = table[rows].mean(axis=1)
    return means


def ridge_estimates(estimator: Estimator, live: History) -> Estimates:
    """The predictions of the ridge alone."""
    predicted = estimator.ridge(live.embeddings, live.input_tokens)
    return postprocessed(predicted, estimator.cost_bias, np.zeros(len(live.ids), dtype=np.float32))
