"""Many budgets at once, as a company has them: of each LLM, each provider, each tenant, and one total. Pure.

A query draws on four of them. The best routing in hindsight is a linear program over all queries, on the estimates that
the router had. Beside the router that prices all budgets stand two others. They price the LLMs' budgets alone, or none,
and filter by the others: an LLM that a budget cannot pay is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from worker.contract.accounts import Budget
from worker.contract.messages import Configuration
from worker.core.draws import Draws
from worker.core.policy import View, make_policy
from worker.core.pricing import Pricing, Prior
from worker.core.window import Sample
from worker.estimation.features import Float64
from worker.evaluation.baselines import Choice
from worker.evaluation.scenario import Scenario
from worker.evaluation.study import Finding, Study

PROVIDERS, TENANTS = 3, 5
# What each total is of the sum of the LLMs' budgets under it: all of them bind.
OF_PROVIDER, OF_TENANT, OF_COMPANY = 0.8, 0.9, 0.85


@dataclass(frozen=True)
class Company:
    """A scenario whose queries have tenants: `tags` [n] name the tenant of each. `config` has all budgets."""

    scenario: Scenario
    config: Configuration
    tags: tuple[dict[str, str], ...]

    @property
    def draws(self) -> Draws:
        """What each query draws on."""
        return Draws(self.config)

    @property
    def sample(self) -> Sample:
        """The estimates of all queries."""
        estimates, draws = self.scenario.estimates, self.draws
        cells = tuple(draws.cell(tags) for tags in self.tags)
        nothing = np.zeros(len(cells), np.int64)
        return Sample(
            estimates.quality.astype(np.float64), estimates.cost_micros.astype(np.float64), cells, nothing, nothing
        )


def company_of(scenario: Scenario) -> Company:
    """Give a scenario providers, tenants and a total. Tenants are of different sizes."""
    random, llms = np.random.default_rng(scenario.seed), scenario.live.llms
    sizes = random.dirichlet(np.full(TENANTS, 2.0))
    of_query = random.choice(TENANTS, scenario.queries, p=sizes)
    total = int(scenario.budget_micros.sum())
    providers = tuple(
        Budget(
            f"provider {number}",
            "usd",
            int(OF_PROVIDER * scenario.budget_micros[number::PROVIDERS].sum()),
            llms[number::PROVIDERS],
        )
        for number in range(PROVIDERS)
    )
    tenants = tuple(
        Budget(f"tenant {number}", "usd", int(OF_TENANT * size * total), tags={"tenant": str(number)})
        for number, size in enumerate(sizes)
    )
    everything = Budget("company", "usd", int(OF_COMPANY * total))
    config = scenario.configuration("priced")
    budgets = (*config.budgets, *providers, *tenants, everything)
    tags = tuple({"tenant": str(number)} for number in of_query)
    return Company(scenario, replace(config, budgets=budgets), tags)


def many_budgets(study: Study) -> Finding:
    """Many budgets at once (LLMs, providers, tenants, a total): all of them priced, beside filtering."""
    found: dict[str, list[float]] = {}
    for scenario in study.scenarios():
        company = company_of(scenario)
        study.listener(f"seed {scenario.seed}: the best routing in hindsight")
        best = play(company, Fixed(hindsight(company))).quality
        for name, priced in _variants(company):
            study.listener(f"seed {scenario.seed}: {name}")
            found.setdefault(name, []).append(play(company, Priced(company, priced)).quality / best)
    rows = [(name, f"{np.mean(shares):.3f} ± {np.std(shares):.3f}") for name, shares in found.items()]
    count = len(company.config.budgets)
    title = f"true quality, as a share of the linear program in hindsight; {count} budgets, {study.seeds} seeds"
    return Finding(title, ("budgets", "share"), rows)


def hindsight(company: Company) -> Choice:
    """argmax of the linear program over all queries, on the estimates: [n], -1 for a query that it does not serve."""
    sample, draws = company.sample, company.draws
    queries, llms = sample.quality.shape
    place = np.arange(queries * llms)
    cells: dict[tuple[int, ...], int] = {}
    number = np.array([cells.setdefault(cell, len(cells)) for cell in sample.cells])
    drawn = np.zeros((len(cells), llms, len(draws.budgets)))
    for cell, row in cells.items():
        for llm, budgets in enumerate(draws.matching(cell)):
            drawn[row, llm, list(budgets)] = 1.0
    each = sparse.csr_matrix((np.ones(len(place)), (place // llms, place)), shape=(queries, len(place)))
    uses = sparse.csr_matrix(drawn.reshape(-1, len(draws.budgets)))[number[place // llms] * llms + place % llms]
    spent = (sparse.diags(sample.cost_micros.ravel()) @ uses).T
    amounts = np.maximum(np.array([budget.amount for budget in draws.budgets], dtype=np.float64), 1.0)
    scaled = sparse.diags(1.0 / amounts) @ spent
    limits = np.concatenate([np.ones(queries), np.ones(len(amounts))])
    solved = linprog(-sample.quality.ravel(), A_ub=sparse.vstack([each, scaled]), b_ub=limits, method="highs")
    share = solved.x.reshape(queries, llms)
    return np.where(share.max(axis=1) > 0, share.argmax(axis=1), -1)


class Fixed:
    """Chosen beforehand."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def ranking(self, number: int, balance: Float64) -> list[int]:
        """The one LLM chosen, if any."""
        chosen = int(self._choice[number])
        return [] if chosen < 0 else [chosen]


class Priced:
    """The worker's own policy, with prices of these budgets. None: no budget has a price."""

    def __init__(self, company: Company, priced: Configuration | None) -> None:
        self._is_priced = priced is not None
        priced = priced or company.config
        prior = company.scenario.estimator.prior
        self._sample, self._tags = company.sample, company.tags
        self._prior = Sample.untagged(prior.quality.astype(np.float64), prior.cost_micros.astype(np.float64))
        self._pricing = Pricing(make_policy(priced, 0), priced, Prior(self._prior.quality, self._prior.cost_micros))
        self._rows = self._sample.quality.tolist(), self._sample.cost_micros.tolist()
        names = [budget.name for budget in company.config.budgets]
        self._numbers = [names.index(budget.name) for budget in priced.budgets]

    def ranking(self, number: int, balance: Float64) -> list[int]:
        """The LLMs by their scores, best first."""
        pricing, policy = self._pricing, self._pricing.policy
        quality, cost = self._rows[0][number], self._rows[1][number]
        if not self._is_priced:
            return policy.rank(number, quality, [0.0] * len(quality))
        if not pricing.prices or policy.due(number):
            pricing.put(policy.solve(self._view(number, balance)))
        return policy.rank(number, quality, pricing.charged(self._tags[number], cost, 0))

    def _view(self, number: int, balance: Float64) -> View:
        budgets, sample = self._pricing.config.budgets, self._sample
        rows = slice(max(0, number - self._pricing.config.window_queries), number)
        seen = sample.part(rows)
        amounts = np.array([budget.amount for budget in budgets], dtype=np.float64)
        prices = self._pricing.prices or (0.0,) * len(budgets)
        return View(number, seen, self._prior, amounts, balance[self._numbers], prices)


def _variants(company: Company) -> Iterator[tuple[str, Configuration | None]]:
    """What is priced. Whatever is not, filters."""
    own = tuple(budget for budget in company.config.budgets if len(budget.llms) == 1)
    yield "all priced", company.config
    yield "the LLMs' priced, the others filter", replace(company.config, budgets=own)
    yield "none priced, all filter", None


class Played(NamedTuple):
    """Means over all queries: true quality (0 of one that no LLM serves), true cost, and the share that is served."""

    quality: float
    cost_micros: float
    served: float


def play(company: Company, chooser: Fixed | Priced) -> Played:
    """Route all queries by the paper's rule: an LLM whose budgets cannot all pay the true cost is passed over."""
    live, matching = company.scenario.live, list(_matching(company))
    balance = np.array([budget.amount for budget in company.config.budgets], dtype=np.float64)
    value = spent = 0.0
    served = 0
    for number in range(company.scenario.queries):
        for llm in chooser.ranking(number, balance):
            drawn, cost = matching[number][llm], live.cost_micros[number, llm]
            if (balance[drawn] >= cost).all():
                balance[drawn] -= cost
                value, spent, served = value + float(live.quality[number, llm]), spent + float(cost), served + 1
                break
    queries = company.scenario.queries
    return Played(value / queries, spent / queries, served / queries)


def _matching(company: Company) -> Iterator[list[NDArray[np.int64]]]:
    """The budgets that each query draws on, for each LLM."""
    draws = company.draws
    known: dict[tuple[int, ...], list[NDArray[np.int64]]] = {}
    for tags in company.tags:
        cell = draws.cell(tags)
        if cell not in known:
            known[cell] = [np.array(numbers, np.int64) for numbers in draws.matching(cell)]
        yield known[cell]
