"""What a policy would have been worth and cost, from a log in which an old policy chose one LLM a row. Pure.

The estimate is doubly robust (Dudik, Langford and Li 2011): a model's prediction of every row, and what the model
missed where the old policy happened to choose as the new one, weighed by how rarely it did:

    score_i = m(i, a_i) + w_i (y_i - m(i, a_i)),   w_i = [the log chose a_i] / p(i, a_i),   at most n / FEWEST

It is right if the model is right, or if the probabilities are. Predictions are cross-fitted: a row never helps to
predict itself, and so the rows that taught a policy do not judge it. Where the old policy asked an LLM for fewer than
FEWEST of n rows like this one, the log does not support the choice, and the score is only known to be within bounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.stats import t as student

from worker.contract.codes import Untold
from worker.contract.errors import FixSetting
from worker.estimation.calibration import cost_bias, targets_of
from worker.estimation.features import Float64
from worker.estimation.history import History
from worker.estimation.neighbours import EqualRows
from worker.estimation.predictor import SHARED_WIDTH
from worker.estimation.ridge import FOLDS, Sample, make_basis
from worker.estimation.shared_ridge import GRID, Grid, shared_ridge
from worker.evaluation.old_choices import features, guessed

# No answer counts for more than a 20th of the log, and a choice that is less likely than 20 / n is not supported.
FEWEST = 20
# Below these, an estimate is not told.
MOST_UNSUPPORTED, FEWEST_ANSWERS, LEAST_EFFECTIVE = 0.05, 30, 50.0
OUTSIDE = 0.05
MOST_ROWS = 20_000

Rows = NDArray[np.int64]


class Interval(NamedTuple):
    """An estimate, and half the width of the interval that covers the truth in 95 of 100 logs."""

    value: float
    half_width: float

    def covers(self, truth: float) -> bool:
        """Whether a value is inside."""
        return abs(truth - self.value) <= self.half_width


@dataclass(frozen=True)
class Log:
    """n rows, each answered by one of M LLMs.

    `llm` int64 [n] answered with `quality` float64 [n] in [0, 1] for `cost_micros` float64 [n]. `likely` float64 [n, M]
    are the probabilities that the old policy chose each LLM. `predicted_quality` and `predicted_micros` float64 [n, M]
    are a model's, which did not see the row. `folds` int64 [n] are those of its fits.
    """

    llms: tuple[str, ...]
    llm: Rows
    quality: Float64
    cost_micros: Float64
    likely: Float64
    predicted_quality: Float64
    predicted_micros: Float64
    folds: Rows

    @property
    def supported(self) -> NDArray[np.bool_]:
        """Which LLMs the log supports for which rows, [n, M]."""
        return self.likely >= FEWEST / len(self.llm)


class Support(Struct, frozen=True):
    """How much of a log speaks for a choice of LLMs.

    `answers` rows were answered by the chosen LLM. `effective` is the number of equally weighed answers that would tell
    as much. `unsupported` is the share of rows for which the old policy hardly ever asked the chosen LLM. `untold` is
    the reason why no figure is told, None where figures are told.
    """

    answers: int
    effective: float
    unsupported: float
    untold: Untold | None = None


def one_answer(history: History) -> Rows:
    """The rows of history that exactly one LLM answered with a score and a cost."""
    known = ~np.isnan(history.quality) & ~np.isnan(history.cost_micros)
    return np.flatnonzero(known.sum(axis=1) == 1)


def is_log(history: History) -> bool:
    """Whether one LLM alone answered most rows, although there are others."""
    return len(history.llms) > 1 and len(one_answer(history)) > len(history.ids) / 2


def read_log(history: History, seed: int, grid: Grid = GRID, landmarks: int | None = None) -> Log:
    """The rows of `history` with one answer as a log, of at most MOST_ROWS rows. All rows teach the model.

    The probabilities of the old policy are those of the history, or are guessed. `grid` are the penalties to choose
    from, and `landmarks` limits the model: both save time. Raises FixSetting for fewer than FEWEST rows.
    """
    if (answered := len(one_answer(history))) < FEWEST:
        raise FixSetting(f"the log has {answered} rows that one LLM answered; at least {FEWEST} are needed to judge by")
    generator = np.random.default_rng(seed)
    if len(history.ids) > MOST_ROWS:
        history = history.rows(np.sort(generator.permutation(len(history.ids))[:MOST_ROWS]))
    folds = _folds(history, generator)
    quality, cost = _predicted(history, folds, generator, grid, landmarks)
    rows = one_answer(history)
    llm = (~np.isnan(history.quality[rows] + history.cost_micros[rows])).argmax(axis=1)
    if history.likely is None:
        seen = features(history.embeddings[rows], history.input_tokens[rows])
        chosen = guessed(seen, llm, len(history.llms), folds[rows])
    else:
        chosen = history.likely[rows]
    at = rows, llm
    return Log(
        history.llms, llm, history.quality[at], history.cost_micros[at], chosen, quality[rows], cost[rows], folds[rows]
    )


def _folds(history: History, generator: np.random.Generator) -> Rows:
    """A fold for each row. Rows of equal embedding and length have the same one: a copy would tell the answer."""
    equal = EqualRows.of(np.column_stack([history.embeddings, history.input_tokens]).astype(np.float32))
    of_group = generator.permutation(len(equal)) % FOLDS
    folds = np.empty(len(history.ids), dtype=np.int64)
    folds[equal.rows] = np.repeat(of_group, np.diff(equal.starts))
    return folds


def _predicted(
    history: History, folds: Rows, generator: np.random.Generator, grid: Grid, landmarks: int | None
) -> tuple[Float64, Float64]:
    """Quality and cost in micro-dollars of each LLM for each row, [n, M], by fits that did not see the row's fold."""
    basis = make_basis(history.embeddings, history.input_tokens, generator)
    basis = replace(basis, landmarks=np.ascontiguousarray(basis.landmarks[:, :landmarks]))
    sample = Sample(np.arange(len(folds)), targets_of(history), folds)
    held_out = shared_ridge(basis, SHARED_WIDTH, sample, grid).held_out
    quality, log_cost = np.split(held_out, 2, axis=1)
    return np.clip(quality, 0.0, 1.0), np.exp(log_cost) * cost_bias(held_out, history.cost_micros)


def support(log: Log, choice: Rows) -> Support:
    """How much of the log speaks for the LLMs `choice` [n], and whether that is enough to tell figures."""
    weights = _weights(log, choice)
    answers = int((log.llm == choice).sum())
    effective = float(weights.sum() ** 2 / max((weights * weights).sum(), 1e-12))
    unsupported = float(_blind(log, choice).mean())
    untold: Untold | None = None
    if unsupported > MOST_UNSUPPORTED:
        untold = "no_overlap"
    elif answers < FEWEST_ANSWERS:
        untold = "few_answers"
    elif effective < LEAST_EFFECTIVE:
        untold = "uneven_weights"
    return Support(answers, effective, unsupported, untold)


def _weights(log: Log, choice: Rows) -> Float64:
    """1 / p where the log chose the same and supports the choice; else 0."""
    likely = log.likely[np.arange(len(choice)), choice]
    matches = (log.llm == choice) & ~_blind(log, choice)
    weights: Float64 = np.where(matches, 1 / np.where(matches, likely, 1.0), 0.0)
    return weights


def _blind(log: Log, choice: Rows) -> NDArray[np.bool_]:
    return ~log.supported[np.arange(len(choice)), choice]


@dataclass(frozen=True)
class Scores:
    """A score of each row: between `low` and `high` float64 [n], which differ where the log does not support the
    choice."""

    low: Float64
    high: Float64

    @property
    def middle(self) -> Float64:
        """Halfway between."""
        return (self.low + self.high) / 2

    def minus(self, other: Scores) -> Scores:
        """The scores less others of the same rows."""
        return Scores(self.low - other.high, self.high - other.low)

    @property
    def mean(self) -> Interval:
        """The interval of the mean score: of chance, and of what is not known at all."""
        error = standard_errors(self.middle) * self.middle.std() / np.sqrt(len(self.low))
        return Interval(float(self.middle.mean()), float((self.high - self.low).mean() / 2 + error))


def standard_errors(scores: Float64) -> float:
    """Half of the width of an interval that covers the mean of such scores in 95 of 100 logs, in standard errors.

    Where few scores are far from the others, the standard deviation is itself uncertain: by Student's t, whose degrees
    of freedom follow from the kurtosis, because Var(s**2) = sigma**4 (kurtosis - 1) / n.
    """
    apart = (scores - scores.mean()) ** 2
    if not apart.any():
        return 0.0
    kurtosis = float((apart**2).mean() / apart.mean() ** 2)
    freedom = 2 * len(scores) / max(kurtosis - 1.0, 1e-9)
    return float(student.isf(OUTSIDE / 2, max(freedom, 1.0)))


def known_scores(values: Float64) -> Scores:
    """What is known of each row [n], such as what was really done."""
    return Scores(values, values)


def quality_scores(log: Log, choice: Rows) -> Scores:
    """The quality of each row under the LLMs `choice` [n]. Without support it is anything from 0 to 1."""
    return _scores(log, choice, log.quality, log.predicted_quality, np.zeros(len(choice)), np.ones(len(choice)))


def cost_scores(log: Log, choice: Rows) -> Scores:
    """The cost of each row under the LLMs `choice` [n], in micro-dollars. Without support it is anything from the least
    to the most that an answer of this LLM cost, and up to what any answer cost where it never answered."""
    own = [log.cost_micros[log.llm == llm] for llm in range(len(log.llms))]
    least = np.array([costs.min(initial=np.inf) if len(costs) else 0.0 for costs in own])
    most = np.array([costs.max() if len(costs) else log.cost_micros.max() for costs in own])
    return _scores(log, choice, log.cost_micros, log.predicted_micros, least[choice], most[choice])


def _scores(log: Log, choice: Rows, true: Float64, model: Float64, least: Float64, most: Float64) -> Scores:
    score = doubly_robust(log, choice, true, model)
    blind = _blind(log, choice)
    return Scores(np.where(blind, least, score), np.where(blind, most, score))


def doubly_robust(log: Log, choice: Rows, true: Float64, model: Float64) -> Float64:
    """The score of each row [n] under the LLMs `choice` [n], by the model [n, M] alone where the log does not support
    the choice. `true` [n] is what the log's LLM reached."""
    predicted = model[np.arange(len(choice)), choice]
    weights = np.minimum(_weights(log, choice), len(choice) / FEWEST)
    score: Float64 = predicted + weights * (true - predicted)
    return score
