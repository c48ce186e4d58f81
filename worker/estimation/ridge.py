"""Kernel ridge on a Nystrom basis, cross-fitted over folds of a sample of history. Pure numpy and scipy.

Minimises |y - Z a|**2 + n * ridge * a' P a with Z = [1, t, t**2, K, t * K], K the kernel to landmarks and P the kernel
between them (Williams and Seeger 2001), so that asking it costs one small product and no pass over history. The
products t * K are there because what a token adds differs between kinds of query: some bring a long fixed prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, cho_factor, cho_solve

from worker.estimation.features import (
    FEWEST_TOKENS,
    KERNEL_BITS,
    UNIT_SCALE,
    Float32,
    Float64,
    LinearMap,
    exact_weights,
    kernel,
    rounded_units,
    standard_tokens,
)
from worker.estimation.manifest import Step, silent
from worker.estimation.neighbours import EqualRows

# The time to fit a ridge grows with the cube of its landmarks. On 400 rows of history, 100 landmarks route as well as
# 384 and need 0.3 instead of 2.2 CPU seconds.
ROWS_PER_LANDMARK = 4
FEWEST_LANDMARKS, MOST_LANDMARKS = 16, 384
# The time and memory of a fit grow with its rows. A fit on 4,096 of 14,793 rows lost 4 points of quality, so the sample
# is as large as a minute allows. An LLM that these rows rarely know brings LLM_ROWS of its own.
RIDGE_ROWS, LLM_ROWS = 32_768, 2_000
BLOCK_ROWS = 8_192
FOLDS = 8
WIDTHS = (0.3, 0.6, 1.2)
RIDGES = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0)
PLAIN = 3
JITTER = 1e-6


@dataclass(frozen=True)
class KernelBasis:
    """The inputs of a ridge: embeddings [n, d], rounded landmarks [d, D], standardised log tokens [n] or nan."""

    embeddings: Float32
    landmarks: Float32
    tokens: Float64
    token_mean: float
    token_spread: float
    token_most: float


@dataclass(frozen=True)
class Sample:
    """The rows of history [s] that ridges are fitted on, ascending, with their targets [s, V] and folds [s]."""

    rows: NDArray[np.int64]
    targets: Float64
    folds: NDArray[np.int64]

    def columns(self, which: NDArray[np.int64]) -> Sample:
        """The same rows with only these columns of targets."""
        # In this layout BLAS sums in the same order, whichever columns were taken.
        return Sample(self.rows, np.ascontiguousarray(self.targets[:, which]), self.folds)


@dataclass(frozen=True)
class Ridge:
    """The chosen kernel width, the ridge of each component [V], and the held-out predictions [s, V] that they give.

    Columns are rotated into their principal components by `rotation` [V, V], because what LLMs have in common (how hard
    a query is) can be learned better than what sets them apart. Each component gets the ridge that it needs.
    """

    width: float
    ridges: Float64
    rotation: Float64
    held_out: Float64
    error: float


def landmark_count(rows: int) -> int:
    """How many landmarks a history of this many rows gets, if it has as many distinct rows."""
    return min(MOST_LANDMARKS, max(FEWEST_LANDMARKS, rows // ROWS_PER_LANDMARK))


def make_basis(embeddings: Float32, input_tokens: Float64, generator: np.random.Generator) -> KernelBasis:
    """Draw the landmarks from the distinct rows of history and standardise the log token counts."""
    distinct = EqualRows.of(embeddings, lambda rows: rounded_units(rows).astype(np.int16)).first
    chosen = generator.permutation(distinct)[: landmark_count(len(embeddings))]
    counts = input_tokens[~np.isnan(input_tokens)]
    logs = np.log(np.maximum(counts, 1.0))
    mean = float(logs.mean()) if len(logs) else 0.0
    spread = max(float(logs.std()), 0.05) if len(logs) else 1.0
    landmarks = np.ascontiguousarray(rounded_units(embeddings[chosen]).T)
    most = max(float(counts.max()), FEWEST_TOKENS) if len(counts) else np.inf
    return KernelBasis(embeddings, landmarks, standard_tokens(input_tokens, mean, spread), mean, spread, most)


def draw_sample(targets: Float64, generator: np.random.Generator) -> Sample:
    """Draw the rows to fit on and their folds. Targets [n, V] are nan where an LLM did not answer a row."""
    order = generator.permutation(len(targets))
    rows = ridge_rows(order, ~np.isnan(targets))
    return Sample(rows, targets[rows], order[rows] % FOLDS)


def best_ridge(basis: KernelBasis, sample: Sample, step: Step = silent) -> Ridge:
    """Choose the kernel width, and the ridge of each component of the targets [s, 2M], by cross-fitting. No target is
    nan."""
    rotation = components(sample.targets)
    ridges = []
    for done, width in enumerate(WIDTHS):
        step("fitting ridges", done, len(WIDTHS))
        ridges.append(_ridge(basis, sample, rotation, width))
    return min(ridges, key=lambda ridge: ridge.error)


def ridge_rows(order: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The rows to fit on, ascending: those that `order` [n], a permutation, puts before RIDGE_ROWS, and of each column
    of `known` [n, V] its LLM_ROWS first rows."""
    chosen = order < RIDGE_ROWS
    for column in known.T if len(order) > RIDGE_ROWS else ():
        if chosen[column].sum() < LLM_ROWS:
            rows = np.flatnonzero(column)
            chosen[rows[np.argsort(order[rows])[:LLM_ROWS]]] = True
    return np.flatnonzero(chosen)


def components(targets: Float64) -> Float64:
    """A rotation [2M, 2M] into principal components of targets [s, 2M], of quality and of log cost apart."""
    # Picked, not sliced: the layout decides in which order BLAS sums.
    halves = [targets[:, columns] for columns in np.split(np.arange(targets.shape[1]), 2)]
    rotation: Float64 = block_diag(*(np.linalg.eigh(np.atleast_2d(np.cov(half.T)))[1] for half in halves))
    return rotation


def _ridge(basis: KernelBasis, sample: Sample, rotation: Float64, width: float) -> Ridge:
    targets, in_components = sample.targets, sample.targets @ rotation
    held_out = _held_out(_features(basis, width, sample.rows), in_components, _penalty(basis, width), sample.folds)
    best = ((in_components - held_out) ** 2).mean(axis=1).argmin(axis=0)
    chosen = np.take_along_axis(held_out, best[None, None, :], axis=0)[0] @ rotation.T
    errors = ((targets - chosen) ** 2).mean(axis=0) / np.maximum(targets.var(axis=0), 1e-12)
    return Ridge(width, np.array(RIDGES)[best], rotation, chosen, float(errors.mean()))


def _features(basis: KernelBasis, width: float, rows: NDArray[np.int64]) -> Float64:
    tokens = np.nan_to_num(basis.tokens[rows])
    mapped = kernel(basis.embeddings[rows], basis.landmarks, width) * 2.0**-KERNEL_BITS
    return np.column_stack([np.ones(len(tokens)), tokens, tokens * tokens, mapped, mapped * tokens[:, None]])


def _penalty(basis: KernelBasis, width: float) -> Float64:
    # Not by `kernel`: rounded, it may have negative eigenvalues, and near them nothing could be solved.
    products = (basis.landmarks.T @ basis.landmarks).astype(np.float64)
    between = np.exp((products / UNIT_SCALE**2 - 1.0) / width)
    penalty: Float64 = block_diag(np.zeros((PLAIN, PLAIN)), between, between)
    return penalty + np.eye(len(penalty)) * JITTER


def _held_out(features: Float64, targets: Float64, penalty: Float64, folds: NDArray[np.int64]) -> Float64:
    """Predictions [ridges, n, V] of each row by the fits that did not see its fold."""
    held_out = np.empty((len(RIDGES), *targets.shape))
    gram, moment = features.T @ features, features.T @ targets
    for fold in range(FOLDS):
        held = folds == fold
        inside = features[held]
        left, right = gram - inside.T @ inside, moment - inside.T @ targets[held]
        for index, ridge in enumerate(RIDGES):
            held_out[index][held] = inside @ _solve(left, right, penalty * ridge * (len(features) - len(inside)))
    return held_out


def _solve(left: Float64, right: Float64, penalty: Float64) -> Float64:
    solved: Float64 = cho_solve(cho_factor(left + penalty + np.eye(len(left)) * JITTER), right)
    return solved


def coefficients(basis: KernelBasis, sample: Sample, chosen: Ridge) -> Float64:
    """Fit the chosen ridges on all rows of the sample: [PLAIN + 2D, V] over [1, t, t**2, K, t * K]."""
    features, penalty = _features(basis, chosen.width, sample.rows), _penalty(basis, chosen.width)
    in_components = sample.targets @ chosen.rotation
    solved = np.empty((features.shape[1], sample.targets.shape[1]))
    for ridge in set(chosen.ridges):
        wanted = chosen.ridges == ridge
        solved[:, wanted] = _fit(features, in_components[:, wanted], penalty * ridge)
    fitted: Float64 = solved @ chosen.rotation.T
    return fitted


def linear_map(
    basis: KernelBasis, rows: NDArray[np.int64], width: float, solved: Float64, token_ridge: float
) -> LinearMap:
    """Coefficients [PLAIN + 2D, V] rounded for exact arithmetic, and the log tokens that the embeddings predict."""
    of_tokens = _fit_tokens(basis, rows, width, token_ridge)
    level, slope = np.split(solved[PLAIN:], 2)
    of_level = np.split(of_tokens[PLAIN:], 2)[0]
    weights, scales = exact_weights(np.column_stack([level, slope, of_level]))
    return LinearMap(
        basis.landmarks,
        width,
        weights,
        scales,
        solved[:PLAIN],
        basis.token_mean,
        basis.token_spread,
        float(of_tokens[0]),
        basis.token_most,
    )


def _fit(features: Float64, targets: Float64, penalty: Float64) -> Float64:
    seen = ~np.isnan(targets[:, 0])
    z = features[seen]
    return _solve(z.T @ z, z.T @ targets[seen], penalty * len(z))


def _fit_tokens(basis: KernelBasis, rows: NDArray[np.int64], width: float, ridge: float) -> Float64:
    """Coefficients of log tokens over the constant and the kernel features alone."""
    tokens, features = basis.tokens[rows], _features(basis, width, rows)
    if np.isnan(tokens).all():
        return np.zeros(features.shape[1])
    kernels = (features.shape[1] - PLAIN) // 2
    features[:, 1:PLAIN] = features[:, PLAIN + kernels :] = 0.0
    return _fit(features, tokens[:, None], _penalty(basis, width) * ridge)[:, 0]
