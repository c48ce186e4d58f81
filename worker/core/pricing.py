"""What each LLM's budget is worth to a lane now: prices in force, the estimates they came from, the policy. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from worker.contract.codes import Exclusion
from worker.contract.messages import AccountRow, Configuration, Fit, WindowBlock
from worker.core.candidates import exclusions
from worker.core.events import Arrived
from worker.core.ledger import Ledger
from worker.core.policy import Policy, Reason, View
from worker.core.window import Window

OBSERVING = Fit("observing", 0.0, 0.0, 0, "no_prices")


Policies = Callable[[Configuration, int], Policy]


@dataclass(frozen=True)
class Prior:
    """Leave-one-out estimates of a sample of history: what prices are solved on before there are queries. [n, LLMs]"""

    quality: NDArray[np.float64]
    cost_micros: NDArray[np.float64]


class Pricing:
    """The prices of one lane under one configuration. `prices` is empty until the first solution.

    `seen` counts first-time queries priced; the window holds the estimates since `seen` was `window_from`.
    """

    def __init__(self, policy: Policy, config: Configuration, prior: Prior, seen: int = 0) -> None:
        self.config = config
        self.policy = policy
        self.prior = prior
        self.window = Window(config.window_queries, len(config.llms))
        self.window_from = self.seen = seen
        self.prices: tuple[float, ...] = ()
        self.fit = OBSERVING

    @classmethod
    def restored(
        cls, policy: Policy, config: Configuration, prior: Prior, row: AccountRow, window: Mapping[int, WindowBlock]
    ) -> Self:
        """The prices and the window that an account row and window blocks hold."""
        pricing = cls(policy, config, prior, row.seen)
        pricing.window_from = row.window_from
        pricing.prices, pricing.fit = tuple(row.prices.values()), row.fit
        for number, block in window.items():
            pricing.window.restore(number, block)
        return pricing

    def take_over(self, old: Pricing) -> bool:
        """Go on with the window of an older configuration, if it means the same under this one; says whether."""
        if _window_shape(old.config) != _window_shape(self.config):
            return False
        self.window, self.window_from = old.window, old.window_from
        return True

    def is_due(self) -> bool:
        """Whether to solve before the next query is priced."""
        return not self.prices or self.policy.due(self.seen)

    def solve(self, ledger: Ledger) -> None:
        """Put new prices in force, or keep the old ones with the reason in `fit`."""
        solution = self.policy.solve(self._view(ledger))
        self.prices, self.fit = solution.prices, solution.fit

    def rank(self, query: Arrived) -> list[int]:
        """The candidates worth trying for this query, best first."""
        excluded = self.excluded(query)
        if not excluded:
            return self.policy.rank(self.seen, query.quality, query.cost_micros, self.prices)
        llms = self.config.llms
        quality = [-math.inf if llm in excluded else q for llm, q in zip(llms, query.quality, strict=True)]
        ranked = self.policy.rank(self.seen, quality, query.cost_micros, self.prices)
        return [i for i in ranked if llms[i] not in excluded]

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
        self.window.put(self.seen, quality, query.cost_micros)
        self.seen += 1

    def _view(self, ledger: Ledger) -> View:
        llms = self.config.llms
        quality, cost_micros = self.window.newest(self.seen - self.window_from, self.seen)
        return View(
            seen=self.seen,
            window_quality=quality,
            window_cost_micros=cost_micros,
            prior_quality=self.prior.quality,
            prior_cost_micros=self.prior.cost_micros,
            budget_micros=np.array([ledger.accounts[llm].budget_micros for llm in llms], dtype=np.float64),
            balance_micros=np.array([ledger.available_micros(llm) for llm in llms], dtype=np.float64),
            prices=self.prices or (0.0,) * len(llms),
        )


def _window_shape(config: Configuration) -> tuple[object, ...]:
    return config.llms, config.index, config.window_queries
