"""Logs with one answer a row, as companies have them, made from rows that every LLM answered. Pure.

An old policy chose the LLM of each row. What the other LLMs would have answered is then taken away.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from worker.estimation.features import Float64
from worker.estimation.history import History

OldPolicy = Literal["uniform", "default", "tenants"]
OLD_POLICIES: tuple[OldPolicy, ...] = ("uniform", "default", "tenants")
SHORTEST_SHARE = 0.3
TENANTS_AN_LLM = 2


def probabilities(history: History, policy: OldPolicy, generator: np.random.Generator) -> Float64:
    """How likely the old policy chose each LLM for each row, [n, M].

    `uniform`: each LLM alike. `default`: about 80 % of the rows to the best LLM; half of the shortest 30 % to the LLM
    with the most quality for its cost; 5 % to any. `tenants`: rows are 2 M kinds of query, and each kind has one LLM
    for ever.
    """
    rows, llms = history.quality.shape
    if policy == "uniform":
        return np.full((rows, llms), 1 / llms)
    if policy == "tenants":
        kinds = TENANTS_AN_LLM * llms
        seed = int(generator.integers(2**32))
        _, kind = kmeans2(history.embeddings.astype(np.float64), kinds, minit="++", rng=np.random.default_rng(seed))
        certain: Float64 = np.eye(llms)[generator.permutation(np.arange(kinds) % llms)[kind]]
        return certain
    quality, cost = history.quality.mean(axis=0), history.cost_micros.mean(axis=0)
    best, cheap = int(quality.argmax()), int((quality / np.maximum(cost, 1.0)).argmax())
    short = history.input_tokens <= np.quantile(history.input_tokens, SHORTEST_SHARE)
    likely = np.full((rows, llms), 0.05 / llms)
    likely[:, best] += np.where(short, 0.45, 0.95)
    likely[:, cheap] += np.where(short, 0.5, 0.0)
    return likely


def drawn(likely: Float64, generator: np.random.Generator) -> NDArray[np.int64]:
    """One LLM a row, by its probabilities [n, M]."""
    above = likely.cumsum(axis=1) > generator.random((len(likely), 1)) * likely.sum(axis=1, keepdims=True)
    first: NDArray[np.int64] = above.argmax(axis=1)
    return first


def answered_by(history: History, llm: NDArray[np.int64]) -> History:
    """The same rows, where row i knows the answer of llm[i] only."""
    other = np.arange(len(history.llms)) != llm[:, None]
    return replace(
        history,
        quality=np.where(other, np.nan, history.quality),
        cost_micros=np.where(other, np.nan, history.cost_micros),
    )
