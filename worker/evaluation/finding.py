"""What an experiment found: one table, and the lines of its picture. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from worker.evaluation.baselines import Chooser
from worker.evaluation.scenario import Plan, Scene
from worker.evaluation.scores import spreads
from worker.evaluation.simulate import play_paper
from worker.evaluation.study import Study

Points = list[tuple[float, float]]


class Finding(Struct, frozen=True):
    """A table of words and figures. `lines` are points (x, y) under their names, `axes` the names of x and y."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    lines: Mapping[str, Points] = {}
    axes: tuple[str, str] = ("", "")


def of_reference(study: Study, scene: Scene, chooser: Chooser) -> float:
    """The quality that a chooser reaches on a scene by the paper's rule, as a share of the reference."""
    return float(play_paper(scene, chooser).quality.sum() / study.reference(scene).quality.sum())


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
