"""Every policy on the same scenario under the same charging rule, relative to the paper's reference. Pure.

The reference is the offline LP on the k = 5 mean estimates, played by the paper's rule (arXiv 2509.02718, table 1).
The reference and PORT take their neighbours from an exact search, so their quality does not depend on a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import nan
from time import perf_counter

import numpy as np
from msgspec import Struct

from worker.evaluation.baselines import BatchSplit, Chooser, at_random, by_cost, by_quality, mirror_descent, offline
from worker.evaluation.scenario import Scenario
from worker.evaluation.simulate import Rule, Simulated, online, play_ledger, play_paper, play_router

MICROS_PER_USD = 1e6

CHOOSERS: dict[str, Callable[[Scenario], Chooser]] = {
    "random": at_random,
    "greedy-quality": lambda scenario: by_quality(scenario.plain),
    "greedy-cost": lambda scenario: by_cost(scenario.plain),
    "knn-quality": lambda scenario: by_quality(scenario.exact),
    "knn-cost": lambda scenario: by_cost(scenario.exact),
    "batch-split": lambda scenario: BatchSplit(scenario.plain),
    "ridge-quality": lambda scenario: by_quality(scenario.ridge),
    "ridge-cost": lambda scenario: by_cost(scenario.ridge),
    "port": lambda scenario: online(scenario, "port", scenario.exact),
    "mirror-descent": mirror_descent,
    "priced": lambda scenario: online(scenario, "priced", scenario.estimates),
    "optimum-estimates": lambda scenario: offline(
        scenario, scenario.estimates.quality, scenario.estimates.cost_micros.astype(np.float64)
    ),
    "optimum-true": lambda scenario: offline(scenario, scenario.live.quality, scenario.live.cost_micros),
}
POLICIES = tuple(CHOOSERS)
OWN = ("port", "priced")
USUAL = ("random", "greedy-cost", "batch-split", "port", "mirror-descent", "priced")


class Score(Struct, frozen=True):
    """One policy on one scenario. `relative_*` are shares of the reference; `quality_per_usd` is quality over cost;
    `overrun_usd` is the money spent beyond the budgets. A share of nothing is nan."""

    policy: str
    seed: int
    quality: float
    cost_usd: float
    quality_per_usd: float
    served: int
    relative_quality: float
    relative_cost: float
    relative_quality_per_usd: float
    relative_served: float
    overrun_usd: float
    seconds: float


@dataclass(frozen=True)
class Spread:
    """A policy over several seeds: its means, and the standard deviation of its relative quality."""

    policy: str
    mean: Score
    deviation: float


def reference(scenario: Scenario) -> Simulated:
    """The routing that every quality and cost is divided by."""
    return play_paper(
        scenario, offline(scenario, scenario.exact.quality, scenario.exact.cost_micros.astype(np.float64))
    )


def play(scenario: Scenario, policy: str, rule: Rule) -> Simulated:
    """One policy by name under a charging rule; our own policies run in the worker's router under ours."""
    if rule == "paper":
        return play_paper(scenario, CHOOSERS[policy](scenario))
    if policy in OWN:
        return play_router(scenario, policy, scenario.exact if policy == "port" else scenario.estimates)
    return play_ledger(scenario, CHOOSERS[policy](scenario))


def scored(scenario: Scenario, policy: str, rule: Rule, against: Simulated) -> Score:
    """One policy played and timed."""
    started = perf_counter()
    outcome = play(scenario, policy, rule)
    return score(policy, scenario.seed, outcome, against, perf_counter() - started)


def score(policy: str, seed: int, outcome: Simulated, against: Simulated, seconds: float) -> Score:
    """The figures of an outcome beside those of the reference."""
    quality, cost = float(outcome.quality.sum()), float(outcome.cost_micros.sum()) / MICROS_PER_USD
    of_quality = _ratio(quality, float(against.quality.sum()))
    of_cost = _ratio(cost, float(against.cost_micros.sum()) / MICROS_PER_USD)
    return Score(
        policy=policy,
        seed=seed,
        quality=quality,
        cost_usd=cost,
        quality_per_usd=_ratio(quality, cost),
        served=outcome.served,
        relative_quality=of_quality,
        relative_cost=of_cost,
        relative_quality_per_usd=_ratio(of_quality, of_cost),
        relative_served=outcome.served / max(against.served, 1),
        overrun_usd=outcome.overrun_micros / MICROS_PER_USD,
        seconds=seconds,
    )


def _ratio(one: float, other: float) -> float:
    """nan where there is nothing to compare with: beside a free answer, any cost would be a billion times as much."""
    return one / other if other > 0 else nan


def spreads(scores: Iterable[Score]) -> list[Spread]:
    """Scores of several seeds, gathered by policy in the order of their first appearance."""
    by_policy: dict[str, list[Score]] = {}
    for one in scores:
        by_policy.setdefault(one.policy, []).append(one)
    return [_spread(policy, several) for policy, several in by_policy.items()]


def _spread(policy: str, several: list[Score]) -> Spread:
    fields = [name for name in Score.__struct_fields__ if name not in ("policy", "seed", "served")]
    means = {name: float(np.mean([getattr(one, name) for one in several])) for name in fields}
    mean = Score(policy=policy, seed=-1, served=round(np.mean([one.served for one in several])), **means)
    return Spread(policy, mean, float(np.std([one.relative_quality for one in several])))
