"""Experiments that play policies under other plans than the usual one. Pure; each says in one line what it varies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worker.core.policy import PricedPolicy, draw
from worker.estimation.estimator import Estimates
from worker.evaluation.scenario import ORDERS, SPLITS, Scenario
from worker.evaluation.simulate import Online, online, play_paper
from worker.evaluation.study import Finding, Points, Study, compared, of_reference

FOUR = ("random", "batch-split", "port", "priced")
BUDGETS = (0.25, 0.5, 1.0, 2.0, 4.0)
QUERIES = (0.1, 0.25, 0.5, 1.0)
OBSERVED = (0.01, 0.02, 0.025, 0.03, 0.04, 0.05)
RESOLVED = (0.01, 0.025, 0.1)
WINDOWS = (100, 250, 1000, 4000)
LLMS = (2, 4, 6, 8, 12, 18)
PARTITIONS = (1, 2, 4, 8, 16, 32, 64)


def budget(study: Study) -> Finding:
    """How quality grows with the budget (the paper's figure 2)."""
    plans = {share: replace(study.plan, budget=share) for share in BUDGETS}
    return compared(study, "budget, in costs of the cheapest LLM for all queries", "budget", plans, FOUR)


def arrivals(study: Study) -> Finding:
    """In which order queries come: at random, sorted by category, or the hardest last."""
    orders = [order for order in ORDERS if order != "source" or study.history.categories is not None]
    return compared(
        study, "order of arrival", "order", {order: replace(study.plan, order=order) for order in orders}, FOUR
    )


def queries(study: Study) -> Finding:
    """How quality depends on the number of queries (the paper's figure 3)."""
    rows, lines = [], {policy: Points() for policy in FOUR}
    whole = study.scenario(study.all_seeds[0]).queries
    for share in QUERIES:
        smaller = replace(
            study, plan=replace(study.plan, test=max(2, round(whole * share))), _scenarios={}, _references={}
        )
        found = compared(smaller, "", "", {float(smaller.plan.test or 0): smaller.plan}, FOUR)
        rows.append((f"{smaller.plan.test:,}", *found.rows[0][1:]))
        for policy in FOUR:
            lines[policy] += found.lines[policy]
    return Finding("number of queries", ("queries", *FOUR), rows, lines, ("queries", "quality / reference"))


def observation(study: Study) -> Finding:
    """PORT by its observation fraction; priced with history's prior, and with random observation instead of it."""
    rows, lines = [], {"port": Points(), "priced, observing": Points()}
    for share in OBSERVED:
        plan = replace(study.plan, observe_share=share)
        port = float(
            np.mean(
                [
                    of_reference(study, scenario, online(scenario, "port", scenario.exact))
                    for scenario in study.scenarios(plan)
                ]
            )
        )
        blind = float(
            np.mean([of_reference(study, scenario, _unprepared(scenario, share)) for scenario in study.scenarios(plan)])
        )
        rows.append((f"{share:.1%}", f"{port:.1%}", f"{blind:.1%}"))
        lines["port"].append((share, port))
        lines["priced, observing"].append((share, blind))
    prior = [
        of_reference(study, scenario, online(scenario, "priced", scenario.estimates)) for scenario in study.scenarios()
    ]
    rows.append(("none", "", f"{np.mean(prior):.1%} (on history's prior)"))
    title = "share of queries routed at random before the first prices"
    return Finding(title, ("observed", "port", "priced"), rows, lines, ("observed share", "quality / reference"))


@dataclass(frozen=True)
class UnpreparedPolicy(PricedPolicy):
    """`priced` without a prior: random LLMs for the first `observed` queries, then as usual on what was seen."""

    observed: int = 0

    def due(self, seen: int) -> bool:
        return seen == self.observed or (seen > self.observed and super().due(seen))

    def rank(
        self, seen: int, quality: Sequence[float], cost_micros: Sequence[int], prices: Sequence[float]
    ) -> list[int]:
        if seen < self.observed:
            return [draw(self.config.seed, 0, seen, len(quality))]
        return super().rank(seen, quality, cost_micros, prices)


def _unprepared(scenario: Scenario, share: float) -> Online:
    config, llms = scenario.configuration("priced"), len(scenario.live.llms)
    nothing = Estimates(np.empty((0, llms)), np.empty((0, llms), dtype=np.int64), np.empty(0, dtype=np.float32))
    policy = UnpreparedPolicy(config, observed=max(1, round(share * scenario.queries)))
    return Online(policy, config, scenario.estimates, nothing)


def resolve(study: Study) -> Finding:
    """How often prices are solved again, and on how long a window."""
    whole = study.scenario(study.all_seeds[0]).queries
    plans = {
        f"every {share:.1%}": replace(study.plan, resolve_every=max(1, round(share * whole))) for share in RESOLVED
    }
    plans["never"] = replace(study.plan, resolve_every=whole + 1)
    plans |= {f"window of {window:,}": replace(study.plan, window=window) for window in WINDOWS}
    return compared(study, "re-solving the prices", "prices", plans, ("priced",))


def splits(study: Study) -> Finding:
    """How the budget is split over the LLMs (the paper's appendix)."""
    plans = {split: replace(study.plan, split=split) for split in SPLITS}
    return compared(study, "budget split", "split", plans, FOUR)


def llms(study: Study) -> Finding:
    """From 2 LLMs to all of them, drawn anew by each seed (the paper's appendix)."""
    rows, lines = [], {policy: Points() for policy in FOUR}
    every = len(study.history.llms)
    for count in [*(count for count in LLMS if count < every), every]:
        chosen = np.sort(np.random.default_rng(count).permutation(every)[:count])
        fewer = replace(study, history=study.history.columns(chosen.tolist()), _scenarios={}, _references={})
        found = compared(fewer, "", "", {float(count): study.plan}, FOUR)
        rows.append((str(count), *found.rows[0][1:]))
        for policy in FOUR:
            lines[policy] += found.lines[policy]
    return Finding("number of LLMs", ("LLMs", *FOUR), rows, lines, ("LLMs", "quality / reference"))


def partitions(study: Study) -> Finding:
    """Budgets split over partitions, each with prices of its own, against one lane for all."""
    rows, line = [], Points()
    for count in PARTITIONS:
        relative = float(np.mean([_in_parts(study, scenario, count) for scenario in study.scenarios()]))
        line.append((count, relative))
        rows.append((str(count), f"{relative:.1%}", f"{relative - line[0][1]:+.1%}"))
    title = "queries and budgets split over partitions"
    return Finding(
        title, ("partitions", "priced", "against one"), rows, {"priced": line}, ("partitions", "quality / reference")
    )


def _in_parts(study: Study, scenario: Scenario, count: int) -> float:
    parts = [part(scenario, np.arange(first, scenario.queries, count), 1 / count) for first in range(count)]
    outcomes = [play_paper(piece, online(piece, "priced", piece.estimates)) for piece in parts if piece.queries]
    return sum(float(one.quality.sum()) for one in outcomes) / float(study.reference(scenario).quality.sum())


def part(scenario: Scenario, rows: NDArray[np.int64], share: float) -> Scenario:
    """Only these queries of a scenario, with this share of its budgets."""
    return replace(scenario.rows(rows), budget_micros=np.floor(scenario.budget_micros * share).astype(np.int64))
