"""Prices of many budgets that overlap: beside the best routing that HiGHS finds, and what each budget is worth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog

from tests.drive import config
from worker.contract.accounts import Budget
from worker.core.draws import Draws
from worker.core.market import Market, market_of
from worker.core.solver import solve
from worker.core.window import Sample

# What the dual may be above the optimum, as a share of it.
WORST_GAP = 0.02


class Company(NamedTuple):
    """Estimates of queries of several teams, and budgets per query: of LLMs, providers, teams and the company."""

    draws: Draws
    sample: Sample
    per_query: np.ndarray


def company(llms: int, teams: int, queries: int, share: float, seed: int = 0, providers: int = 3) -> Company:
    """A company whose budgets pay some `share` of its queries. Teams are of different sizes."""
    random = np.random.default_rng(seed)
    names = tuple(f"llm-{number}" for number in range(llms))
    common = random.random((queries, 1)) * 0.5 + random.normal(0.3, 0.1, llms)
    quality = np.clip(common + random.normal(0, 0.1, (queries, llms)), 0, 1)
    cost = random.lognormal(5.0, 0.7, (queries, llms)) * random.lognormal(0.0, 1.0, llms)
    sizes = random.dirichlet(np.full(teams, 2.0)) if teams else np.ones(1)
    of_team = random.choice(max(teams, 1), queries, p=sizes)
    mean = cost.mean(axis=0)
    own = [Budget(name, "usd", 0, (name,)) for name in names]
    of_providers = [Budget(f"provider-{n}", "usd", 0, names[n::providers]) for n in range(providers)]
    of_teams = [Budget(f"team-{n}", "usd", 0, tags={"team": str(n)}) for n in range(teams)]
    budgets = (*own, *of_providers, *of_teams, Budget("company", "usd", 0))
    typical = float(np.median(mean)) * share
    spread = random.uniform(0.5, 1.5, len(budgets))
    amounts = np.concatenate(
        [
            2 * share * mean / llms,
            [typical / providers] * providers,
            typical * sizes[:teams],
            [0.8 * typical],
        ]
    )
    draws = Draws(config(llms=names, margins=(1.2,) * llms, budgets=budgets, budget_micros={}))
    cells = tuple(draws.cell({"team": str(team)}) for team in of_team)
    return Company(draws, Sample(quality, cost, cells, np.zeros(queries, np.int64)), amounts * spread)


def optimum(here: Market) -> float:
    """The mean quality of the best routing in shares of queries, by HiGHS."""
    llms, queries = here.quality.shape
    place = np.arange(llms * queries)
    each = sparse.csr_matrix((np.ones(len(place)), (place % queries, place)), shape=(queries, len(place)))
    rows = here.cells[place % queries] * llms + place // queries
    spent = sum(sparse.diags(use.amount.ravel()) @ use.draws[rows] for use in here.uses).T / queries
    limits = np.concatenate([np.ones(queries), here.budget])
    found = linprog(-here.quality.ravel(), A_ub=sparse.vstack([each, spent]), b_ub=limits, method="highs")
    assert found.status == 0, found.message
    return float(-found.fun / queries)


SIZES = [(17, 5, 600, 0.3), (17, 5, 600, 0.8), (34, 30, 500, 0.4), (100, 196, 250, 0.4), (300, 40, 120, 0.5)]


@pytest.mark.parametrize(("llms", "teams", "queries", "share"), SIZES)
@pytest.mark.parametrize("start", [0.0, 1e6], ids=["from nothing", "from far too high prices"])
def test_prices_of_overlapping_budgets_reach_the_optimum(
    llms: int, teams: int, queries: int, share: float, start: float
) -> None:
    """The dual objective is within 2 % of what HiGHS reaches, for up to 300 LLMs and 300 budgets."""
    made = company(llms, teams, queries, share)
    here = market_of(made.sample, made.draws, made.per_query)
    best = optimum(here)
    found, fit = solve(here, (start,) * len(here.budget))
    assert fit.status == "converged", fit
    assert best - 1e-6 <= fit.objective <= best * (1 + WORST_GAP), (best, fit)
    assert fit.gap <= 0.05, fit
    assert any(found), "budgets are short, so some have a price"
