"""A study plays policies on the scenarios of several seeds. A finding is the table of one experiment, and its picture.

Building an index is the slow part, so a scenario is made once for each seed, and then changed to any plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from msgspec import Struct

from worker.estimation.history import History
from worker.evaluation.baselines import Chooser
from worker.evaluation.scenario import Plan, Scenario, divide, make_scenario, replanned
from worker.evaluation.scores import Score, reference, score, scored, spreads
from worker.evaluation.simulate import Outcome, Rule, play_paper

REFERENCE = "reference"
FIRST_SEED = 42

Listener = Callable[[str], None]


def _unheard(_: str) -> None:
    """Nobody wants to know."""


@dataclass
class Study:
    """One data set, its `seeds` draws of past and live, and the plan that all begin from.

    `listener` is told what is done next. `neighbours` fixes k; None lets leave-one-out choose it.
    """

    history: History
    plan: Plan
    seeds: int = 1
    rule: Rule = "paper"
    neighbours: int | None = None
    listener: Listener = _unheard
    _scenarios: dict[int, Scenario] = field(default_factory=dict)
    _references: dict[tuple[int, Plan], Outcome] = field(default_factory=dict)

    @property
    def all_seeds(self) -> range:
        """The seeds of the draws."""
        return range(FIRST_SEED, FIRST_SEED + self.seeds)

    def scenario(self, seed: int, plan: Plan | None = None) -> Scenario:
        """The scenario of one draw under `plan` (None: the study's)."""
        if seed not in self._scenarios:
            self.listener(f"seed {seed}: learning from history")
            past, live = divide(self.history, self.plan.test, seed)
            self._scenarios[seed] = make_scenario(past, live, Plan(), seed, self.neighbours)
        return replanned(self._scenarios[seed], plan or self.plan)

    def scenarios(self, plan: Plan | None = None) -> list[Scenario]:
        """The scenarios of all draws."""
        return [self.scenario(seed, plan) for seed in self.all_seeds]

    def reference(self, scenario: Scenario) -> Outcome:
        """What all is relative to on this scenario, solved once for each draw and plan."""
        # What else a plan says is of the policies; the reference has none.
        key = (
            scenario.seed,
            replace(Plan(), budget=scenario.plan.budget, order=scenario.plan.order, split=scenario.plan.split),
        )
        if key not in self._references:
            self.listener(f"seed {scenario.seed}: solving the reference")
            self._references[key] = reference(scenario)
        return self._references[key]

    def scores(self, policies: Sequence[str], plan: Plan | None = None) -> Iterator[Score]:
        """Every policy on every draw, the reference first."""
        for seed in self.all_seeds:
            scenario = self.scenario(seed, plan)
            against = self.reference(scenario)
            yield score(REFERENCE, seed, against, against, 0.0)
            for policy in policies:
                self.listener(f"seed {seed}: {policy}")
                yield scored(scenario, policy, self.rule, against)


Points = list[tuple[float, float]]


class Finding(Struct, frozen=True):
    """A table of words and figures. `lines` are points (x, y) under their names, `axes` the names of x and y."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    lines: Mapping[str, Points] = {}
    axes: tuple[str, str] = ("", "")


def of_reference(study: Study, scenario: Scenario, chooser: Chooser) -> float:
    """The quality that a chooser reaches on a scenario by the paper's rule, as a share of the reference."""
    return float(play_paper(scenario, chooser).quality.sum() / study.reference(scenario).quality.sum())


def relative(study: Study, policies: Sequence[str], plan: Plan) -> dict[str, tuple[float, float]]:
    """Mean and deviation of each policy's quality as a share of the reference, over the study's seeds."""
    found = spreads(study.scores(policies, plan))
    return {spread.policy: (spread.mean.relative_quality, spread.deviation) for spread in found}


def shares(found: Mapping[str, tuple[float, float]], policies: Sequence[str]) -> tuple[str, ...]:
    """A cell for each policy: its share and the spread over seeds."""
    return tuple(f"{found[policy][0]:.1%} ± {found[policy][1]:.1%}" for policy in policies)


def compared(study: Study, title: str, what: str, plans: Mapping[Any, Plan], policies: Sequence[str]) -> Finding:
    """These policies under each of these plans, named by words or numbers: a row for a plan, and where they are
    numbers, a line for a policy."""
    rows, lines = [], {policy: Points() for policy in policies}
    for name, plan in plans.items():
        found = relative(study, policies, plan)
        rows.append((str(name), *shares(found, policies)))
        for policy in policies:
            if not isinstance(name, str):
                lines[policy].append((name, found[policy][0]))
    drawn = {policy: points for policy, points in lines.items() if points}
    return Finding(title, (what, *policies), rows, drawn, (what, "quality / reference"))
