"""Plays policies on scenes drawn by several seeds, telling a listener how far it is. Pure but for the listener.

Learning is the slow part, so a scene is made once for a seed and then looked at under any plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from worker.estimation.history import History
from worker.evaluation.scenario import Plan, Scene, divide, make_scene, replanned
from worker.evaluation.scores import Score, reference, score, scored
from worker.evaluation.simulate import Outcome, Rule

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
    _scenes: dict[int, Scene] = field(default_factory=dict)
    _references: dict[tuple[int, Plan], Outcome] = field(default_factory=dict)

    @property
    def all_seeds(self) -> range:
        """The seeds of the draws."""
        return range(FIRST_SEED, FIRST_SEED + self.seeds)

    def scene(self, seed: int, plan: Plan | None = None) -> Scene:
        """The scene of one draw under `plan` (None: the study's)."""
        if seed not in self._scenes:
            self.listener(f"seed {seed}: learning from history")
            past, live = divide(self.history, self.plan.test, seed)
            self._scenes[seed] = make_scene(past, live, Plan(), seed, self.neighbours)
        return replanned(self._scenes[seed], plan or self.plan)

    def scenes(self, plan: Plan | None = None) -> list[Scene]:
        """The scenes of all draws."""
        return [self.scene(seed, plan) for seed in self.all_seeds]

    def reference(self, scene: Scene) -> Outcome:
        """What all is relative to on this scene, solved once for each draw and plan."""
        # What else a plan says is of the policies; the reference has none.
        key = scene.seed, replace(Plan(), budget=scene.plan.budget, order=scene.plan.order, split=scene.plan.split)
        if key not in self._references:
            self.listener(f"seed {scene.seed}: solving the reference")
            self._references[key] = reference(scene)
        return self._references[key]

    def scores(self, policies: Sequence[str], plan: Plan | None = None) -> Iterator[Score]:
        """Every policy on every draw, the reference first."""
        for seed in self.all_seeds:
            scene = self.scene(seed, plan)
            against = self.reference(scene)
            yield score(REFERENCE, seed, against, against, 0.0)
            for policy in policies:
                self.listener(f"seed {seed}: {policy}")
                yield scored(scene, policy, self.rule, against)
