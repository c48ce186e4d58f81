"""Draws what experiments found: one PNG per finding that has lines."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

from worker.evaluation.study import Finding, Study
from worker.evaluation.sweeps import budget, observation, queries

# Colours of Okabe and Ito, which the colour-blind can tell apart; markers for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


def draw_paper(study: Study, directory: Path) -> None:
    """The pictures that the paper draws: quality over budget, over queries, and by observation fraction."""
    for name, experiment in (("budget", budget), ("queries", queries), ("observation", observation)):
        study.listener(name)
        draw_finding(name, experiment(study), directory)


def draw_finding(name: str, finding: Finding, directory: Path) -> None:
    """Write `<name>.png`, if there is something to draw."""
    if not finding.lines:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for (label, points), colour, marker in zip(finding.lines.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
        axes.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker, markersize=4)
    _label(axes, finding)
    directory.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(directory / f"{name}.png")


def _label(axes: Any, finding: Finding) -> None:
    axes.set_title(finding.title.partition(";")[0], fontsize=10)
    axes.set_xlabel(finding.axes[0])
    axes.set_ylabel(finding.axes[1])
    axes.grid(alpha=0.3)
    if len(finding.lines) > 1:
        axes.legend(fontsize=8)
