"""What is chosen at build: by rows that did not help to predict themselves, and from history alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.estimation import ridge
from worker.estimation.calibration import (
    SAMPLE_ROWS,
    Nearby,
    best_shrinkage,
    cost_bias,
    leave_one_out,
    margins,
    sampled,
    targets_of,
)
from worker.estimation.estimator import Estimates
from worker.estimation.features import LinearMap, exact_weights, kernel, rounded_units
from worker.estimation.history import History, normalised
from worker.estimation.predictor import fit_predictor
from worker.estimation.ridge import landmark_count, make_basis


def units(rows: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    """Random unit vectors."""
    return normalised(np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32))


def test_no_row_is_its_own_neighbour(past: History) -> None:
    """A row is never its own neighbour, also when rows of history are equal and the search does not find the row
    first."""
    twins = np.vstack([past.embeddings[:50]] * 3)
    found = leave_one_out(twins, np.arange(150), 5)
    assert found.near.shape == (150, 5)
    own = np.flatnonzero((found.near == found.rows[:, None]).any(axis=1))
    assert own.tolist() == [], "rows that are their own neighbours"


def test_an_llm_that_few_rows_know_is_in_the_sample() -> None:
    """The sample is the first rows of the order, and more rows for an LLM that few of the first rows know, so that the
    errors of every LLM can be measured."""
    order = np.random.default_rng(0).permutation(SAMPLE_ROWS * 2)
    known = np.ones((len(order), 3), dtype=bool)
    known[order[: SAMPLE_ROWS + 5], 1] = known[order[SAMPLE_ROWS + 8 :], 1] = False
    assert sampled(order, known).tolist() == [*order[:SAMPLE_ROWS], *order[SAMPLE_ROWS + 5 : SAMPLE_ROWS + 8]]


def test_ridges_are_fitted_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows of the order, and so many rows of an LLM that they rarely know; all rows if they are few."""
    order, known = np.random.default_rng(0).permutation(1_000), np.ones((1_000, 2), dtype=bool)
    assert ridge.ridge_rows(order, known).tolist() == list(range(1_000))
    monkeypatch.setattr(ridge, "RIDGE_ROWS", 100)
    monkeypatch.setattr(ridge, "LLM_ROWS", 30)
    known[:, 1] = order >= 90
    rare = set(np.flatnonzero(known[:, 1])[np.argsort(order[known[:, 1]])[:30]].tolist())
    assert set(ridge.ridge_rows(order, known).tolist()) == set(np.flatnonzero(order < 100).tolist()) | rare


def test_picked_columns_are_laid_out_alike(past: History) -> None:
    """BLAS sums in the order of the layout: a history without gaps must give the bits that it gave before some could
    have gaps."""
    sample = ridge.draw_sample(targets_of(past), np.random.default_rng(0))
    picked = sample.columns(np.arange(sample.targets.shape[1]))
    assert np.array_equal(picked.targets, sample.targets)
    assert picked.targets.flags.c_contiguous == sample.targets.flags.c_contiguous


def test_every_row_is_predicted_by_a_fit_that_did_not_see_it(past: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows outside of the sample have nearly the error of rows inside, which are cross-fitted: nothing is leaked."""
    monkeypatch.setattr(ridge, "RIDGE_ROWS", 200)
    monkeypatch.setattr(ridge, "LLM_ROWS", 100)
    targets, generator = targets_of(past), np.random.default_rng(0)
    basis = make_basis(past.embeddings, past.input_tokens, generator)
    replayed = copy.deepcopy(generator)
    found = fit_predictor(basis, past.input_tokens, targets, generator)
    missed = ((targets - found.held_out) ** 2)[:, :4].mean(axis=1)
    inside = np.zeros(len(targets), dtype=bool)
    inside[ridge.draw_sample(targets, replayed).rows] = True
    assert inside.sum() == 200
    assert missed[~inside].mean() == pytest.approx(missed[inside].mean(), rel=0.25)
    assert found.held_out[~inside] == pytest.approx(found.map(past.embeddings[~inside], past.input_tokens[~inside]))


@pytest.mark.parametrize(("echo", "expected"), [(1.0, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_neighbours_are_trusted_as_far_as_they_tell(echo: float, expected: float) -> None:
    """If the residual of a row is `echo` times the residual of its neighbour, the neighbour's share is `echo`."""
    missed = np.random.default_rng(1).normal(size=(2000, 2))
    rows = np.arange(1000)
    nearby = Nearby(rows, np.ones((1000, 1), dtype=np.float32), (rows + 1000)[:, None])
    shrinkage = best_shrinkage(missed, echo * missed[1000:], nearby, (1,), np.zeros(2, dtype=bool))
    assert shrinkage.share == pytest.approx([expected] * 2, abs=0.01)


def test_the_bias_makes_costs_right_in_the_mean() -> None:
    """If log costs have a standard deviation of 0.5 around the prediction, the mean cost is exp(0.125) times
    exp(prediction), and the bias is that factor."""
    noise = np.random.default_rng(2).normal(scale=0.5, size=(4000, 1))
    predicted = np.full((4000, 2), 6.0)
    assert cost_bias(predicted, np.exp(6.0 + noise)) == pytest.approx([np.exp(0.125)], rel=0.03)


def test_margins_cover_nine_of_ten_costs() -> None:
    """Of costs uniform in 100 .. 200 at an estimate of 100, nine of ten are below 190: the margin is 1.9. An estimate
    that no cost exceeds has a margin of 1."""
    costs = np.column_stack([np.linspace(100.0, 200.0, 1001), np.full(1001, 50.0), np.full(1001, 5000.0)])
    estimates = Estimates(np.zeros((1001, 3)), np.full((1001, 3), 100), np.zeros(1001, dtype=np.float32))
    assert margins(estimates, costs) == (1.9, 1.0, 4.0)


def fitted(tokens: NDArray[np.float64], targets: NDArray[np.float64], embeddings: NDArray[np.float32]) -> LinearMap:
    """A ridge on these rows."""
    generator = np.random.default_rng(0)
    basis = make_basis(embeddings, tokens, generator)
    return fit_predictor(basis, tokens, targets, generator).map


@pytest.mark.parametrize("fixed", [0.0, 500.0], ids=["cost per token", "and a fixed prompt for one kind of query"])
def test_the_ridge_learns_costs_of_tokens_by_kind_of_query(fixed: float) -> None:
    """The ridge predicts log(cost) = log(tokens + fixed if the first coordinate is positive) within 3 % on new rows."""
    embeddings, tokens = units(1200, 8), np.exp(np.random.default_rng(4).normal(5.0, 0.6, 1200))
    long = np.sign(embeddings[:, 0]) > 0
    embeddings = normalised(embeddings + np.where(long, 2.0, -2.0)[:, None] * np.eye(8, dtype=np.float32)[0])
    cost = np.log(tokens + fixed * long)[:, None]
    quality = np.zeros((1200, 1))
    found = fitted(tokens[:800], np.hstack([quality, cost])[:800], embeddings[:800].astype(np.float32))
    predicted = found(embeddings[800:].astype(np.float32), tokens[800:])[:, 1]
    assert np.sqrt(((predicted - cost[800:, 0]) ** 2).mean()) < 0.03


def test_rounding_costs_no_accuracy() -> None:
    """Whole weights times a scale predict the same as the coefficients, to 1e-6."""
    coefficients = np.random.default_rng(6).normal(size=(40, 3)) * [1.0, 1e3, 1e-3]
    embeddings, landmarks = units(100, 32, 7), rounded_units(units(40, 32, 8)).T
    features = kernel(embeddings, np.ascontiguousarray(landmarks), 0.6)
    weights, scales = exact_weights(coefficients)
    exact = (features * 2.0**-20) @ coefficients
    off = np.abs((features @ weights) * scales - exact) / np.abs(coefficients).sum(axis=0)
    assert off.max() < 1e-6
    assert np.array_equal(weights, np.rint(weights)), "a weight is not a whole number"


@pytest.mark.parametrize(("rows", "landmarks"), [(10, 16), (400, 100), (1_536, 384), (100_000, 384)])
def test_landmarks_follow_the_rows(rows: int, landmarks: int) -> None:
    """A small history gets few landmarks, because the time to fit them grows with their cube."""
    assert landmark_count(rows) == landmarks
