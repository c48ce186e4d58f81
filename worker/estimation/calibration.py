"""Chooses an estimator's parameters from history alone, and fits it. Pure and deterministic: all randomness by seed.

A row never helps to predict itself: ridges are cross-fitted over folds, neighbours are taken leave-one-out. The
manifest records the chosen parameters and the errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from worker.estimation.estimator import COST_STEPS, Estimates, postprocessed
from worker.estimation.features import Float32, Float64, LinearMap, neighbour_weights, weighted_rows
from worker.estimation.history import History
from worker.estimation.manifest import Step, silent
from worker.estimation.neighbours import EqualRows, Rows, exact_nearest
from worker.estimation.ridge import Ridge, best_ridge, held_out_predictions, linear_map, make_basis, rotated

NEIGHBOURS = (16, 32, 64)
TEMPERATURES = (0.03, 0.06, 0.12, 0.25, 0.5)
SAMPLE_ROWS = 2000
PRIOR_ROWS = 1000
POOLED_WEIGHT = 0.5
SHRINKAGE_RANGE = (0.0, 1.5)
MARGIN_QUANTILE = 0.9
MARGIN_RANGE = (1.0, 4.0)
SIMILARITY_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Nearby:
    """Leave-one-out neighbours of `rows` [s] of history: `similarity` and `near` [s, k], best first."""

    rows: Rows
    similarity: Float32
    near: Rows


@dataclass(frozen=True)
class Shrinkage:
    """`share` [V] times the neighbours' residuals is added to the ridge. `error` is relative, a mean over V."""

    neighbours: int
    temperature: float
    share: Float64
    error: float


@dataclass(frozen=True)
class Fitted:
    """The parts of an estimator except its graph, the chosen parameters, and the held-out errors."""

    ridge: LinearMap
    residuals: Float32
    cost_bias: Float64
    prior: Estimates
    margins: tuple[float, ...]
    similarity_quantiles: tuple[float, ...]
    chosen: Ridge
    shrinkage: Shrinkage
    errors: dict[str, Float64]


def least_micros(history: History) -> Float64:
    """What a cost of 0 counts as, for each LLM [M]: a micro-dollar, or its least cost where that is smaller."""
    positive = np.where(history.cost_micros > 0, history.cost_micros, 1.0)
    least: Float64 = np.minimum(np.nanmin(positive, axis=0, initial=1.0), 1.0)
    return least


def targets_of(history: History) -> Float64:
    """The targets: quality and log cost in micros, float64 [n, 2M], nan where an LLM never saw a query."""
    return np.hstack([history.quality, np.log(np.maximum(history.cost_micros, least_micros(history)))])


def fit(history: History, equal: EqualRows, neighbours: int | None, seed: int, step: Step = silent) -> Fitted:
    """Choose and fit everything on history, whose equal rows are `equal`.

    `neighbours` None lets the leave-one-out error choose k too.
    """
    targets = targets_of(history)
    generator = np.random.default_rng(seed)
    basis = make_basis(history.embeddings, history.input_tokens, generator)
    chosen = best_ridge(basis, targets, generator, step)
    ridge = linear_map(basis, targets, chosen)
    held_out = held_out_predictions(basis, history.input_tokens, chosen, ridge, step)
    truth = rotated(targets - held_out, chosen.rotation)
    residuals = np.nan_to_num(truth)
    sample = sampled(generator.permutation(len(targets)), ~np.isnan(history.quality) & ~np.isnan(history.cost_micros))
    sizes = _sizes(len(targets)) if neighbours is None else (neighbours,)
    step("weighing neighbours", 0, len(sample))
    nearby = leave_one_out(history.embeddings, sample, max(sizes), equal)
    shrinkage = best_shrinkage(residuals, truth[sample], nearby, sizes)
    scaled = ((residuals * shrinkage.share) @ chosen.rotation.T).astype(np.float32)
    predicted = held_out[sample] + _nearby_mean(scaled, nearby, shrinkage)
    bias = cost_bias(predicted, history.cost_micros[sample])
    estimates = postprocessed(predicted, bias, nearby.similarity[:, 0])
    return Fitted(
        ridge=ridge,
        residuals=scaled,
        cost_bias=bias,
        prior=estimates.rows(np.arange(min(PRIOR_ROWS, len(sample)))),
        margins=margins(estimates, history.cost_micros[sample]),
        similarity_quantiles=tuple(round(float(q), 6) for q in np.quantile(estimates.similarity, SIMILARITY_QUANTILES)),
        chosen=chosen,
        shrinkage=shrinkage,
        errors=held_out_errors(targets, predicted, nearby, sizes),
    )


def sampled(order: Rows, known: NDArray[np.bool_]) -> Rows:
    """The first SAMPLE_ROWS of `order`, and all rows of LLMs that none of those know; `known` [n, M]."""
    first, rest = order[:SAMPLE_ROWS], order[SAMPLE_ROWS:]
    unseen = ~known[first].any(axis=0)
    return np.concatenate([first, rest[known[rest][:, unseen].any(axis=1)]])


def _sizes(rows: int) -> tuple[int, ...]:
    """The k to choose from; where history is smaller than all of them, all other rows."""
    return tuple(size for size in NEIGHBOURS if size < rows) or (rows - 1,)


def leave_one_out(embeddings: Float32, rows: Rows, k: int, equal: EqualRows | None = None) -> Nearby:
    """The k nearest other rows of history to each of `rows`, by exact search."""
    similarity, near = exact_nearest(embeddings, embeddings[rows], k + 1, equal)
    other = near != rows[:, None]
    other[other.all(axis=1), -1] = False
    return Nearby(rows, similarity[other].reshape(-1, k), near[other].reshape(-1, k))


def best_shrinkage(residuals: Float64, truth: Float64, nearby: Nearby, sizes: tuple[int, ...]) -> Shrinkage:
    """The k, temperature and shares that predict the residuals of rows `truth` [s, V] best from `residuals` [n, V]."""
    return min(
        (_shrinkage(residuals, truth, nearby, size, temperature) for size, temperature in product(sizes, TEMPERATURES)),
        key=lambda shrinkage: shrinkage.error,
    )


def _shrinkage(residuals: Float64, truth: Float64, nearby: Nearby, size: int, temperature: float) -> Shrinkage:
    signal = _mean_of(residuals.astype(np.float32), nearby, size, temperature)
    known = np.where(np.isnan(truth), 0.0, truth)
    signal = np.where(np.isnan(truth), 0.0, signal)
    match, power = (known * signal).sum(axis=0), np.maximum((signal * signal).sum(axis=0), 1e-12)
    pooled_match, pooled_power = POOLED_WEIGHT * match.mean(), POOLED_WEIGHT * power.mean()
    share = np.clip((match + pooled_match) / (power + pooled_power), *SHRINKAGE_RANGE)
    left, all_ = ((known - share * signal) ** 2).sum(axis=0), (known * known).sum(axis=0)
    halves = zip(np.split(left, 2), np.split(all_, 2), strict=True)
    error = sum(float(half.sum() / max(whole.sum(), 1e-12)) for half, whole in halves)
    return Shrinkage(size, temperature, np.round(share, 4), error)


def _mean_of(table: Float32, nearby: Nearby, size: int, temperature: float) -> Float64:
    near = np.ascontiguousarray(nearby.near[:, :size])
    weights = neighbour_weights(np.ascontiguousarray(nearby.similarity[:, :size]), near, temperature)
    return weighted_rows(weights, near, table).astype(np.float64)


def _nearby_mean(table: Float32, nearby: Nearby, shrinkage: Shrinkage) -> Float64:
    return _mean_of(table, nearby, shrinkage.neighbours, shrinkage.temperature)


def cost_bias(predicted: Float64, cost_micros: Float64) -> Float64:
    """[M]: sum of true costs over the sum of exp(predicted log cost), so that estimates are right in the mean."""
    seen = ~np.isnan(cost_micros)
    raised = np.where(seen, np.exp(predicted[:, cost_micros.shape[1] :]), 0.0)
    bias: Float64 = np.where(seen, cost_micros, 0.0).sum(axis=0) / np.maximum(raised.sum(axis=0), 1e-12)
    return np.where(seen.any(axis=0), bias, 1.0)


def margins(estimates: Estimates, cost_micros: Float64) -> tuple[float, ...]:
    """[M]: the factor that covers MARGIN_QUANTILE of the true costs, within MARGIN_RANGE."""
    ratios = cost_micros / np.maximum(estimates.cost_micros, 1.0 / COST_STEPS)
    seen = ~np.isnan(ratios)
    found = [np.quantile(column[known], MARGIN_QUANTILE) for column, known in zip(ratios.T, seen.T, strict=True)]
    return tuple(round(float(np.clip(margin, *MARGIN_RANGE)), 3) for margin in found)


def held_out_errors(targets: Float64, predicted: Float64, nearby: Nearby, sizes: tuple[int, ...]) -> dict[str, Float64]:
    """Root mean square errors [2M] on the sample: of each column's mean, of neighbours alone, of `predicted`."""
    truth = targets[nearby.rows]
    means = np.nanmean(targets, axis=0)
    filled = np.where(np.isnan(targets), means, targets).astype(np.float32)
    alone = [_rmse(truth - _mean_of(filled, nearby, max(sizes), t)) for t in TEMPERATURES]
    return {
        "mean": _rmse(truth - means),
        "neighbours": min(alone, key=lambda errors: float(errors.mean())),
        "built": _rmse(truth - predicted),
    }


def _rmse(differences: Float64) -> Float64:
    errors: Float64 = np.sqrt(np.nanmean(differences * differences, axis=0))
    return errors
