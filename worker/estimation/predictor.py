"""The trained part of an estimator: a ridge for LLMs that answered every row of history, and one that the rest share.

Where all LLMs answered all rows, each principal component of the answers has a ridge of its own. An LLM that answered
only some rows has no place in these components: such LLMs are fitted together (`shared_ridge`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.estimation.features import Float64, LinearMap
from worker.estimation.manifest import Step, silent
from worker.estimation.ridge import (
    BLOCK_ROWS,
    PLAIN,
    KernelBasis,
    best_ridge,
    coefficients,
    draw_sample,
    linear_map,
)
from worker.estimation.shared_ridge import shared_ridge

# The kernel's width where no LLM answered every row.
SHARED_WIDTH = 0.6


@dataclass(frozen=True)
class Predictor:
    """A fitted linear map, and what it says of history.

    `held_out` float64 [n, 2M] predicts each row of history by a fit that did not see the row: rows of the sample by
    cross-fitting; other rows by `map`, which saw the sample only. Columns of LLMs that answered every row are rotated
    into principal components by `rotation` [2M, 2M], the others stay. `gaps` [2M] marks these others. `ridges` [2M] are
    per row of history, and `common_ridges` those of the common part of quality and of log cost, None without gaps.
    """

    map: LinearMap
    held_out: Float64
    rotation: Float64
    gaps: NDArray[np.bool_]
    ridges: Float64
    common_ridges: tuple[float, float] | None


def fit_predictor(
    basis: KernelBasis,
    input_tokens: Float64,
    targets: Float64,
    generator: np.random.Generator,
    step: Step = silent,
) -> Predictor:
    """Fit all columns of targets [n, 2M], which are nan where an LLM did not answer a row."""
    sample = draw_sample(targets, generator)
    columns = targets.shape[1]
    gaps = np.tile(np.isnan(targets).reshape(len(targets), 2, -1).any(axis=(0, 1)), 2)
    whole, width, common = np.flatnonzero(~gaps), SHARED_WIDTH, None
    rotation, ridges = np.eye(columns), np.empty(columns)
    solved, held_out = np.empty((PLAIN + 2 * basis.landmarks.shape[1], columns)), np.empty(sample.targets.shape)
    if len(whole):
        chosen = best_ridge(basis, sample.columns(whole), step)
        width, ridges[whole], held_out[:, whole] = chosen.width, chosen.ridges, chosen.held_out
        rotation[np.ix_(whole, whole)] = chosen.rotation
        solved[:, whole] = coefficients(basis, sample.columns(whole), chosen)
    if gaps.any():
        step("fitting a shared ridge", 0, 1)
        shared = shared_ridge(basis, width, sample)
        solved[:, gaps], held_out[:, gaps] = shared.coefficients[:, gaps], shared.held_out[:, gaps]
        contrasts = [contrast for _, contrast in shared.penalties]
        ridges[gaps] = np.repeat(contrasts, columns // 2)[gaps] / len(sample.rows)
        common = (shared.penalties[0][0] / len(sample.rows), shared.penalties[1][0] / len(sample.rows))
    fitted = linear_map(basis, sample.rows, width, solved, float(np.median(ridges)))
    predicted = _everywhere(basis, input_tokens, sample.rows, held_out, fitted, step)
    return Predictor(fitted, predicted, rotation, gaps, ridges, common)


def _everywhere(
    basis: KernelBasis,
    input_tokens: Float64,
    sample: NDArray[np.int64],
    held_out: Float64,
    fitted: LinearMap,
    step: Step,
) -> Float64:
    """Predictions [n, V] of each row of history: those of the sample are `held_out` [s, V]."""
    rows = len(basis.embeddings)
    predicted = np.empty((rows, held_out.shape[1]))
    if len(sample) < rows:
        for start in range(0, rows, BLOCK_ROWS):
            step("predicting history", start, rows)
            block = slice(start, start + BLOCK_ROWS)
            predicted[block] = fitted(basis.embeddings[block], input_tokens[block])
    predicted[sample] = held_out
    return predicted
