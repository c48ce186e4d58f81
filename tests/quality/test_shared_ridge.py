"""What is learned where each row has the answer of one LLM, or of some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.quality.instances import DOLLARS_PER_TOKEN, SKILLS, history, without_answers
from worker.estimation import index
from worker.estimation.calibration import cost_bias, filled, margins, targets_of
from worker.estimation.estimator import Estimates, Estimator
from worker.estimation.history import History
from worker.estimation.predictor import Predictor, fit_predictor
from worker.estimation.ridge import make_basis
from worker.estimation.shared_ridge import LEAST_BETWEEN, Sums
from worker.evaluation.old_policies import OLD_POLICIES, OldPolicy, answered_by, drawn, probabilities

QUERIES = history(400, seed=2)


def log_of(rows: int, policy: OldPolicy = "uniform", seed: int = 1) -> History:
    """A made-up log in which each row has one answer."""
    past, generator = history(rows, seed), np.random.default_rng(seed)
    return answered_by(past, drawn(probabilities(past, policy, generator), generator))


def built(past: History, place: Path) -> Estimator:
    """An estimator of a history, through its files."""
    index.build(past, place / "index", "supplied")
    return index.load(place / "index")


def fitted(past: History) -> Predictor:
    """The trained part alone."""
    generator = np.random.default_rng(0)
    basis = make_basis(past.embeddings, past.input_tokens, generator)
    return fit_predictor(basis, past.input_tokens, targets_of(past), generator)


def error(estimated: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """The root mean square error."""
    return float(np.sqrt(np.nanmean((estimated - true) ** 2)))


@pytest.mark.parametrize("policy", ["uniform", "default"])
def test_a_log_tells_what_each_llm_is_good_at(policy: OldPolicy, tmp_path: Path) -> None:
    """On each topic, an LLM is estimated nearer to its skill there than its mean over all topics is."""
    estimator = built(log_of(1_000, policy), tmp_path)
    skill = SKILLS[[int(topic[-1]) for topic in QUERIES.categories or ()]]
    found = estimator.estimate(QUERIES.embeddings, QUERIES.input_tokens)
    assert error(found.quality, skill) < error(np.broadcast_to(skill.mean(axis=0), skill.shape), skill)


@pytest.mark.parametrize("policy", OLD_POLICIES)
def test_an_index_of_a_log_estimates_every_llm(policy: OldPolicy, tmp_path: Path) -> None:
    """Whoever was asked, each LLM has an estimate for each query, and costs are near the truth in sum."""
    found = built(log_of(800, policy), tmp_path).estimate(QUERIES.embeddings, QUERIES.input_tokens)
    assert np.isfinite(found.quality).all(), found.quality
    assert found.cost_micros.sum(axis=0) / QUERIES.cost_micros.sum(axis=0) == pytest.approx(1.0, abs=0.35)


def test_answers_of_other_llms_tell_how_hard_a_query_is(tmp_path: Path) -> None:
    """An LLM that answered five rows is estimated lower on the topic that is hard for all than on the easiest."""
    past = without_answers(history(600, seed=1), 1, rows=5)
    estimator = built(past, tmp_path)
    topics = np.array(QUERIES.categories)
    found = estimator.estimate(QUERIES.embeddings, QUERIES.input_tokens).quality[:, 1]
    assert found[topics == "topic-3"].mean() < found[topics == "topic-2"].mean() - 0.2


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_an_llm_with_few_answers_is_near_the_others(rows: int, tmp_path: Path) -> None:
    """Some wrong answers do not make an LLM worthless: its level is pulled to that of all LLMs."""
    past = without_answers(history(600, seed=1), 3, rows)
    past.quality[:rows, 3] = 0.0
    found = built(past, tmp_path).estimate(QUERIES.embeddings, QUERIES.input_tokens).quality[:, 3].mean()
    assert found > 0.25, found


def test_an_llm_with_many_answers_has_its_own_level() -> None:
    """The mean of the held-out predictions of an LLM is its own mean, as far as its answers tell."""
    log = log_of(1_000)
    found = fitted(log).held_out[:, :4].mean(axis=0)
    assert found == pytest.approx(SKILLS.mean(axis=0), abs=0.06)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        # Two LLMs, each always alike: no variance within them.
        ([[0.0, 0.0], [1.0, 1.0]], 4e-6),
        # As much variance between as chance gives: the least share counts.
        ([[0.0, 1.0], [0.0, 1.0]], 1 / LEAST_BETWEEN),
        ([[0.0], [1.0]], 1 / LEAST_BETWEEN),
    ],
    ids=["nothing within", "nothing between", "one answer each"],
)
def test_levels_are_pulled_by_the_variances(answers: list[list[float]], expected: float) -> None:
    """The pull on a level is the variance within LLMs over the variance between them."""
    size = len(answers[0])
    targets = np.full((2 * size, 2), np.nan)
    targets[:size, 0], targets[size:, 1] = answers
    assert Sums.of(np.ones((2 * size, 1)), targets).level_penalty == pytest.approx(expected, rel=0.01)


def test_sums_without_a_fold_are_those_of_the_other_rows() -> None:
    """Leaving out rows is subtracting their sums."""
    draw = np.random.default_rng(0)
    z, targets = draw.normal(size=(40, 3)), np.where(draw.random((40, 2)) < 0.5, np.nan, draw.random((40, 2)))
    left = Sums.of(z, targets).without(Sums.of(z[:10], targets[:10]))
    assert left.moment == pytest.approx(Sums.of(z[10:], targets[10:]).moment)
    assert left.square == pytest.approx(Sums.of(z[10:], targets[10:]).square)


def test_neighbours_count_whoever_answered_them() -> None:
    """Where an LLM did not answer, what the others missed counts, quality and cost apart; what nobody answered is 0."""
    missed = np.array([[0.4, np.nan, 2.0, np.nan], [0.1, 0.3, 4.0, 6.0], [np.nan] * 4])
    assert filled(missed) == pytest.approx(np.array([[0.4, 0.4, 2.0, 2.0], [0.1, 0.3, 4.0, 6.0], [0.0] * 4]))


def test_few_costs_are_pulled_to_the_bias_of_all() -> None:
    """The bias of an LLM with one answer is 20 parts that of all answers, and one part its own."""
    predicted = np.zeros((100, 4))
    cost = np.column_stack([np.full(100, 2.0), np.full(100, np.nan)])
    cost[0, 1] = 23.0
    of_all = (100 * 2.0 + 23.0) / 101
    assert cost_bias(predicted, cost) == pytest.approx([2.0, (23.0 + 20 * of_all) / 21])


def test_a_margin_of_few_answers_is_at_least_that_of_all() -> None:
    """Three cheap answers are no promise: the LLM is reserved for as much beyond its estimate as all LLMs together."""
    costs = np.column_stack([np.linspace(100.0, 200.0, 1001), np.full(1001, np.nan)])
    costs[:3, 1] = 50.0
    estimates = Estimates(np.zeros((1001, 2)), np.full((1001, 2), 100.0), np.zeros(1001, dtype=np.float32))
    assert margins(estimates, costs) == pytest.approx((1.9, 1.9), abs=0.01)


def test_the_manifest_names_the_ridge_that_llms_share(directory: Path, tmp_path: Path) -> None:
    """A history without gaps has no such ridge, and its manifest is written as before."""
    shared = built(log_of(300), tmp_path).manifest.parameters
    assert isinstance(shared.common_ridge, tuple), shared
    assert "common_ridge" not in (directory / "manifest.json").read_text()


def test_llms_that_answered_every_row_keep_their_components() -> None:
    """A new LLM with few rows changes nothing that the ridge says of the others."""
    past = history(400, seed=1)
    alone = fitted(past.columns([0, 1, 2]))
    beside = fitted(without_answers(past, 3, rows=20))
    assert np.array_equal(alone.held_out, beside.held_out[:, [0, 1, 2, 4, 5, 6]]), "held-out predictions differ"


def test_dollars_follow_each_llm_in_a_log(tmp_path: Path) -> None:
    """Costs of LLMs whose prices differ by 24 keep their order and their ratio, though no row has two of them."""
    found = built(log_of(1_000), tmp_path).estimate(QUERIES.embeddings, QUERIES.input_tokens).cost_micros.mean(axis=0)
    assert found / found[0] == pytest.approx(DOLLARS_PER_TOKEN / DOLLARS_PER_TOKEN[0], rel=0.15)
