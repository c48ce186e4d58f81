"""The solver of prices on made-up companies of growing size, beside the best routing that HiGHS finds. Pure.

A company has a budget of each LLM, of three providers, of each team, and one total. Teams are of different sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import process_time
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from worker.contract.accounts import Budget
from worker.contract.messages import Configuration, Fit
from worker.core.draws import Draws
from worker.core.market import Market, market_of
from worker.core.solver import solve
from worker.core.window import Sample
from worker.estimation.features import Float64
from worker.evaluation.study import Finding, Study

PROVIDERS = 3
# LLMs, teams and queries, and the share of the queries that the budgets pay. The last two are what a lane may have.
SIZES = ((17, 5, 1_000, 0.3), (17, 5, 1_000, 0.8), (34, 30, 600, 0.4), (100, 196, 250, 0.4), (300, 40, 150, 0.5))


class MadeUp(NamedTuple):
    """Estimates of the queries of several teams, and what each budget has per query [B]."""

    draws: Draws
    sample: Sample
    per_query: Float64

    @property
    def market(self) -> Market:
        """What prices are solved on."""
        return market_of(self.sample, self.draws, self.per_query)


def made_up(llms: int, teams: int, queries: int, share: float, seed: int = 0) -> MadeUp:
    """A company whose budgets pay some `share` of its queries."""
    random = np.random.default_rng(seed)
    names = tuple(f"llm-{number}" for number in range(llms))
    common = random.random((queries, 1)) * 0.5 + random.normal(0.3, 0.1, llms)
    quality = np.clip(common + random.normal(0, 0.1, (queries, llms)), 0, 1)
    cost = random.lognormal(5.0, 0.7, (queries, llms)) * random.lognormal(0.0, 1.0, llms)
    sizes = random.dirichlet(np.full(teams, 2.0))
    of_query = random.choice(teams, queries, p=sizes)
    mean = cost.mean(axis=0)
    typical = float(np.median(mean)) * share
    totals = [typical / PROVIDERS] * PROVIDERS, typical * sizes, [0.8 * typical]
    per_query = np.concatenate([2 * share * mean / llms, *totals])
    draws = Draws(_configuration(names, tuple(_budgets(names, teams))))
    cells = tuple(draws.cell({"team": str(team)}) for team in of_query)
    unknown = np.zeros(queries, np.int64)
    sample = Sample(quality, cost, cells, unknown, unknown)
    return MadeUp(draws, sample, per_query * random.uniform(0.5, 1.5, len(per_query)))


def _budgets(llms: tuple[str, ...], teams: int) -> Iterator[Budget]:
    """The amounts are given per query, so none is set here."""
    for llm in llms:
        yield Budget(llm, "usd", 0, (llm,))
    for number in range(PROVIDERS):
        yield Budget(f"provider {number}", "usd", 0, llms[number::PROVIDERS])
    for number in range(teams):
        yield Budget(f"team {number}", "usd", 0, tags={"team": str(number)})
    yield Budget("company", "usd", 0)


def _configuration(llms: tuple[str, ...], budgets: tuple[Budget, ...]) -> Configuration:
    return Configuration(
        llms=llms,
        budgets=budgets,
        margins=(1.0,) * len(llms),
        policy="priced",
        horizon_queries=0,
        horizon_floor_queries=1,
        resolve_every_queries=1,
        window_queries=1,
        observe_share=1.0,
        max_attempts=1,
        reservation_ms=1,
        checkpoint_every=1,
        seed=0,
        index="",
        max_cost_micros=1,
    )


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


def price_sizes(study: Study) -> Finding:
    """The solver of prices at 17 to 300 LLMs with up to 344 budgets that overlap, beside HiGHS; needs no data."""
    rows = []
    for llms, teams, queries, share in SIZES:
        company = made_up(llms, teams, queries, share)
        here = company.market
        study.listener(f"{llms} LLMs, {len(here.budget)} budgets")
        prices, fit, seconds = _timed(here, (0.0,) * len(here.budget))
        _, _, again = _timed(here, prices)
        started = process_time()
        above = fit.objective / optimum(here) - 1.0
        highs = process_time() - started
        sizes = str(llms), str(len(here.budget)), str(queries)
        times = f"{1_000 * seconds:,.0f} ms", f"{1_000 * again:,.0f} ms", f"{1_000 * highs:,.0f} ms"
        rows.append((*sizes, f"{above:.4%}", f"{fit.gap:.2%}", *times))
    title = "the dual objective, above the optimum of HiGHS; gap is the solver's own certificate; CPU times"
    return Finding(title, ("LLMs", "budgets", "queries", "above", "gap", "solved", "solved again", "HiGHS"), rows)


def _timed(here: Market, start: tuple[float, ...]) -> tuple[tuple[float, ...], Fit, float]:
    started = process_time()
    prices, fit = solve(here, start)
    return prices, fit, process_time() - started
