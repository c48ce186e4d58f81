"""A ridge for LLMs that answered only some rows of history: one common part, and a contrast for each LLM. Pure numpy.

An LLM's answer to row i is modelled as

    y_ij = m + z_i w + a_j + z_i g_j

z holds the kernel's features and the log tokens. All answers of all LLMs teach the common part m + z_i w, so a row that
one LLM answered tells something about every LLM. The contrast a_j + z_i g_j is what sets LLM j apart. Penalties pull
contrasts to 0. The pull on a level a_j is the variance within LLMs over the variance between them, so an LLM with few
answers is near the mean of all. The other two penalties are chosen by held-out errors, for quality and for log cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from worker.estimation.features import KERNEL_BITS, UNIT_SCALE, Float64, kernel
from worker.estimation.ridge import FOLDS, PLAIN, KernelBasis, Sample

# Penalties (common, contrast) to choose from.
Grid = tuple[tuple[float, ...], tuple[float, ...]]
GRID: Grid = ((1.0, 3.0, 10.0, 30.0, 100.0), (10.0, 30.0, 100.0, 300.0, 1e5))
# The kernel's features are its strongest components. More of them cost time with their cube, and gain nothing.
MOST_COMPONENTS = 192
WEAKEST_COMPONENT = 1e-4
# At least this share of the variance within LLMs is between them.
LEAST_BETWEEN = 0.02
FREE = 1e-6


@dataclass(frozen=True)
class SharedRidge:
    """The fit of LLMs that did not answer every row.

    `coefficients` float64 [PLAIN + 2D, 2M] are over [1, t, t**2, K, t * K]. `held_out` [s, 2M] are predictions of each
    row of the sample by the fits that did not see it. `penalties` are the chosen (common, contrast) of quality and of
    log cost.
    """

    coefficients: Float64
    held_out: Float64
    penalties: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Features:
    """Features z = [t, t**2, the kernel's components], less their means `centre`. `root` [D, r] makes components of the
    kernel to the landmarks, so that a ridge on them is kernel ridge."""

    root: Float64
    centre: Float64

    def coefficients(self, weights: Float64) -> Float64:
        """Weights [1 + 2 + r, V] over [1, z - centre] -> coefficients [PLAIN + 2D, V] over [1, t, t**2, K, t * K]."""
        constant = weights[0] - self.centre @ weights[1:]
        level = self.root @ weights[PLAIN:]
        return np.vstack([constant, weights[1:PLAIN], level, np.zeros_like(level)])


@dataclass(frozen=True)
class Sums:
    """What a fit needs of answers: for each LLM, products of [1, z - centre] with themselves [M, d, d] and with the
    targets [M, d], and the sum of squared targets [M]."""

    gram: Float64
    moment: Float64
    square: Float64

    @classmethod
    def of(cls, z: Float64, targets: Float64) -> Sums:
        """The sums of rows z [s, d] whose targets [s, M] are nan where an LLM did not answer."""
        own = [~np.isnan(column) for column in targets.T]
        return cls(
            np.array([z[rows].T @ z[rows] for rows in own]),
            np.array([z[rows].T @ column[rows] for rows, column in zip(own, targets.T, strict=True)]),
            np.nansum(targets * targets, axis=0),
        )

    def without(self, other: Sums) -> Sums:
        """The sums of the rows that are not in `other`."""
        return Sums(self.gram - other.gram, self.moment - other.moment, self.square - other.square)

    @property
    def level_penalty(self) -> float:
        """How many answers the mean of all LLMs counts for in an LLM's level: variance within over variance between."""
        answers, total = self.gram[:, 0, 0], self.moment[:, 0]
        several = answers > 1
        if several.sum() < 2:
            return 1.0 / LEAST_BETWEEN
        mean, answers = total[several] / answers[several], answers[several]
        squares = (self.square[several] - answers * mean**2).sum()
        within = max(float(squares / (answers - 1).sum()), FREE)
        between = max(float(mean.var() - within * (1 / answers).mean()), LEAST_BETWEEN * within)
        return within / between


def shared_ridge(basis: KernelBasis, width: float, sample: Sample, grid: Grid = GRID) -> SharedRidge:
    """Fit all LLMs of the sample's targets [s, 2M], nan where an LLM did not answer a row."""
    features, z = _components(basis, width, sample.rows)
    halves = [_chosen(z, targets, sample.folds, grid) for targets in np.split(sample.targets, 2, axis=1)]
    weights, held_out, penalties = zip(*halves, strict=True)
    return SharedRidge(features.coefficients(np.hstack(weights)), np.hstack(held_out), penalties)


def _components(basis: KernelBasis, width: float, rows: NDArray[np.int64]) -> tuple[Features, Float64]:
    """The features, and [1, z - centre] of these rows."""
    products = (basis.landmarks.T @ basis.landmarks).astype(np.float64)
    values, vectors = np.linalg.eigh(np.exp((products / UNIT_SCALE**2 - 1.0) / width))
    strong = np.flatnonzero(values > WEAKEST_COMPONENT)[-MOST_COMPONENTS:]
    root = vectors[:, strong] / np.sqrt(values[strong])
    tokens = np.nan_to_num(basis.tokens[rows])
    mapped = kernel(basis.embeddings[rows], basis.landmarks, width) * 2.0**-KERNEL_BITS
    z = np.column_stack([tokens, tokens * tokens, mapped @ root])
    centre = z.mean(axis=0)
    return Features(root, centre), np.column_stack([np.ones(len(z)), z - centre])


def _chosen(
    z: Float64, targets: Float64, folds: NDArray[np.int64], grid: Grid
) -> tuple[Float64, Float64, tuple[float, float]]:
    """The weights [d, M] and held-out predictions [s, M] of the penalties that err least, and these penalties."""
    every = Sums.of(z, targets)
    folded = [(held, every.without(Sums.of(z[held], targets[held]))) for held in (folds == n for n in range(FOLDS))]
    # An LLM with few answers counts for more than its answers, and for less than an LLM with many.
    share = 1 / np.sqrt(np.maximum((~np.isnan(targets)).sum(axis=0), 1))
    errors = dict.fromkeys(product(*grid), 0.0)
    for held, others in folded:
        for penalties, weights in _fits(others, grid).items():
            errors[penalties] += float(np.nansum((targets[held] - z[held] @ weights) ** 2 * share))
    best = min(errors, key=errors.__getitem__)
    alone, held_out = (best[:1], best[1:]), np.empty(targets.shape)
    # Once more for the best alone: to keep the predictions of all penalties would take 25 times the memory.
    for held, others in folded:
        held_out[held] = z[held] @ _fits(others, alone)[best]
    return _fits(every, alone)[best], held_out, best


def _fits(sums: Sums, grid: Grid) -> dict[tuple[float, float], Float64]:
    """The weights [d, M] for each pair of penalties (common, contrast).

    The contrasts are solved out of each LLM's block, so that a fit needs M small solutions and no large one.
    """
    fits, size = {}, sums.moment.shape[1]
    for contrast in grid[1]:
        own = np.diag([sums.level_penalty, *[contrast] * (size - 1)])
        solved = np.linalg.solve(sums.gram + own, np.concatenate([sums.gram, sums.moment[:, :, None]], axis=2))
        part, moment = solved[:, :, :size], solved[:, :, size]
        left, right = own @ part.sum(axis=0), own @ moment.sum(axis=0)
        for common in grid[0]:
            shared = np.linalg.solve(left + np.diag([FREE, *[common] * (size - 1)]), right)
            fits[common, contrast] = shared[:, None] + (moment - part @ shared).T
    return fits
