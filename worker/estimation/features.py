"""The arithmetic of an estimate: kernel features, a linear map over them, and weighted neighbours. Pure numpy.

Sums that BLAS takes in an order of its own would differ with the number of rows asked at once. Here factors are
rounded to integers small enough that every partial sum is exact, so a row's result is the same alone or in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

# (4000 + sqrt(d) / 2) ** 2 < 2 ** 24: a dot product of two rounded unit vectors is an integer that float32 holds.
UNIT_SCALE = 4000.0
KERNEL_BITS = 20
EXACT_BITS = 52
STANDARD_REACH = 4.0
# Fewer input tokens cost as much as these: a template and a role are always paid.
FEWEST_TOKENS = 5.0


@dataclass(frozen=True)
class LinearMap:
    """Ridge coefficients over [1, t, t**2, kernel features, t * kernel features], t = standardised log input tokens.

    `landmarks` float32 [d, D], rounded unit vectors. `weights` float64 [D, 2V + 1], integers, times `scales` [2V + 1]:
    V columns of the kernel features, V of their products with t, and one that predicts t itself, for queries whose
    token count is unknown. `plain` float64 [3, V]: coefficients of 1, t and t**2. `token_mean` and `token_spread`
    standardise log tokens, `token_base` is their constant. `token_most` is the largest token count of history,
    infinite where history has none.
    """

    landmarks: Float32
    kernel_width: float
    weights: Float64
    scales: Float64
    plain: Float64
    token_mean: float
    token_spread: float
    token_base: float
    token_most: float

    @property
    def token_reach(self) -> float:
        """The largest token count that the map was fitted for: beyond it, `t` does not grow."""
        return float(min(self.token_most, np.exp(self.token_mean + STANDARD_REACH * self.token_spread)))

    @property
    def unrelated(self) -> float:
        """The mean similarity of two landmarks: rows of history that have nothing to do with each other."""
        units = self.landmarks.astype(np.float64) / UNIT_SCALE
        count, total = units.shape[1], units.sum(axis=1)
        return float((total @ total - count) / max(1, count * (count - 1)))

    def __call__(self, embeddings: Float32, input_tokens: Float64) -> Float64:
        """embeddings [n, d] and input tokens [n] (nan: unknown) -> predictions float64 [n, V]."""
        mapped = (kernel(embeddings, self.landmarks, self.kernel_width) @ self.weights) * self.scales
        known = standard_tokens(input_tokens, self.token_mean, self.token_spread)
        t = np.where(np.isnan(known), self.token_base + mapped[:, -1], known)[:, None]
        level, slope = np.split(mapped[:, :-1], 2, axis=1)
        predicted: Float64 = level + self.plain[0] + t * (slope + self.plain[1]) + t * t * self.plain[2]
        return predicted


def rounded_units(vectors: Float32) -> Float32:
    """Unit vectors [n, d] as integers times 1 / UNIT_SCALE."""
    scaled: Float32 = np.rint(vectors * np.float32(UNIT_SCALE))
    return scaled


def kernel(embeddings: Float32, landmarks: Float32, width: float) -> Float64:
    """[n, d] and rounded landmarks [d, D] -> exp((similarity - 1) / width) in units of 2**-KERNEL_BITS, integers."""
    products = rounded_units(embeddings) @ landmarks
    slope = np.float32(1.0 / (UNIT_SCALE * UNIT_SCALE * width))
    raised = np.exp(products * slope + np.float32(KERNEL_BITS * np.log(2.0) - 1.0 / width))
    steps: Float64 = np.rint(raised).astype(np.float64)
    return steps


def exact_weights(coefficients: Float64) -> tuple[Float64, Float64]:
    """Coefficients [D, V] over kernel features in [0, 1] -> (integers [D, V], scales [V]) for `LinearMap`."""
    reach = np.maximum(np.abs(coefficients).sum(axis=0), 1e-30)
    bits = np.minimum(np.floor(EXACT_BITS - KERNEL_BITS - 2 - np.log2(reach)), 60.0)
    return np.rint(coefficients * np.exp2(bits)), np.exp2(-bits - KERNEL_BITS)


def standard_tokens(input_tokens: Float64, mean: float, spread: float) -> Float64:
    """Token counts [n] -> standardised logs, at most STANDARD_REACH away from 0; nan stays nan."""
    standard = (np.log(np.maximum(input_tokens, 1.0)) - mean) / spread
    limited: Float64 = np.clip(standard, -STANDARD_REACH, STANDARD_REACH)
    return limited


def neighbour_weights(similarity: Float32, rows: NDArray[np.int64], temperature: float) -> Float32:
    """[n, k] similarities, best first -> weights summing to 1 a row; a row id of -1 (no neighbour) weighs nothing."""
    relative = np.maximum(similarity, np.float32(-2.0)) - similarity[:, :1]
    weights = np.where(rows < 0, np.float32(0.0), np.exp(relative / np.float32(temperature)))
    shares: Float32 = weights / weights.sum(axis=1, keepdims=True)
    return shares


def weighted_rows(weights: Float32, rows: NDArray[np.int64], table: Float32) -> Float32:
    """Weights [n, k] over the rows [n, k] of a table [N, V] -> [n, V]; one product of fixed shape for each query."""
    gathered = table[rows]
    mixed: Float32 = np.matmul(weights[:, None, :], gathered)[:, 0, :]
    return mixed
