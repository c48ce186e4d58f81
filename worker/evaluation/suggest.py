"""What money buys: the quality of so many queries under one budget, under one budget for each LLM, and all to one LLM.

History is divided as in any evaluation: a part is learnt from, and the other part is routed by the worker's own policy
under the paper's rule. So the figures are of queries that nobody learnt from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from worker.contract.accounts import Budget
from worker.evaluation.many_budgets import Company, Played, Priced, play
from worker.evaluation.scenario import Scenario, best_spending
from worker.evaluation.study import Finding, Point, Study

MICROS_PER_USD = 1_000_000
# The money of the picture, in multiples of the money asked about.
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
EVERYTHING = "all LLMs"
# Budgets are counted in micro-dollars.
LEAST_USD = 1e-6


class Bought(Struct, frozen=True):
    """What money buys, for all queries of a period: means over draws. `quality` is of a query; one that no LLM serves
    has 0."""

    routing: str
    quality: float
    served: float
    usd: float


class Share(Struct, frozen=True):
    """A part of the money that is kept for one LLM."""

    llm: str
    usd: float


class Suggestion(Struct, frozen=True):
    """What `usd` for `queries` buys. `split` is the best division over the LLMs, known from history."""

    usd: float
    queries: int
    total: Bought
    divided: Bought
    split: tuple[Share, ...]
    alone: tuple[Bought, ...]
    by_money: tuple[Bought, ...]


def suggest(study: Study, usd: float, queries: int) -> Suggestion:
    """What so much money for so many queries like those of history buys."""
    scenarios = study.scenarios()
    per_query = usd * MICROS_PER_USD / queries
    amounts = [_split(scenario, per_query) for scenario in scenarios]
    shares = np.mean([each / each.sum() for each in amounts], axis=0)

    def bought(routing: str, played: Sequence[Played]) -> Bought:
        spent = float(np.mean([each.cost_micros for each in played])) * queries / MICROS_PER_USD
        quality, served = (float(np.mean([getattr(each, name) for each in played])) for name in ("quality", "served"))
        return Bought(routing, quality, served, spent)

    def under(multiple: float) -> list[Played]:
        study.listener(f"one budget of {multiple * usd:,.2f} USD")
        return [_one_budget(scenario, multiple * per_query) for scenario in scenarios]

    by_money = tuple(bought(f"{multiple * usd:.2f}", under(multiple)) for multiple in MULTIPLES)
    study.listener("a budget for each LLM")
    divided = [_divided(scenario, each) for scenario, each in zip(scenarios, amounts, strict=True)]
    llms = scenarios[0].live.llms
    order = np.argsort([float(scenarios[0].live.cost_micros[:, llm].mean()) for llm in range(len(llms))])
    return Suggestion(
        usd=usd,
        queries=queries,
        total=replace(by_money[MULTIPLES.index(1.0)], routing="one budget for all LLMs"),
        divided=bought("a budget for each LLM", divided),
        split=tuple(Share(llms[llm], float(shares[llm]) * usd) for llm in order if shares[llm] * usd >= LEAST_USD),
        alone=tuple(bought(llms[llm], [_alone(each, int(llm), per_query) for each in scenarios]) for llm in order),
        by_money=by_money,
    )


def picture(suggestion: Suggestion) -> Finding:
    """Quality by money, and what each LLM alone reaches with the money of the middle."""
    lines = {"priced": [Point(float(each.routing), each.quality) for each in suggestion.by_money]}
    dots = {each.routing: [Point(max(each.usd, 1e-6), each.quality)] for each in suggestion.alone}
    axes = f"USD for {suggestion.queries:,} queries", "mean quality"
    return Finding(
        "what money buys", (), (), dots | lines, axes, log_x=True, dots="all to one LLM, until its money ends"
    )


def _split(scenario: Scenario, per_query: float) -> np.ndarray:
    """Micro-dollars [M] for the queries of a scenario."""
    shares = best_spending(scenario.estimator.prior, per_query)
    if not shares.sum():
        shares = np.ones(len(shares))
    divided: np.ndarray = np.floor(shares / shares.sum() * per_query * scenario.queries)
    return divided


def _one_budget(scenario: Scenario, per_query: float) -> Played:
    return _routed(scenario, (Budget(EVERYTHING, "usd", int(per_query * scenario.queries)),))


def _divided(scenario: Scenario, amounts: np.ndarray) -> Played:
    pairs = zip(scenario.live.llms, amounts.tolist(), strict=True)
    return _routed(scenario, tuple(Budget(llm, "usd", int(amount), (llm,)) for llm, amount in pairs))


def _routed(scenario: Scenario, budgets: tuple[Budget, ...]) -> Played:
    config = replace(scenario.configuration("priced"), budgets=budgets)
    company = Company(scenario, config, ({},) * scenario.queries)
    return play(company, Priced(company, config))


def _alone(scenario: Scenario, llm: int, per_query: float) -> Played:
    """All queries to one LLM, until the money ends."""
    cost = scenario.live.cost_micros[:, llm]
    pays = np.cumsum(cost) <= per_query * len(cost)
    quality = scenario.live.quality[:, llm]
    return Played(float(quality[pays].sum() / len(cost)), float(cost[pays].sum() / len(cost)), float(pays.mean()))
