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
from worker.evaluation.scores import Score, Spread, reference, score, scored, spreads
from worker.evaluation.simulate import Rule, Simulated, play_paper

REFERENCE = "reference"
FIRST_SEED = 42

Listener = Callable[[str], None]


def _unheard(_: str) -> None:
    """The listener of a study that has none."""


@dataclass
class Study:
    """One data set, the number of its random draws, and the plan of every draw.

    `listener` gets the next step in words. `neighbours` fixes k; None lets leave-one-out choose it.
    """

    history: History
    plan: Plan
    seeds: int = 1
    rule: Rule = "paper"
    neighbours: int | None = None
    listener: Listener = _unheard
    _scenarios: dict[int, Scenario] = field(default_factory=dict)
    _references: dict[tuple[int, Plan], Simulated] = field(default_factory=dict)

    @property
    def all_seeds(self) -> range:
        """The seeds of the draws."""
        return range(FIRST_SEED, FIRST_SEED + self.seeds)

    def anew(self) -> Study:
        """The same study without the scenarios that it has made, for another history or number of queries."""
        return replace(self, _scenarios={}, _references={})

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

    def reference(self, scenario: Scenario) -> Simulated:
        """The reference on this scenario, solved once for each draw and plan."""
        # The other options of a plan do not change the reference.
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


class Point(Struct, frozen=True):
    """A point of a picture. The errors are standard deviations over seeds; 0: none is drawn."""

    x: float
    y: float
    x_error: float = 0.0
    y_error: float = 0.0


Lines = Mapping[str, Sequence[Point]]


class Finding(Struct, frozen=True):
    """The table of an experiment, and the `lines` of its picture by name. `axes` are the names of x and y.

    A line of one point is a dot with its name beside it; `dots` says what dots are. `log_x`: equal steps of x are equal
    factors.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    lines: Lines = {}
    axes: tuple[str, str] = ("", "")
    log_x: bool = False
    dots: str = "one LLM for all queries"


def of_reference(study: Study, scenario: Scenario, chooser: Chooser) -> float:
    """The quality that a chooser reaches on a scenario by the paper's rule, as a share of the reference."""
    return float(play_paper(scenario, chooser).quality.sum() / study.reference(scenario).quality.sum())


def compared(study: Study, title: str, what: str, plans: Mapping[Any, Plan], policies: Sequence[str]) -> Finding:
    """A table of these policies under each of these plans, `what` names the plans; a plan is a row.

    If the plans are named by numbers, each policy is a line of the picture.
    """
    rows: list[tuple[str, ...]] = []
    lines: dict[str, list[Point]] = {policy: [] for policy in policies}
    for name, plan in plans.items():
        found = {spread.policy: spread for spread in spreads(study.scores(policies, plan))}
        rows.append((str(name), *(share_of_reference(found[policy]) for policy in policies)))
        for policy in policies:
            if not isinstance(name, str):
                lines[policy].append(Point(name, found[policy].mean.relative_quality, y_error=found[policy].deviation))
    drawn = {policy: points for policy, points in lines.items() if points}
    return Finding(title, (what, *policies), rows, drawn, (what, "quality / reference"))


def share_of_reference(spread: Spread) -> str:
    """A cell: the quality as a share of the reference's, and its deviation over seeds."""
    return f"{spread.mean.relative_quality:.1%} ± {spread.deviation:.1%}"
