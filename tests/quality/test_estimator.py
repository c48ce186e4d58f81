"""The estimator: what it learns, and that an estimate depends on nothing but the query and the index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.quality.instances import history
from worker.estimation import index
from worker.estimation.estimator import COST_STEPS, Estimates, Estimator, Familiarity
from worker.estimation.features import neighbour_weights
from worker.estimation.history import History

QUERIES = history(300, seed=2)


@pytest.fixture(scope="module")
def estimator(directory: Path) -> Estimator:
    """An estimator of the made-up history."""
    return index.load(directory)


def bits(estimates: Estimates) -> tuple[bytes, ...]:
    """Every bit of some estimates."""
    return tuple(part.tobytes() for part in (estimates.quality, estimates.cost_micros, estimates.similarity))


@pytest.mark.parametrize("size", [1, 3, 127, 128, 129, 300])
def test_one_query_alone_and_in_any_batch_has_the_same_bits(estimator: Estimator, size: int) -> None:
    """An estimate has the same bits alone and in a batch of any size."""
    whole = estimator.estimate(QUERIES.embeddings, QUERIES.input_tokens)
    parts = [
        estimator.estimate(QUERIES.embeddings[start : start + size], QUERIES.input_tokens[start : start + size])
        for start in range(0, 300, size)
    ]
    joined = [np.concatenate([getattr(part, name) for part in parts]) for name in Estimates.__dataclass_fields__]
    assert bits(Estimates(*joined)) == bits(whole)


def test_estimates_keep_their_ranges_and_survive_float32(estimator: Estimator) -> None:
    """Quality is in [0, 1] and float32 holds it exactly, and costs are at least 0 and in steps that float64 holds, also
    for queries unlike any row of history."""
    draw = np.random.default_rng(5)
    strange = draw.normal(size=(200, 16)).astype(np.float32)
    strange /= np.linalg.norm(strange, axis=1, keepdims=True)
    found = estimator.estimate(strange, np.geomspace(1.0, 1e8, 200))
    assert found.quality.min() >= 0
    assert found.quality.max() <= 1
    assert found.cost_micros.min() >= 0
    steps = found.cost_micros * COST_STEPS
    assert np.array_equal(steps, np.rint(steps)), "a cost is between two steps"
    assert np.array_equal(found.quality.astype(np.float32), found.quality), "float32 changes a quality"


def test_estimates_are_better_than_means(estimator: Estimator) -> None:
    """On new queries, estimates are nearer the truth than each LLM's mean, and as near as the manifest says. On topics
    that neighbours tell apart, they are no worse than neighbours alone."""
    past = history(400, seed=1)
    found = estimator.estimate(QUERIES.embeddings, QUERIES.input_tokens)
    off = np.sqrt(((found.quality - QUERIES.quality) ** 2).mean())
    of_mean = np.sqrt(((past.quality.mean(axis=0) - QUERIES.quality) ** 2).mean())
    errors = estimator.manifest.errors
    assert off < 0.92 * of_mean
    assert off == pytest.approx(errors.quality, abs=0.03), "the manifest's error is not that of new queries"
    assert errors.quality < 1.02 * errors.quality_neighbours
    assert 1.02 * errors.quality_neighbours < errors.quality_mean


def test_costs_are_right_in_the_mean_and_follow_the_tokens(estimator: Estimator) -> None:
    """The sum of estimated costs is within 5 % of the true one, and a tenfold query costs about ten times as much."""
    found = estimator.estimate(QUERIES.embeddings, QUERIES.input_tokens)
    right = found.cost_micros.sum(axis=0) / QUERIES.cost_micros.sum(axis=0)
    one, ten = (
        estimator.estimate(QUERIES.embeddings[:50], np.full(50, tokens)).cost_micros.mean(axis=0)
        for tokens in (60.0, 600.0)
    )
    assert right.tolist() == pytest.approx([1.0] * len(right), abs=0.05)
    assert (ten / one).min() > 8
    assert (ten / one).max() < 12.5


def test_an_unknown_token_count_is_predicted(estimator: Estimator) -> None:
    """A query without a token count has the cost of a query of usual length."""
    unknown = estimator.estimate(QUERIES.embeddings, np.full(300, np.nan))
    usual = estimator.estimate(QUERIES.embeddings, np.full(300, np.exp(5.0)))
    ratio = unknown.cost_micros.sum(axis=0) / usual.cost_micros.sum(axis=0)
    assert ratio.tolist() == pytest.approx([1.0] * len(ratio), abs=0.15)


def test_neighbours_are_the_nearest_rows(estimator: Estimator) -> None:
    """`neighbours` gives ids and similarities, nearest first; the nearest to a row of history is that row."""
    past = history(400, seed=1)
    found = estimator.neighbours(past.embeddings[7], 3)
    exact = np.sort(past.embeddings @ past.embeddings[7])[::-1][:3]
    assert found[0][0] == past.ids[7]
    assert [near for _, near in found] == pytest.approx(exact.tolist(), abs=1e-5)


def test_far_outside_history_quality_is_the_mean(estimator: Estimator) -> None:
    """A query that is less like its nearest row than two rows that have nothing to do with each other is estimated by
    each LLM's mean, and not by that row."""
    away = -history(400, seed=1).embeddings.mean(axis=0, keepdims=True)
    found = estimator.estimate((away / np.linalg.norm(away)).astype(np.float32), np.array([100.0]))
    assert found.similarity[0] < estimator.familiarity.far
    assert found.quality[0].tolist() == pytest.approx(estimator.familiarity.mean.tolist(), abs=1e-6)


def test_what_history_knows_is_not_pulled(estimator: Estimator) -> None:
    """Queries like those of history are estimated as if there were no mean."""
    trusting = replace(estimator)
    trusting.__dict__["familiarity"] = estimator.familiarity._replace(far=-3.0, near=-2.0)
    pulled, not_pulled = (one.estimate(QUERIES.embeddings, QUERIES.input_tokens) for one in (estimator, trusting))
    same = (pulled.quality == not_pulled.quality).all(axis=1)
    assert same.mean() >= 0.99


PULLED = [(0.1, 0.5), (0.2, 0.5), (0.3, 0.7), (0.4, 0.9), (0.9, 0.9)]


@pytest.mark.parametrize(("similarity", "quality"), PULLED)
def test_the_pull_fades(similarity: float, quality: float) -> None:
    """Between far and near, an estimate moves from the mean to what is predicted."""
    known = Familiarity(far=0.2, near=0.4, mean=np.array([0.5]))
    assert known.pulled(np.array([[0.9]]), np.array([similarity], np.float32))[0, 0] == pytest.approx(quality, abs=1e-6)


@pytest.mark.parametrize(
    ("similarity", "rows", "expected"),
    [
        ([0.9, 0.9], [4, 2], [0.5, 0.5]),
        ([0.9, 0.9 - 0.1 * np.log(3.0)], [4, 2], [0.75, 0.25]),
        ([0.9, 0.5], [4, -1], [1.0, 0.0]),
    ],
    ids=["equals", "a third", "no second neighbour"],
)
def test_neighbours_weigh_by_similarity(similarity: list[float], rows: list[int], expected: list[float]) -> None:
    """Weights are proportional to exp(similarity / temperature) and sum to 1; a missing neighbour has weight 0."""
    found = neighbour_weights(np.array([similarity], dtype=np.float32), np.array([rows]), 0.1)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_twenty_rows_are_history_enough(tmp_path: Path) -> None:
    """Twenty rows, hardly more than the smallest k, make an index that estimates."""
    small: History = history(20, seed=3)
    index.build(small, tmp_path / "index", "supplied")
    found = index.load(tmp_path / "index").estimate(QUERIES.embeddings[:5], QUERIES.input_tokens[:5])
    assert found.quality.shape == (5, 4)
    assert np.isfinite(found.quality).all(), found.quality
