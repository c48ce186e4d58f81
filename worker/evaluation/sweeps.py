"""Experiments that play policies under changed plans. Pure. The first line of each experiment is its help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core.policy import PricedPolicy, draw
from worker.estimation.estimator import Estimates
from worker.evaluation.scenario import ORDERS, SPLITS, Scenario
from worker.evaluation.scores import play
from worker.evaluation.simulate import Online, Simulated, online, play_paper, served
from worker.evaluation.study import Finding, Point, Study, compared, of_reference

FOUR = ("random", "batch-split", "port", "priced")
FRONTIER_BUDGETS = 9
RULE_NAMES = {"paper": "the paper's", "tollgate": "Tollgate's"}
BUDGETS = (0.25, 0.5, 1.0, 2.0, 4.0)
QUERIES = (0.1, 0.25, 0.5, 1.0)
OBSERVED = (0.01, 0.02, 0.025, 0.03, 0.04, 0.05)
RESOLVED = (0.01, 0.025, 0.1)
WINDOWS = (100, 250, 1000, 4000)
LLMS = (2, 4, 6, 8, 12, 18)
PARTITIONS = (1, 2, 4, 8, 16, 32, 64)


def frontier(study: Study) -> Finding:
    """Mean quality by cost: each LLM alone, and priced under rising budgets (the picture to decide by)."""
    scenario = study.scenario(study.all_seeds[0])
    cost = scenario.live.cost_micros.mean(axis=0)
    rows, lines = [], dict[str, list[Point]]()
    for llm in np.argsort(cost):
        rows_of_llm = [served(each, np.full(each.queries, llm)) for each in study.scenarios()]
        lines[scenario.live.llms[llm]] = [_cost_and_quality(rows_of_llm)]
        rows.append((scenario.live.llms[llm], "", *_cells(rows_of_llm)))
    lines["priced"] = []
    for budget in np.geomspace(1.0, cost.max() / cost.min(), FRONTIER_BUDGETS).tolist():
        plan = replace(study.plan, budget=budget, split="best")
        routed = [play(each, "priced", study.rule) for each in study.scenarios(plan)]
        lines["priced"].append(_cost_and_quality(routed))
        rows.append(("priced", f"{budget * cost.min() / 1000:.3f}", *_cells(routed)))
    columns = ("routing", "budget", "USD per 1,000 queries", "mean quality", "served")
    title = f"quality by cost; the budget is USD per 1,000 queries, by {RULE_NAMES[study.rule]} rule"
    return Finding(title, columns, rows, lines, ("USD per 1,000 queries", "mean quality"), log_x=True)


def _cost_and_quality(outcomes: Sequence[Simulated]) -> Point:
    """USD per 1,000 queries (micro-dollars a query are thousandths of it) and mean quality, with their deviations."""
    cost = np.array([outcome.cost_micros.mean() / 1000 for outcome in outcomes])
    quality = np.array([outcome.quality.mean() for outcome in outcomes])
    return Point(float(cost.mean()), float(quality.mean()), float(cost.std()), float(quality.std()))


def _cells(outcomes: Sequence[Simulated]) -> tuple[str, str, str]:
    point = _cost_and_quality(outcomes)
    share = np.mean([outcome.served / len(outcome.llm) for outcome in outcomes])
    return f"{point.x:.3f} ± {point.x_error:.3f}", f"{point.y:.3f} ± {point.y_error:.3f}", f"{share:.1%}"


def budget(study: Study) -> Finding:
    """Quality against the reference under rising budgets (the paper's figure 2)."""
    plans = {str(share): replace(study.plan, budget=share) for share in BUDGETS}
    return compared(study, "budget, in costs of the cheapest LLM for all queries", "budget", plans, FOUR)


def arrivals(study: Study) -> Finding:
    """The order in which queries come: at random, sorted by category, or the hardest last."""
    orders = [order for order in ORDERS if order != "source" or study.history.categories is not None]
    return compared(
        study, "order of arrival", "order", {order: replace(study.plan, order=order) for order in orders}, FOUR
    )


def forecast(study: Study) -> Finding:
    """Prices for the queries that are forecast, against prices for the newest ones, by the order of arrival."""
    rows = []
    for order in ORDERS:
        if order == "source" and study.history.categories is None:
            continue
        cells = []
        for forecasts in (False, True):
            scenarios = study.scenarios(replace(study.plan, order=order, forecast=forecasts))
            reached = [of_reference(study, each, online(each, "priced", each.estimates)) for each in scenarios]
            cells.append(f"{np.mean(reached):.1%} ± {np.std(reached):.1%}")
        rows.append((order, *cells))
    return Finding("what prices are solved on", ("order", "the newest queries", "the forecast"), rows)


def queries(study: Study) -> Finding:
    """Quality by the number of queries (the paper's figure 3)."""
    whole = study.scenario(study.all_seeds[0]).queries
    numbers = [max(2, round(whole * share)) for share in QUERIES]
    smaller = {number: replace(study.anew(), plan=replace(study.plan, test=number)) for number in numbers}
    return _by_number("number of queries", "queries", smaller)


def _by_number(title: str, what: str, studies: Mapping[int, Study]) -> Finding:
    """FOUR policies in each of these studies, named by a number."""
    rows: list[tuple[str, ...]] = []
    lines: dict[str, list[Point]] = {policy: [] for policy in FOUR}
    for number, study in studies.items():
        found = compared(study, "", "", {number: study.plan}, FOUR)
        rows.append((f"{number:,}", *found.rows[0][1:]))
        for policy in FOUR:
            lines[policy] += found.lines[policy]
    return Finding(title, (what, *FOUR), rows, lines, (what, "quality / reference"))


def observation(study: Study) -> Finding:
    """PORT by its observed share of queries; priced with history's prior, and with random observation instead."""
    rows, lines = [], dict[str, list[Point]](port=[])
    lines["priced, observing"] = []
    for share in OBSERVED:
        scenarios = study.scenarios(replace(study.plan, observe_share=share))
        port = [of_reference(study, each, online(each, "port", each.exact)) for each in scenarios]
        blind = [of_reference(study, each, _unprepared(each, share)) for each in scenarios]
        rows.append((f"{share:.1%}", f"{np.mean(port):.1%}", f"{np.mean(blind):.1%}"))
        for name, reached in (("port", port), ("priced, observing", blind)):
            lines[name].append(Point(share, float(np.mean(reached)), y_error=float(np.std(reached))))
    prior = [of_reference(study, each, online(each, "priced", each.estimates)) for each in study.scenarios()]
    rows.append(("none", "", f"{np.mean(prior):.1%} (on history's prior)"))
    title = "share of queries routed at random before the first prices"
    return Finding(title, ("observed", "port", "priced"), rows, lines, ("observed share", "quality / reference"))


@dataclass(frozen=True)
class UnpreparedPolicy(PricedPolicy):
    """`priced` without a prior: random LLMs for the first `observed` queries, then as usual on what was seen."""

    observed: int = 0

    def due(self, seen: int) -> bool:
        return seen == self.observed or (seen > self.observed and super().due(seen))

    def rank(self, seen: int, quality: Sequence[float], charges: Sequence[float]) -> list[int]:
        if seen < self.observed:
            return [draw(self.config.seed, 0, seen, len(quality))]
        return super().rank(seen, quality, charges)


def _unprepared(scenario: Scenario, share: float) -> Online:
    config = msgspec.structs.replace(scenario.configuration("priced"), kinds=None)
    llms = len(scenario.live.llms)
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
    """From 2 LLMs, drawn at random, to all LLMs (the paper's appendix)."""
    every = len(study.history.llms)
    fewer = {}
    for count in [*(count for count in LLMS if count < every), every]:
        chosen = np.sort(np.random.default_rng(count).permutation(every)[:count])
        fewer[count] = replace(study.anew(), history=study.history.columns(chosen.tolist()))
    return _by_number("number of LLMs", "LLMs", fewer)


def partitions(study: Study) -> Finding:
    """Budgets split over partitions with prices of their own, against one partition for all queries."""
    rows, line = [], list[Point]()
    for count in PARTITIONS:
        reached = [_in_parts(study, scenario, count) for scenario in study.scenarios()]
        line.append(Point(count, float(np.mean(reached)), y_error=float(np.std(reached))))
        rows.append((str(count), f"{line[-1].y:.1%}", f"{line[-1].y - line[0].y:+.1%}"))
    title, columns = "queries and budgets split over partitions", ("partitions", "priced", "against one")
    return Finding(title, columns, rows, {"priced": line}, ("partitions", "quality / reference"), log_x=True)


def _in_parts(study: Study, scenario: Scenario, count: int) -> float:
    parts = [part(scenario, np.arange(first, scenario.queries, count), 1 / count) for first in range(count)]
    outcomes = [play_paper(piece, online(piece, "priced", piece.estimates)) for piece in parts if piece.queries]
    return sum(float(one.quality.sum()) for one in outcomes) / float(study.reference(scenario).quality.sum())


def part(scenario: Scenario, rows: NDArray[np.int64], share: float) -> Scenario:
    """Only these queries of a scenario, with this share of its budgets."""
    return replace(scenario.rows(rows), budget_micros=np.floor(scenario.budget_micros * share).astype(np.int64))
