"""What each budget is worth to a lane now: prices in force, the estimates they came from, the policy. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from worker.contract.codes import Exclusion, Resource
from worker.contract.messages import AccountRow, Configuration, Fit, WindowBlock
from worker.core.candidates import exclusions
from worker.core.draws import Cell, Draws
from worker.core.events import Arrived
from worker.core.forecast import Forecast
from worker.core.ledger import Ledger
from worker.core.policy import Policy, Reason, Solution, View
from worker.core.window import Sample, Window

OBSERVING = Fit("observing", 0.0, 0.0, 0, "no_prices")


Policies = Callable[[Configuration, int], Policy]


@dataclass(frozen=True)
class Prior:
    """Leave-one-out estimates of a sample of history: what prices are solved on before there are queries. [n, LLMs]"""

    quality: NDArray[np.float64]
    cost_micros: NDArray[np.float64]


class Rates(NamedTuple):
    """What the queries of one cell pay for each LLM, [LLMs] each: per micro-dollar, per token, and per request. None:
    no budget in tokens, or in requests, has a price."""

    usd: list[float]
    tokens: list[float] | None
    requests: list[float] | None


class Pricing:
    """The prices of one lane under one configuration, by budget. `prices` is empty until the first solution.

    `seen` counts first-time queries priced; the window holds the estimates since `seen` was `window_from`.
    """

    def __init__(self, policy: Policy, config: Configuration, prior: Prior, seen: int = 0) -> None:
        self.config = config
        self.policy = policy
        self.prior = prior
        self.draws = Draws(config)
        self.window = Window(config.window_queries, len(config.llms), self.draws.counts_tokens)
        self.window_from = self.seen = seen
        self.prices: tuple[float, ...] = ()
        self.fit = OBSERVING
        self.forecast = None if config.kinds is None else Forecast(config.kinds, prior.quality, prior.cost_micros)
        self._rates: dict[Cell, Rates] = {}

    @classmethod
    def restored(
        cls, policy: Policy, config: Configuration, prior: Prior, row: AccountRow, window: Mapping[int, WindowBlock]
    ) -> Self:
        """The prices and the window that an account row and window blocks hold."""
        pricing = cls(policy, config, prior, row.seen)
        pricing.window_from = row.window_from
        pricing.prices, pricing.fit = tuple(row.prices.values()), row.fit
        if pricing.forecast is not None and row.kinds is not None:
            pricing.forecast.seen = row.kinds
        for number, block in window.items():
            pricing.window.restore(number, block)
        return pricing

    def take_over(self, old: Pricing) -> bool:
        """Go on with the window of an older configuration, if it means the same under this one; says whether."""
        if _window_shape(old.config) != _window_shape(self.config):
            return False
        self.window, self.window_from = old.window, old.window_from
        if self.forecast is not None and old.forecast is not None:
            self.forecast.seen = old.forecast.seen
        return True

    def is_due(self) -> bool:
        """Whether to solve before the next query is priced."""
        return not self.prices or self.policy.due(self.seen)

    def solve(self, ledger: Ledger) -> None:
        """Put new prices in force, or keep the old ones with the reason in `fit`."""
        if self.forecast is not None:
            self.forecast.seen = self.forecast.look(self._horizon)
        self.put(self.policy.solve(self._view(ledger)))

    def put(self, solution: Solution) -> None:
        """Put a solution in force."""
        self.prices, self.fit = solution.prices, solution.fit
        self._rates.clear()

    def by_budget(self) -> dict[str, float]:
        """The prices by the names of their budgets; empty before the first solution."""
        return {budget.name: price for budget, price in zip(self.config.budgets, self.prices, strict=False)}

    def charges(self, query: Arrived) -> list[float]:
        """What the query would use of the budgets at their prices, for each LLM; empty without prices or estimates."""
        if not self.prices or not query.cost_micros:
            return []
        return self.charged(query.tags, query.cost_micros, query.input_tokens)

    def charged(self, tags: Mapping[str, str], cost_micros: Sequence[float], input_tokens: int) -> list[float]:
        """What a query with these estimates would use, at the prices in force."""
        cell = self.draws.cell(tags)
        rates = self._rates.get(cell)
        if rates is None:
            rates = self._rates[cell] = self._rates_of(cell)
        charges = [rate * cost for rate, cost in zip(rates.usd, cost_micros, strict=True)]
        if rates.tokens is not None:
            tokens = self.draws.tokens(cost_micros, input_tokens)
            charges = [charge + rate * n for charge, rate, n in zip(charges, rates.tokens, tokens, strict=True)]
        if rates.requests is not None:
            charges = [charge + rate for charge, rate in zip(charges, rates.requests, strict=True)]
        return charges

    def charges_of(self, sample: Sample) -> NDArray[np.float64]:
        """What each query of a sample would use of the budgets at their prices, [n, LLMs]; 0 without prices."""
        charges = np.zeros_like(sample.quality)
        for cell in set(sample.cells) if self.prices else ():
            rows = np.array([one == cell for one in sample.cells])
            rates = self._rates_of(cell)
            charges[rows] = sample.cost_micros[rows] * rates.usd + np.array(rates.requests or 0.0)
            if rates.tokens is not None:
                pairs = zip(sample.cost_micros[rows].tolist(), sample.input_tokens[rows].tolist(), strict=True)
                charges[rows] += np.array([self.draws.tokens(*pair) for pair in pairs]) * rates.tokens
        return charges

    def _rates_of(self, cell: Cell) -> Rates:
        def of(resource: Resource) -> list[float]:
            budgets = self.draws.budgets
            return [
                sum(self.prices[number] for number in numbers if budgets[number].resource == resource)
                for numbers in self.draws.matching(cell)
            ]

        tokens, requests = of("tokens"), of("requests")
        return Rates(of("usd"), tokens if any(tokens) else None, requests if any(requests) else None)

    def rank(self, query: Arrived, charges: list[float]) -> list[int]:
        """The candidates worth trying for this query, best first."""
        excluded = self.excluded(query)
        if not excluded:
            return self.policy.rank(self.seen, query.quality, charges)
        llms = self.config.llms
        quality = [-math.inf if llm in excluded else q for llm, q in zip(llms, query.quality, strict=True)]
        return [i for i in self.policy.rank(self.seen, quality, charges) if llms[i] not in excluded]

    def excluded(self, query: Arrived) -> dict[str, Exclusion]:
        """The LLMs that are no candidates for a query, and why."""
        return exclusions(query.asks, self.config)

    def reason(self) -> Reason:
        """Why the query now being priced goes where it goes."""
        return self.policy.reason(self.seen)

    def remember(self, query: Arrived) -> None:
        """Count a first-time query and keep its estimates for the next solution.

        What an LLM that is no candidate could have answered is worth nothing: it does not compete for its budget.
        """
        excluded, quality = self.excluded(query), query.quality
        if excluded:
            quality = [0.0 if llm in excluded else q for llm, q in zip(self.config.llms, quality, strict=True)]
        cell = self.draws.cell(query.tags)
        kind = 0 if self.forecast is None else self.forecast.count(query.quality, query.cost_micros)
        self.window.put(self.seen, quality, query.cost_micros, cell, query.input_tokens, kind)
        self.seen += 1

    def _view(self, ledger: Ledger) -> View:
        forecast = self.forecast
        accounts = [ledger.accounts[(budget.name, 0)] for budget in self.config.budgets]
        return View(
            seen=self.seen,
            window=self.window.newest(self.seen - self.window_from, self.seen),
            prior=Sample.untagged(
                self.prior.quality, self.prior.cost_micros, None if forecast is None else forecast.rows
            ),
            amount=np.array([account.amount for account in accounts], dtype=np.float64),
            balance=np.array([account.available for account in accounts], dtype=np.float64),
            prices=self.prices or (0.0,) * len(accounts),
            to_come=None if forecast is None else forecast.shares(self._horizon),
        )

    @property
    def _horizon(self) -> int:
        """The queries that will have come in all since their kinds are counted; 0: nobody knows."""
        if self.forecast is None or not self.config.horizon_queries:
            return 0
        return max(1, self.config.horizon_queries - self.seen + sum(self.forecast.seen.counts))


def _window_shape(config: Configuration) -> tuple[object, ...]:
    """What the rows of a window depend on. Their cells are numbers of budgets with tags."""
    tags = tuple((number, budget.tags) for number, budget in enumerate(config.budgets) if budget.tags)
    counts_tokens = any(budget.resource == "tokens" for budget in config.budgets)
    return config.llms, config.index, config.window_queries, tags, counts_tokens, config.kinds
