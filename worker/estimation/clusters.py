"""Kinds of queries: clusters of estimates, found when an index is built. Pure numpy.

A lane counts the kind of each query, and an audit counts again: the nearest centre is found with sums in a fixed order,
the same on any machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.contract.kinds import Kinds
from worker.estimation.features import Float64

# With 8, 16 and 32 kinds of 1,000 rows, sorted arrivals differ by less than a point of quality.
MOST_KINDS, ROWS_PER_KIND = 16, 60
ROUNDS = 15
# An LLM's mean cost is as far from 0 as this much quality, and no cost is farther than REACH.
MEAN_COST_AS_QUALITY, REACH = 0.2, 2.0
# So many digits of a centre are written down.
DIGITS = 6


class Clusters:
    """Tells the kind of a query."""

    def __init__(self, kinds: Kinds) -> None:
        self._centres = np.array(kinds.centres, np.float64)
        self._scale = np.array(kinds.scale, np.float64)

    def of(self, quality: Float64, cost_micros: Float64) -> NDArray[np.int64]:
        """The kind of each query [n], by its estimates [n, M or more]: further LLMs have no history."""
        llms = len(self._scale)
        return _nearest(_places(quality[:, :llms], cost_micros[:, :llms], self._scale), self._centres)


def find_kinds(quality: Float64, cost_micros: Float64, seed: int) -> Kinds:
    """The kinds of history's queries, by k-means on their estimates [n, M]; one kind for a few rows."""
    scale = _rounded(MEAN_COST_AS_QUALITY / np.maximum(cost_micros.mean(axis=0), 1e-9))
    places = _places(quality, cost_micros, scale)
    count = max(1, min(MOST_KINDS, len(places) // ROWS_PER_KIND))
    centres = places[np.random.default_rng(seed).permutation(len(places))[:count]]
    for _ in range(ROUNDS):
        kind = _nearest(places, centres)
        # A kind without rows stays where it is.
        means = [places[kind == k].mean(axis=0) if (kind == k).any() else centre for k, centre in enumerate(centres)]
        centres = np.array(means)
    centres = _rounded(centres)
    counts = np.bincount(_nearest(places, centres), minlength=count)
    return Kinds(
        centres=tuple(tuple(centre) for centre in centres.tolist()),
        scale=tuple(scale.tolist()),
        shares=tuple((counts / len(places)).tolist()),
        rows=len(places),
    )


def _places(quality: Float64, cost_micros: Float64, scale: Float64) -> Float64:
    return np.hstack([quality, np.minimum(cost_micros * scale, REACH)])


def _nearest(places: Float64, centres: Float64) -> NDArray[np.int64]:
    squares = (places[:, None, :] - centres) ** 2
    # `sum` adds in an order that depends on the processor, `accumulate` from first to last.
    distances = np.add.accumulate(squares, axis=2)[:, :, -1]
    nearest: NDArray[np.int64] = distances.argmin(axis=1)
    return nearest


def _rounded(values: Float64) -> Float64:
    """The values as short decimals: a manifest is read by people."""
    short = [float(f"{value:.{DIGITS}g}") for value in values.ravel().tolist()]
    return np.array(short, np.float64).reshape(values.shape)
