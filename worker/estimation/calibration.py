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
from worker.estimation.features import Float32, Float64, neighbour_weights, weighted_rows
from worker.estimation.history import History
from worker.estimation.manifest import Step, silent
from worker.estimation.neighbours import EqualRows, Rows, exact_nearest
from worker.estimation.predictor import Predictor, fit_predictor
from worker.estimation.ridge import make_basis

NEIGHBOURS = (16, 32, 64)
TEMPERATURES = (0.03, 0.06, 0.12, 0.25, 0.5)
SAMPLE_ROWS, SAMPLE_LLM_ROWS = 2000, 100
PRIOR_ROWS = 1000
POOLED_WEIGHT = 0.5
# So many answers of all LLMs speak for an LLM that has few of its own.
POOLED_ROWS = 20
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

    predictor: Predictor
    residuals: Float32
    cost_bias: Float64
    prior: Estimates
    margins: tuple[float, ...]
    similarity_quantiles: tuple[float, ...]
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
    predictor = fit_predictor(basis, history.input_tokens, targets, generator, step)
    missed = targets - predictor.held_out
    residuals = filled(missed) @ predictor.rotation
    sample = sampled(generator.permutation(len(targets)), ~np.isnan(history.quality) & ~np.isnan(history.cost_micros))
    sizes = _sizes(len(targets)) if neighbours is None else (neighbours,)
    step("weighing neighbours", 0, len(sample))
    nearby = leave_one_out(history.embeddings, sample, max(sizes), equal)
    truth = np.where(np.isnan(missed[sample]), np.nan, residuals[sample])
    shrinkage = best_shrinkage(residuals, truth, nearby, sizes, predictor.gaps)
    scaled = ((residuals * shrinkage.share) @ predictor.rotation.T).astype(np.float32)
    predicted = predictor.held_out[sample] + _nearby_mean(scaled, nearby, shrinkage)
    bias = cost_bias(predicted, history.cost_micros[sample])
    estimates = postprocessed(predicted, bias, nearby.similarity[:, 0])
    return Fitted(
        predictor=predictor,
        residuals=scaled,
        cost_bias=bias,
        prior=estimates.rows(np.arange(min(PRIOR_ROWS, len(sample)))),
        margins=margins(estimates, history.cost_micros[sample]),
        similarity_quantiles=tuple(round(float(q), 6) for q in np.quantile(estimates.similarity, SIMILARITY_QUANTILES)),
        shrinkage=shrinkage,
        errors=held_out_errors(targets, predicted, nearby, sizes),
    )


def filled(missed: Float64) -> Float64:
    """What was missed [n, 2M], nan where an LLM did not answer, with each gap at the mean of the LLMs that answered.

    So neighbours count whichever LLM answered them. A row that nobody answered has missed nothing.
    """
    halves = [np.where(np.isnan(half), _row_means(half)[:, None], half) for half in np.split(missed, 2, axis=1)]
    return np.hstack(halves)


def _row_means(values: Float64) -> Float64:
    means: Float64 = np.nansum(values, axis=1) / np.maximum((~np.isnan(values)).sum(axis=1), 1)
    return means


def sampled(order: Rows, known: NDArray[np.bool_]) -> Rows:
    """The first SAMPLE_ROWS of `order`, and SAMPLE_LLM_ROWS of each LLM that fewer of those know; `known` [n, M]."""
    first, rest = order[:SAMPLE_ROWS], order[SAMPLE_ROWS:]
    more = np.zeros(len(rest), dtype=bool)
    for seen, others in zip(known[first].sum(axis=0), known[rest].T, strict=True):
        more[np.flatnonzero(others)[: max(SAMPLE_LLM_ROWS - seen, 0)]] = True
    return np.concatenate([first, rest[more]])


def _sizes(rows: int) -> tuple[int, ...]:
    """The k to choose from; where history is smaller than all of them, all other rows."""
    return tuple(size for size in NEIGHBOURS if size < rows) or (rows - 1,)


def leave_one_out(embeddings: Float32, rows: Rows, k: int, equal: EqualRows | None = None) -> Nearby:
    """The k nearest other rows of history to each of `rows`, by exact search."""
    similarity, near = exact_nearest(embeddings, embeddings[rows], k + 1, equal)
    other = near != rows[:, None]
    other[other.all(axis=1), -1] = False
    return Nearby(rows, similarity[other].reshape(-1, k), near[other].reshape(-1, k))


def best_shrinkage(
    residuals: Float64, truth: Float64, nearby: Nearby, sizes: tuple[int, ...], gaps: NDArray[np.bool_]
) -> Shrinkage:
    """The k, temperature and shares that predict the residuals of rows `truth` [s, V] best from `residuals` [n, V].

    The columns with `gaps` [V] of quality have one share, and so have those of log cost: each alone has few answers.
    """
    return min(
        (
            _shrinkage(residuals, truth, nearby, size, temperature, gaps)
            for size, temperature in product(sizes, TEMPERATURES)
        ),
        key=lambda shrinkage: shrinkage.error,
    )


def _shrinkage(
    residuals: Float64, truth: Float64, nearby: Nearby, size: int, temperature: float, gaps: NDArray[np.bool_]
) -> Shrinkage:
    signal = _mean_of(residuals.astype(np.float32), nearby, size, temperature)
    known = np.where(np.isnan(truth), 0.0, truth)
    signal = np.where(np.isnan(truth), 0.0, signal)
    match, power = (known * signal).sum(axis=0), np.maximum((signal * signal).sum(axis=0), 1e-12)
    for columns in np.split(np.flatnonzero(gaps), 2):
        if len(columns):
            match[columns], power[columns] = match[columns].mean(), power[columns].mean()
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
    """[M]: sum of true costs over the sum of exp(predicted log cost), so that estimates are right in the mean.

    An LLM that did not answer every row is pulled to the bias of all answers, as if POOLED_ROWS more had it.
    """
    seen = ~np.isnan(cost_micros)
    raised = np.where(seen, np.exp(predicted[:, cost_micros.shape[1] :]), 0.0)
    bias: Float64 = np.where(seen, cost_micros, 0.0).sum(axis=0) / np.maximum(raised.sum(axis=0), 1e-12)
    answers = seen.sum(axis=0)
    pooled = (bias * answers).sum() / answers.sum()
    return np.where(answers == len(seen), bias, (bias * answers + pooled * POOLED_ROWS) / (answers + POOLED_ROWS))


def margins(estimates: Estimates, cost_micros: Float64) -> tuple[float, ...]:
    """[M]: the factor that covers MARGIN_QUANTILE of the true costs, within MARGIN_RANGE.

    An LLM that answered fewer than POOLED_ROWS rows has at least the factor of all answers: a reservation that is too
    small overruns a budget.
    """
    ratios = cost_micros / np.maximum(estimates.cost_micros, 1.0 / COST_STEPS)
    seen = ~np.isnan(ratios)
    of_all = float(np.quantile(ratios[seen], MARGIN_QUANTILE))
    found = [
        float(np.quantile(column[known], MARGIN_QUANTILE)) if known.any() else of_all
        for column, known in zip(ratios.T, seen.T, strict=True)
    ]
    few = [known.sum() < min(POOLED_ROWS, len(seen)) for known in seen.T]
    return tuple(
        round(float(np.clip(max(margin, of_all) if rare else margin, *MARGIN_RANGE)), 3)
        for margin, rare in zip(found, few, strict=True)
    )


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
