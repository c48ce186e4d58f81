"""Estimates each LLM's quality and cost for a query from similar past queries. Pure: numpy and faiss, no files.

An estimate has two parts. A ridge predicts quality and log cost from kernel features of the embedding and from the
input tokens. The ridge's residuals on the nearest rows of history are added, weighted by exp(similarity / temperature).
PORT (arXiv 2509.02718, section 4.1) uses the neighbours alone. A query gets the same bits alone and in any batch.

Far outside history, neighbours and ridge say nothing about a query's quality: it is pulled to the mean of each LLM
(`Familiarity`). Costs are not pulled: a query's tokens tell more about them than any mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.estimation.features import FEWEST_TOKENS, Float32, Float64, LinearMap, neighbour_weights, weighted_rows
from worker.estimation.manifest import Manifest
from worker.estimation.neighbours import EqualRows

BLOCK_ROWS = 128
QUALITY_STEPS = float(2**20)
# A cost below a micro-dollar keeps a fraction; a reservation is rounded up.
COST_STEPS = 1024.0
# One row of history in a hundred has no neighbour nearer than this quantile of similarities.
RARELY_FARTHER = 0.01
LEAST_WIDTH = 1e-3
COST_CEILING_MICROS = float(2**45)


class Copied(NamedTuple):
    """A column that is another one, with the cost times a factor."""

    column: int
    cost_factor: float


@dataclass(frozen=True)
class Estimates:
    """For n queries and M LLMs: `quality` float64 [n, M] in [0, 1] (float32 holds each exactly), `cost_micros`
    float64 [n, M] >= 0, in steps of 1/COST_STEPS, `similarity` float32 [n] to the nearest row of history. The costs
    that evaluations compare with have any fractions."""

    quality: NDArray[np.float64]
    cost_micros: Float64
    similarity: NDArray[np.float32]

    def rows(self, which: NDArray[np.int64]) -> Estimates:
        """The estimates of these queries only, in this order."""
        return Estimates(self.quality[which], self.cost_micros[which], self.similarity[which])

    def with_copies(self, copied: Sequence[Copied]) -> Estimates:
        """The same with further columns."""
        columns, factors = [one.column for one in copied], np.array([one.cost_factor for one in copied])
        cost = (
            np.rint(np.minimum(self.cost_micros[:, columns] * factors, COST_CEILING_MICROS) * COST_STEPS) / COST_STEPS
        )
        return Estimates(
            np.hstack([self.quality, self.quality[:, columns]]), np.hstack([self.cost_micros, cost]), self.similarity
        )


class Familiarity(NamedTuple):
    """How similar a query must be to its nearest row of history to be estimated by it.

    From `near` on, estimates are trusted; up to `far`, quality is its `mean` float64 [M] over history. `far` is the
    similarity of two rows of history that have nothing to do with each other, `near` is half way from there to that
    of a row and its nearest neighbour, of which one row in a hundred has no nearer one.
    """

    far: float
    near: float
    mean: Float64

    def pulled(self, quality: Float64, similarity: Float32) -> Float64:
        """Predicted quality [n, M] of queries with these similarities [n], less of what is not trusted."""
        trust = np.clip((similarity.astype(np.float64) - self.far) / (self.near - self.far), 0.0, 1.0)[:, None]
        pulled: Float64 = self.mean + trust * (quality - self.mean)
        return np.where(trust < 1.0, pulled, quality)


def familiarity(prior: Estimates, unrelated: float, llms: int) -> Familiarity:
    """From the leave-one-out estimates of history, its first `llms` columns, and the similarity of unrelated rows."""
    nearest = float(np.quantile(prior.similarity, RARELY_FARTHER)) if len(prior.similarity) else 1.0
    far = min(unrelated, nearest - LEAST_WIDTH)
    return Familiarity(far, (far + nearest) / 2, prior.quality[:, :llms].mean(axis=0))


@dataclass(frozen=True)
class Estimator:
    """An index in memory; `index.load` makes one.

    `graph` is the FAISS HNSW index of the distinct embeddings; node g is group g of `equal_rows`. `residuals` float32
    [rows, 2M] is, for each row of history, the true quality and log cost minus the ridge's held-out prediction, times
    the shrinkage. `cost_bias` [M] turns exp(mean log cost) into mean cost. `prior` holds
    leave-one-out estimates of a sample of history, in random order. `copied` are columns of LLMs without history.
    """

    manifest: Manifest
    graph: Any
    equal_rows: EqualRows
    ids: list[str]
    ridge: LinearMap
    residuals: Float32
    cost_bias: Float64
    prior: Estimates
    copied: tuple[Copied, ...] = ()

    def estimate(self, embeddings: Float32, input_tokens: Float64) -> Estimates:
        """L2-normalised embeddings float32 [n, d] and input tokens float64 [n] (nan: unknown) -> estimates."""
        return self.predict(embeddings, input_tokens, self.search(embeddings))

    def search(self, embeddings: Float32) -> tuple[Float32, NDArray[np.int64]]:
        """The nearest rows of history to embeddings [n, d]: similarities and row numbers, [n, neighbours] each."""
        return self.nearest(embeddings, self.manifest.parameters.neighbours)

    def nearest(self, embeddings: Float32, k: int) -> tuple[Float32, NDArray[np.int64]]:
        """The k nearest rows of history that the graph finds: similarities and row numbers, [n, k] each, best first."""
        similarity, groups = self.graph.search(embeddings, min(k, len(self.equal_rows)))
        return self.equal_rows.nearest(similarity, groups, k)

    def predict(
        self, embeddings: Float32, input_tokens: Float64, nearest: tuple[Float32, NDArray[np.int64]]
    ) -> Estimates:
        """`estimate` after `search`."""
        similarity, rows = nearest
        tokens = np.maximum(input_tokens, FEWEST_TOKENS)
        weights = neighbour_weights(similarity, rows, self.manifest.parameters.temperature)
        predicted = np.empty((len(embeddings), self.residuals.shape[1]))
        for start in range(0, len(embeddings), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            predicted[block] = self.ridge(embeddings[block], tokens[block])
            predicted[block] += weighted_rows(weights[block], rows[block], self.residuals)
        llms = len(self.cost_bias)
        predicted[:, :llms] = self.familiarity.pulled(predicted[:, :llms], similarity[:, 0])
        found = postprocessed(predicted, self.cost_bias, similarity[:, 0], tokens / self.ridge.token_reach)
        return found.with_copies(self.copied) if self.copied else found

    @cached_property
    def familiarity(self) -> Familiarity:
        """How similar a query must be to history."""
        return familiarity(self.prior, self.ridge.unrelated, len(self.cost_bias))

    def neighbours(self, embedding: Float32, k: int) -> list[tuple[str, float]]:
        """The k nearest rows of history to one embedding float32 [d]: (row id, similarity), best first."""
        similarity, rows = self.nearest(embedding[None, :], k)
        return [(self.ids[row], float(near)) for near, row in zip(similarity[0], rows[0], strict=True) if row >= 0]


def postprocessed(
    predicted: Float64, cost_bias: Float64, similarity: Float32, beyond: Float64 | None = None
) -> Estimates:
    """Predictions [n, 2M] of quality and log cost in micros -> estimates, within their ranges and rounded.

    `beyond` [n] is the number of input tokens over the largest number that the predictions know. Above 1 the cost grows
    in proportion; nan and less than 1 change nothing.
    """
    llms = len(cost_bias)
    quality = np.rint(np.clip(predicted[:, :llms], 0.0, 1.0) * QUALITY_STEPS) / QUALITY_STEPS
    cost = np.exp(np.minimum(predicted[:, llms:], np.log(COST_CEILING_MICROS))) * cost_bias
    if beyond is not None:
        cost = cost * np.maximum(np.nan_to_num(beyond), 1.0)[:, None]
    return Estimates(quality, np.rint(np.minimum(cost, COST_CEILING_MICROS) * COST_STEPS) / COST_STEPS, similarity)
