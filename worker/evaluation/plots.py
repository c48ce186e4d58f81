"""Draws pictures as PNG files: the scores of policies, and the findings of experiments that have lines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import Bbox

from worker.evaluation.scores import Spread
from worker.evaluation.study import Finding, Point


class Style(NamedTuple):
    """How a policy is drawn in every picture."""

    colour: str
    marker: str = "o"


# Colours of Okabe and Ito, and of Tol, which the colour-blind can tell apart; markers for print.
STYLES = {
    "reference": Style("#000000", "*"),
    "random": Style("#999999", "v"),
    "greedy-quality": Style("#E69F00", "<"),
    "greedy-cost": Style("#DDCC77", ">"),
    "knn-quality": Style("#56B4E9", "<"),
    "knn-cost": Style("#88CCEE", ">"),
    "batch-split": Style("#009E73", "^"),
    "ridge-quality": Style("#AA4499", "<"),
    "ridge-cost": Style("#CC79A7", ">"),
    "port": Style("#0072B2", "s"),
    "mirror-descent": Style("#332288", "D"),
    "priced": Style("#D55E00", "o"),
    "optimum-estimates": Style("#999933", "P"),
    "optimum-true": Style("#661100", "P"),
}
NAMES = {"priced": "Tollgate (priced)", "port": "PORT (port)"}
# Everything that is not a policy: an LLM alone, estimates, queries.
OTHER = Style("#555555", "o")
BAR = 0.7
PIXELS_PER_INCH = 130
# Where a dot's name may stand: points to the right and upwards, and its alignment. The first free place is taken.
PLACES = ((5, 0, "left"), (-5, 0, "right"), (5, -6, "left"), (5, 6, "left"), (-5, -6, "right"), (-5, 6, "right"))


def draw_scores(spreads: Sequence[Spread], directory: Path) -> None:
    """Write `policies.png`: quality and cost of each policy, as shares of the reference."""
    figure = _figure(8.0, 1.2 + 0.28 * len(spreads))
    quality, cost = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    names = [spread.policy for spread in spreads]
    colours = [style(name).colour for name in names]
    shares = [100 * spread.mean.relative_quality for spread in spreads]
    deviations = [100 * spread.deviation for spread in spreads]
    quality.barh(names, shares, BAR, xerr=deviations, color=colours, ecolor="#333333", capsize=2)
    cost.barh(names, [100 * spread.mean.relative_cost for spread in spreads], BAR, color=colours)
    quality.invert_yaxis()
    quality.set_xlabel("quality, % of the reference")
    cost.set_xlabel("cost, % of the reference")
    for axes in (quality, cost):
        axes.axvline(100, color="#333333", linewidth=0.8)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    _save(figure, directory / "policies.png")


def draw_finding(name: str, finding: Finding, directory: Path) -> None:
    """Write `<name>.png`, if the finding has lines."""
    if not finding.lines:
        return
    figure = _figure(7.2, 4.8)
    axes = figure.subplots()
    dots = {label: points[0] for label, points in finding.lines.items() if len(points) == 1}
    lines = {label: points for label, points in finding.lines.items() if len(points) > 1}
    for number, dot in enumerate(dots.values()):
        _draw(axes, [dot], OTHER, linestyle="none", label=finding.dots if number == 0 else None)
    for label, points in lines.items():
        _draw_line(axes, label, points)
    if finding.log_x:
        _scale(axes, [point.x for points in finding.lines.values() for point in points])
    axes.set_title(finding.title.partition(";")[0], fontsize=10)
    axes.set_xlabel(finding.axes[0])
    axes.set_ylabel(finding.axes[1])
    axes.grid(alpha=0.3)
    if len(lines) > 1 or dots:
        axes.legend(fontsize=8)
    figure.draw_without_rendering()
    _name_dots(axes, dots, list(lines.values()))
    _save(figure, directory / f"{name}.png")


def _scale(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic x with ticks at 1, 2 and 5, and room for names on both sides."""
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 1.4, max(values) * 1.4)
    decades = range(int(np.floor(np.log10(min(values)))), int(np.ceil(np.log10(max(values)))) + 1)
    low, high = axes.get_xlim()
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _name_dots(axes: Any, dots: dict[str, Point], lines: Sequence[Sequence[Point]]) -> None:
    """Write each dot's name where it covers no dot, no line and no other name, if there is such a place."""
    place = axes.transData.transform
    marks = [place((dot.x, dot.y)) for dot in dots.values()]
    for line in lines:
        ends = [place((point.x, point.y)) for point in line]
        for start, end in pairwise(ends):
            marks += [start + (end - start) * step for step in np.linspace(0, 1, 20)]
    taken: list[Bbox] = [Bbox.from_extents(x - 3, y - 3, x + 3, y + 3) for x, y in marks]
    for label, dot in dots.items():
        names = [_name(axes, label, dot, *where) for where in PLACES]
        best = min(names, key=lambda name: _covered(axes, name, taken))
        taken.append(best.get_window_extent())
        for name in names:
            if name is not best:
                name.remove()


def _name(axes: Any, label: str, dot: Point, right: int, up: int, align: str) -> Any:
    return axes.annotate(
        label,
        (dot.x, dot.y),
        (right, up),
        textcoords="offset points",
        fontsize=6,
        ha=align,
        va="center",
        color="#333333",
    )


def _covered(axes: Any, name: Any, taken: Sequence[Bbox]) -> int:
    """How many marks and names a name would cover; one outside of the axes is the worst."""
    box = name.get_window_extent()
    is_inside = axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1
    return int(box.count_overlaps(taken)) + (0 if is_inside else len(taken))


def _draw_line(axes: Any, label: str, points: Sequence[Point]) -> None:
    """A policy. After a comma comes its variant, which is dashed."""
    is_variant = "," in label or label == "perfect"
    _draw(axes, points, style(label), linestyle="--" if is_variant else "-", label=NAMES.get(label, label))


def _draw(axes: Any, points: Sequence[Point], style: Style, **options: Any) -> None:
    x, y, x_error, y_error = np.array([(p.x, p.y, p.x_error, p.y_error) for p in points]).T
    axes.errorbar(
        *(x, y, y_error if y_error.any() else None, x_error if x_error.any() else None),
        color=style.colour,
        marker=style.marker,
        markersize=4,
        capsize=2,
        elinewidth=0.8,
        **options,
    )


def style(label: str) -> Style:
    """The style of a policy or its variant; OTHER for everything else."""
    return STYLES.get(label.partition(",")[0], OTHER)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=PIXELS_PER_INCH)
