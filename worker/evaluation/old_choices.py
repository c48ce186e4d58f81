"""Guesses how likely an old policy was to ask each LLM, from whom it asked. Pure.

A tree splits the rows where the shares of the LLMs differ most, by the number of tokens and by the first components of
the embeddings. A split must be clear by a chi-square test, so a policy that asked anybody is guessed as just that. The
shares are hardly smoothed: smoothed ones would hide that an LLM was never asked for some kind of query.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from worker.estimation.features import Float32, Float64

COMPONENTS = 8
SMALLEST_LEAF = 100
QUANTILES = tuple(step / 16 for step in range(1, 16))
# The chance that rows which do not differ are split, for all splits that are tried together.
FALSE_SPLITS = 0.001

Rows = NDArray[np.int64]


def features(embeddings: Float32, input_tokens: Float64) -> Float64:
    """What an old policy may have chosen by, [n, 1 + COMPONENTS]: log tokens, and components of the embeddings."""
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    strongest = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :COMPONENTS]
    tokens = np.log(np.maximum(np.nan_to_num(input_tokens), 1.0))
    return np.column_stack([tokens, centred @ strongest])


def guessed(seen: Float64, llm: Rows, llms: int, folds: Rows) -> Float64:
    """Probabilities [n, llms] that each LLM was asked, where `llm` [n] was. `seen` [n, f] are `features`.

    A row's probabilities are the shares among other folds' rows of its leaf, so that a row does not tell its own.
    """
    asked = np.eye(llms)[llm]
    likely = np.empty((len(llm), llms))
    for fold in np.unique(folds):
        held = folds == fold
        _fill(likely, seen, np.flatnonzero(held), np.flatnonzero(~held), asked, asked[~held].mean(axis=0))
    return likely


def _fill(likely: Float64, seen: Float64, held: Rows, rows: Rows, asked: Float64, overall: Float64) -> None:
    """Fill in the probabilities of the rows `held`, from the rows `rows` of the same node of the tree."""
    if not len(held):
        return
    split = _split(seen[rows], asked[rows])
    if split is None:
        likely[held] = (asked[rows].sum(axis=0) + overall) / (len(rows) + 1)
        return
    for of_held, of_rows in zip(split.sides(seen[held]), split.sides(seen[rows]), strict=True):
        _fill(likely, seen, held[of_held], rows[of_rows], asked, overall)


@dataclass(frozen=True)
class _Split:
    feature: int
    most: float

    def sides(self, seen: Float64) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        left = seen[:, self.feature] <= self.most
        return left, ~left


def _split(seen: Float64, asked: Float64) -> _Split | None:
    """The clearest split of the rows of a node; None if none is clear."""
    counts = asked.sum(axis=0)
    present = counts > 0
    tried = len(QUANTILES) * seen.shape[1]
    clear = float(chi2.isf(FALSE_SPLITS / tried, max(int(present.sum()) - 1, 1)))
    best, found = clear, None
    for feature in range(seen.shape[1]) if len(seen) >= 2 * SMALLEST_LEAF and present.sum() > 1 else ():
        for most in np.unique(np.quantile(seen[:, feature], QUANTILES)):
            left = seen[:, feature] <= most
            size = int(left.sum())
            if SMALLEST_LEAF <= size <= len(seen) - SMALLEST_LEAF:
                distance = _chi_square(asked[left].sum(axis=0)[present], counts[present], size / len(seen))
                if distance > best:
                    best, found = distance, _Split(feature, float(most))
    return found


def _chi_square(left: Float64, counts: Float64, share: float) -> float:
    """How far the counts of one side are from its share of all `counts`, both sides together."""
    apart = (left - share * counts) ** 2 / counts
    return float(apart.sum() * (1 / share + 1 / (1 - share)))
