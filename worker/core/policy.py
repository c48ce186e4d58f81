"""The routing policies behind one interface. Pure and deterministic: no clock, no global randomness.

`priced` (the default) weighs quality against the live prices of all budgets that a query draws on, and re-solves the
prices as queries come. `port` is the algorithm of arXiv 2509.02718 as published, for comparison. It knows one budget
for each LLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from math import ceil
from typing import Literal, Protocol

import numpy as np
from scipy.optimize import OptimizeResult, minimize

from worker.contract.accounts import Budget
from worker.contract.errors import FixSetting
from worker.contract.messages import Configuration, Fit
from worker.core.draws import Draws
from worker.core.forecast import weights
from worker.core.market import Market, market_of
from worker.core.solver import certificate, dual, ended, in_units, solve
from worker.core.window import Sample
from worker.estimation.features import Float64

Reason = Literal["best_score", "observing", "exploring"]
POLICIES = ("priced", "port")
PORT_ALPHA = 1e-4
MICROS_PER_USD = 1e6


@dataclass(frozen=True)
class View:
    """All that a policy may look at when it solves, for B budgets.

    `seen` counts the first-time queries priced so far by this lane. `window` has the newest estimates, `prior` those
    that come from history. `amount` and `balance` float64 [B] are in whole units of each budget; the balance is the
    amount less spent less reserved, >= 0. `prices` [B] are those in force, in quality per unit. `to_come` is the share
    of each kind of query among those to come; None: nothing is forecast.
    """

    seen: int
    window: Sample
    prior: Sample
    amount: Float64
    balance: Float64
    prices: tuple[float, ...]
    to_come: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Solution:
    """Prices in force from here on, and how they were found."""

    prices: tuple[float, ...]
    fit: Fit


class Policy(Protocol):
    """When to solve for prices, how, and which LLMs to try for one query.

    Prices are also solved whenever a configuration comes into force, so that the first query need not wait for them.
    """

    def due(self, seen: int) -> bool:
        """Whether to solve before pricing query number `seen` (from 0)."""

    def solve(self, view: View) -> Solution:
        """New prices, or the old ones with the reason."""

    def objective(self, view: View, prices: Sequence[float]) -> float:
        """The dual objective of these prices on what `solve` would look at: the lower, the better."""

    def rank(self, seen: int, quality: Sequence[float], charges: Sequence[float]) -> list[int]:
        """LLMs worth trying for query number `seen`, best first; none: priced out.

        `charges` [LLMs] are what each would use of the budgets, at their prices.
        """

    def reason(self, seen: int) -> Reason:
        """Why query number `seen` went where it went."""


class PolicyAround:
    """Ranks as another policy does; a subclass says when and how prices are solved. Audits put it around a policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def objective(self, view: View, prices: Sequence[float]) -> float:
        """As the other policy measures prices."""
        return self.policy.objective(view, prices)

    def rank(self, seen: int, quality: Sequence[float], charges: Sequence[float]) -> list[int]:
        """As the other policy ranks."""
        return self.policy.rank(seen, quality, charges)

    def reason(self, seen: int) -> Reason:
        """As the other policy says."""
        return self.policy.reason(seen)


def make_policy(config: Configuration, partition: int) -> Policy:
    """The policy that `config` names. Raises FixSetting for an unknown name."""
    if config.policy == "priced":
        return PricedPolicy(config)
    if config.policy == "port":
        return PortPolicy(config, partition)
    raise FixSetting(f"policy: {config.policy!r} is not one of {', '.join(POLICIES)}")


@dataclass(frozen=True)
class PricedPolicy:
    """Score = quality - charge; every LLM scoring above 0 is worth trying, best first.

    Re-solved every `resolve_every_queries` on what is forecast, or else on the newest `window_queries` estimates, and
    history's as far as they do not suffice, for what is left of each budget: balance / (horizon - seen). When the
    horizon is unknown (0) or used up, as if `horizon_floor_queries` were still to come, however many came: the price
    stays finite and the balance lasts.
    """

    config: Configuration

    def due(self, seen: int) -> bool:
        return seen > 0 and seen % self.config.resolve_every_queries == 0

    def solve(self, view: View) -> Solution:
        here = self._market(view)
        if here is None:
            return Solution(view.prices, Fit("kept", 0.0, 1.0, 0, "no_estimates"))
        return Solution(*solve(here, view.prices))

    def objective(self, view: View, prices: Sequence[float]) -> float:
        here = self._market(view)
        return 0.0 if here is None else dual(here, in_units(here, prices))

    def _market(self, view: View) -> Market | None:
        newest = view.window.newest(self.config.window_queries)
        prior, per_query = view.prior, np.maximum(view.balance, 0.0) / self.remaining_queries(view.seen)
        if not len(newest.quality) + len(prior.quality):
            return None
        if view.to_come is None:
            return market_of(newest.topped_up(prior, self.config.window_queries), self._draws, per_query)
        sample = newest.topped_up(prior.tagged_as(newest), len(newest.quality) + len(prior.quality))
        return market_of(sample, self._draws, per_query, weights(view.to_come, sample.kinds))

    def remaining_queries(self, seen: int) -> int:
        """The queries still to be paid from the balance; at least 1."""
        left = self.config.horizon_queries - seen
        return left if left > 0 else max(self.config.horizon_floor_queries, 1)

    def rank(self, seen: int, quality: Sequence[float], charges: Sequence[float]) -> list[int]:
        scores = [q - charge for q, charge in zip(quality, charges, strict=True)]
        worth = [llm for llm, score in enumerate(scores) if score > 0.0]
        # Equal scores stay in the order of the LLMs, also reversed.
        worth.sort(key=scores.__getitem__, reverse=True)
        return worth

    def reason(self, seen: int) -> Reason:
        return "best_score"

    @cached_property
    def _draws(self) -> Draws:
        return Draws(self.config)


@dataclass(frozen=True)
class PortPolicy:
    """PORT as published: random LLMs (or none) for the first queries, then weights learned once, then argmax only.

    No gate and no second choice: a query whose argmax cannot be afforded is dropped. Its score alpha * q - gamma * c
    (dollars) is ranked here as q - (gamma / alpha) * c.
    """

    config: Configuration
    partition: int

    @property
    def observed_queries(self) -> int:
        """The length of the observation phase: a share of the horizon, or of its floor when that is unknown."""
        return ceil(self.config.observe_share * (self.config.horizon_queries or self.config.horizon_floor_queries))

    def due(self, seen: int) -> bool:
        return seen == self.observed_queries

    def solve(self, view: View) -> Solution:
        if not len(view.window.quality):
            return Solution(view.prices, Fit("observing", 0.0, 1.0, 0, "no_estimates"))
        found = port_weights(
            view.window.quality,
            view.window.cost_micros / MICROS_PER_USD,
            view.amount[self._of_llms] / MICROS_PER_USD,
            self.config.observe_share,
        )
        # A budget over more than one LLM has no weight in the paper.
        prices = np.zeros(len(view.amount))
        prices[self._of_llms] = found.x / PORT_ALPHA / MICROS_PER_USD
        return self._certified(view, prices, found)

    def objective(self, view: View, prices: Sequence[float]) -> float:
        if not len(view.window.quality):
            return 0.0
        here = self._market(view)
        return dual(here, in_units(here, prices))

    def _market(self, view: View) -> Market:
        per_query = view.amount * self.config.observe_share / len(view.window.quality)
        return market_of(view.window, Draws(self.config), per_query)

    @cached_property
    def _of_llms(self) -> list[int]:
        """The number of each LLM's own budget."""
        own = {budget.llms: number for number, budget in enumerate(self.config.budgets) if _is_of_llm(budget)}
        return [own[llm,] for llm in self.config.llms]

    def _certified(self, view: View, prices: Float64, found: OptimizeResult) -> Solution:
        here = self._market(view)
        proof = certificate(here, in_units(here, prices.tolist()))
        if not np.isfinite(prices).all():
            return Solution(view.prices, Fit("kept", proof.objective, 1.0, int(found.nit), "not_finite"))
        fit = Fit("converged", proof.objective, proof.gap, int(found.nit), ended(found))
        return Solution(tuple(float(price) for price in prices), fit)

    def rank(self, seen: int, quality: Sequence[float], charges: Sequence[float]) -> list[int]:
        if seen < self.observed_queries:
            drawn = draw(self.config.seed, self.partition, seen, len(quality) + 1)
            return [drawn] if drawn < len(quality) else []
        scores = [q - charge for q, charge in zip(quality, charges, strict=True)]
        return [scores.index(max(scores))]

    def reason(self, seen: int) -> Reason:
        return "observing" if seen < self.observed_queries else "best_score"


def _is_of_llm(budget: Budget) -> bool:
    return budget.resource == "usd" and len(budget.llms) == 1 and not budget.tags


def port_weights(quality: Float64, cost_usd: Float64, budget_usd: Float64, epsilon: float) -> OptimizeResult:
    """gamma [M] (as `x`) of the paper's algorithm 1, on the observed queries; from 1/M within [0, 1], as published.

    min over gamma of  epsilon * gamma @ budget + sum_j max_i (alpha * q_ji - gamma_i * c_ji), in dollars.
    """
    llms = len(budget_usd)

    def objective(gamma: Float64) -> float:
        return float(epsilon * gamma @ budget_usd + (PORT_ALPHA * quality - cost_usd * gamma).max(axis=1).sum())

    return minimize(objective, np.full(llms, 1.0 / llms), method="L-BFGS-B", bounds=[(0.0, 1.0)] * llms)


def draw(seed: int, partition: int, seen: int, outcomes: int) -> int:
    """A uniform draw below `outcomes` that depends on nothing but its arguments, the same on any machine."""
    digest = blake2b(f"{seed}/{partition}/{seen}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % outcomes
