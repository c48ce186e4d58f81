"""What a log with one answer a row tells of another policy, and what it does not tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from tests.quality.instances import history
from worker.commands.main import app
from worker.contract import sentences
from worker.contract.codes import Untold
from worker.contract.errors import FixSetting
from worker.estimation.history import History, read_table
from worker.evaluation import coverage, worth
from worker.evaluation.coverage import LANDMARKS, PENALTIES
from worker.evaluation.off_policy import (
    Log,
    cost_scores,
    is_log,
    quality_scores,
    read_log,
    standard_errors,
    support,
)
from worker.evaluation.old_choices import features, guessed
from worker.evaluation.old_policies import OldPolicy, answered_by, drawn, probabilities
from worker.evaluation.scenario import Plan
from worker.evaluation.study import Finding, Study


def log_of(past: History, policy: OldPolicy, seed: int = 1) -> History:
    """What an old policy left of a history."""
    generator = np.random.default_rng(seed)
    return answered_by(past, drawn(probabilities(past, policy, generator), generator))


def plain(llm: NDArray[np.int64], likely: NDArray[np.float64], quality: float = 1.0) -> Log:
    """A log whose every answer had this quality and cost 100 micro-dollars, and whose model predicts 0.5 and 50."""
    rows, llms = likely.shape
    return Log(
        llms=tuple("ab"[:llms]),
        llm=llm,
        quality=np.full(rows, quality),
        cost_micros=np.full(rows, 100.0),
        likely=likely,
        predicted_quality=np.full((rows, llms), 0.5),
        predicted_micros=np.full((rows, llms), 50.0),
        folds=np.arange(rows) % 8,
    )


def halves(rows: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows answered by two LLMs in turn, each as likely."""
    return np.arange(rows) % 2, np.full((rows, 2), 0.5)


@pytest.fixture(scope="module")
def covered() -> Finding:
    """The experiment on made-up rows, with 30 logs of each old policy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "DRAWS", 30)
        return coverage.off_policy(Study(history(1_000, seed=3), Plan(test=500), seeds=1))


def of(finding: Finding, policy: str, name: str) -> list[int]:
    """The leading numbers of a column, in the rows of one old policy."""
    place = finding.columns.index(name)
    return [int(row[place].split()[0].rstrip("%")) for row in finding.rows if row[0] == policy]


@pytest.mark.long
def test_intervals_cover_the_truth(covered: Finding) -> None:
    """If any LLM was asked, the interval of each target covers the truth in nine of ten logs, also where the
    probabilities are guessed; and bounded ones do where LLMs were hardly asked."""
    for policy in ("uniform", "default", "tenants"):
        assert min(of(covered, policy, "covered")) >= 90, covered.rows


@pytest.mark.long
def test_logs_without_overlap_are_flagged(covered: Finding) -> None:
    """A log by tenant tells nothing of another policy, and a log of any LLM tells of each."""
    assert of(covered, "tenants", "flagged") == [30] * 6
    assert of(covered, "tenants", "told") == [0] * 6
    assert of(covered, "uniform", "flagged") == [0] * 6


def test_a_match_is_weighed_by_how_rarely_the_log_chose_so() -> None:
    """A row that the log answered as the policy counts for 1 / p of what the model missed; another is the model's."""
    log = plain(*halves(100))
    scores = quality_scores(log, np.zeros(100, dtype=np.int64))
    assert scores.middle[:2].tolist() == [0.5 + (1.0 - 0.5) / 0.5, 0.5]
    assert scores.mean.value == pytest.approx(1.0)


def test_no_answer_counts_for_more_than_a_twentieth() -> None:
    """The weight of an unlikely choice is cut at n / 20: here a choice of 4 % in 600 rows at 25, one of 3.4 % at 29."""
    llm = np.zeros(600, dtype=np.int64)
    found = [
        cost_scores(plain(llm, np.tile([likely, 1.0 - likely], (600, 1))), llm).middle[0] for likely in (0.04, 1 / 30)
    ]
    assert found == pytest.approx([50.0 + 25.0 * 50.0, 50.0 + 30.0 * 50.0])


def test_what_was_never_asked_is_only_known_within_bounds() -> None:
    """Without support a row's quality is anything from 0 to 1, and the interval is as wide as that."""
    llm, likely = np.zeros(100, dtype=np.int64), np.tile([1.0, 0.0], (100, 1))
    scores = quality_scores(plain(llm, likely), np.ones(100, dtype=np.int64))
    assert scores.low.tolist() == [0.0] * 100
    assert scores.high.tolist() == [1.0] * 100
    assert scores.mean.half_width == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("far", "expected"), [(0, 1.96), (500, 1.96), (20, 2.02), (2, 2.78)], ids=["none", "half", "20", "2"]
)
def test_few_answers_that_count_most_widen_the_interval(far: int, expected: float) -> None:
    """1,000 scores of which some are far from the others: the fewer, the less is known of their spread."""
    scores = np.concatenate([np.full(far, 10.0), np.random.default_rng(0).normal(size=1_000 - far) * 0.01])
    assert standard_errors(scores) == pytest.approx(expected, rel=0.03)


def rare(rows: int, share: float) -> Log:
    """A log in which LLM `b` is supported for all rows but this share."""
    llm, likely = halves(rows)
    never = slice(round(rows * share))
    likely[never], llm[never] = [1.0, 0.0], 0
    return plain(llm, likely)


def matching(answers: int) -> Log:
    """A log with so many answers of LLM `b` among 1,000."""
    llm = (np.arange(1_000) < answers).astype(np.int64)
    return plain(llm, np.full((1_000, 2), 0.5))


def uneven(light: int) -> Log:
    """A log with 40 answers of LLM `b`, of which all but `light` count 25 times as much."""
    llm, likely = (np.arange(1_000) < 40).astype(np.int64), np.full((1_000, 2), 0.5)
    likely[light:40, 1] = 0.02
    return plain(llm, likely)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (rare(1_000, 0.05), None),
        (rare(1_000, 0.06), "no_overlap"),
        (matching(50), None),
        (matching(29), "few_answers"),
        (uneven(35), "uneven_weights"),
    ],
    ids=["5 % unsupported", "6 % unsupported", "50 answers", "29 answers", "5 answers count most"],
)
def test_a_log_tells_figures_or_why_not(log: Log, expected: Untold | None) -> None:
    """More than 5 % without support, fewer than 30 answers, or an effective size below 50: nothing is told."""
    ones = np.ones(len(log.llm), dtype=np.int64)
    assert support(log, ones).untold == expected


def test_rows_that_taught_a_policy_do_not_judge_it() -> None:
    """Where nothing can be learned, the best LLM a row by the model is worth the mean; its own estimate says more."""
    draw = np.random.default_rng(5)
    past = replace(history(800, seed=5), quality=(draw.random((800, 4)) < 0.5).astype(np.float64))
    log = read_log(log_of(past, "uniform"), 0, ((1.0,), (1.0,)), LANDMARKS)
    best = log.predicted_quality.argmax(axis=1)
    claimed = log.predicted_quality.max(axis=1).mean()
    judged = quality_scores(log, best).mean
    assert claimed > 0.6, claimed
    assert judged.covers(0.5), judged


def test_copies_of_a_prompt_are_in_one_fold() -> None:
    """The answer to a copy would tell the answer, so equal rows are held out together."""
    past = history(200, seed=6)
    log = read_log(log_of(past.rows(np.arange(400) % 200), "uniform"), 0, PENALTIES, LANDMARKS)
    assert log.folds[:200].tolist() == log.folds[200:].tolist()


def test_choices_at_random_are_guessed_as_such() -> None:
    """If the old policy asked anybody, every row has nearly the shares of the whole log."""
    past = log_of(history(1_200, seed=7), "uniform")
    assert read_log(past, 0, PENALTIES, LANDMARKS).likely == pytest.approx(0.25, abs=0.06)


def test_a_rule_by_length_is_found() -> None:
    """If short prompts went to one LLM and long ones to the other, each is nearly certain and the other is 0."""
    past = history(1_200, seed=7)
    long = past.input_tokens > np.median(past.input_tokens)
    likely = guessed(features(past.embeddings, past.input_tokens), long.astype(np.int64), 2, np.arange(1_200) % 8)
    right = likely[np.arange(1_200), long.astype(np.int64)]
    assert (right > 0.95).mean() > 0.85
    assert np.median(likely[~long, 1]) < 0.01


def cheap_and_dear(rows: int) -> History:
    """Two LLMs, of which the better costs a tenth of the other, and each is asked as often."""
    past = history(rows, seed=8).columns([3, 0])
    return log_of(replace(past, cost_micros=np.tile([100.0, 1_000.0], (rows, 1))), "uniform")


def test_what_would_have_been_saved_is_told_in_dollars() -> None:
    """At equal quality, all rows go to the cheap LLM: 450 micro-dollars a row are saved, and quality is gained."""
    found = worth.report(read_log(cheap_and_dear(1_000), 0, PENALTIES, LANDMARKS))
    judged = {one.title: one for one in found.policies}
    saved, done = judged["priced at equal quality"], judged["what was really done"]
    assert saved.saved_usd is not None
    assert done.cost_usd is not None
    assert saved.saved_usd.value == pytest.approx(0.45, abs=0.05)
    assert done.cost_usd.value == pytest.approx(0.55, abs=0.05)
    assert saved.gained_quality is not None
    assert saved.gained_quality.value > 0.1, saved


def test_a_policy_may_stay_within_the_support() -> None:
    """Where a log does not tell of `priced`, it may tell of `priced` among the LLMs that were asked."""
    found = worth.report(read_log(log_of(history(800, seed=9), "tenants"), 0, PENALTIES, LANDMARKS))
    priced = [(one.within_support, one.support.untold) for one in found.policies if one.policy.startswith("priced")]
    assert priced[0] == (False, "no_overlap"), priced
    assert [untold for within, untold in priced if within] == [None, None]


FEW = log_of(history(100, seed=1), "uniform")
ALL = history(100, seed=1)
ODD = {
    "equal embeddings": replace(FEW, embeddings=np.repeat(FEW.embeddings[:1], 100, axis=0)),
    "all free": replace(FEW, cost_micros=FEW.cost_micros * 0.0),
    "tokens unknown": replace(FEW, input_tokens=np.full(100, np.nan)),
    "an LLM that was never asked": answered_by(ALL, np.arange(100) % 3),
    "costs of half of the rows": replace(
        FEW, cost_micros=np.where(np.arange(100)[:, None] < 50, FEW.cost_micros, np.nan)
    ),
    "some rows that all answered": replace(
        FEW,
        quality=np.where(np.arange(100)[:, None] < 30, ALL.quality, FEW.quality),
        cost_micros=np.where(np.arange(100)[:, None] < 30, ALL.cost_micros, FEW.cost_micros),
    ),
    "20 rows": log_of(history(20, seed=1), "uniform"),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_odd_logs_are_judged_too(odd: History) -> None:
    """Figures are finite, and a policy without figures has a reason. An LLM that was never asked has none."""
    found = worth.report(read_log(odd, 0))
    assert len(found.policies) >= 2 + len(odd.llms)
    for one in found.policies:
        assert (one.quality is None) == (one.support.untold is not None), one
        assert one.quality is None or np.isfinite(one.quality).all(), one
        assert one.cost_usd is None or np.isfinite(one.cost_usd).all(), one


def test_a_log_of_some_rows_is_refused() -> None:
    """The error says how many rows are needed."""
    with pytest.raises(FixSetting, match="the log has 19 rows that one LLM answered; at least 20 are needed"):
        read_log(log_of(history(19, seed=1), "uniform"), 0)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log as a file."""
    return written(cheap_and_dear(400), tmp_path_factory.mktemp("log"), {})


def written(past: History, directory: Path, likely: dict[str, NDArray[np.float64]]) -> Path:
    """A log as a file, with these probabilities."""
    columns = {"query_id": past.ids, "input_tokens": past.input_tokens, "embedding": past.embeddings.tolist()}
    for name, quality, cost in zip("ab", past.quality.T, past.cost_micros.T, strict=True):
        columns[name] = pa.array(quality, from_pandas=True)
        columns[f"{name}|total_cost"] = pa.array(cost / 1e6, from_pandas=True)
    columns |= {f"{name}|probability": values for name, values in likely.items()}
    file = directory / "log.parquet"
    pq.write_table(pa.table(columns), file)
    return file


def test_the_command_judges_policies_on_a_log(table: Path, tmp_path: Path) -> None:
    """It shows each policy beside what was really done, in dollars, and writes the same as JSON and as a picture."""
    output = tmp_path / "report.json"
    shown = CliRunner().invoke(app, ["evaluate", str(table), "-o", str(output), "--plot", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    for words in ("what was really done", "all to a", "priced at equal quality: would have saved 0.1"):
        assert words in shown.output
    written = msgspec.json.decode(output.read_bytes(), type=worth.Report)
    assert [one.policy for one in written.policies[:3]] == ["done", "all_to_one", "all_to_one"]
    assert (tmp_path / "log.png").exists()


def test_recorded_probabilities_are_taken(tmp_path: Path) -> None:
    """If the table says how likely each LLM was asked, nothing is guessed, and the report says so."""
    file = written(cheap_and_dear(400), tmp_path, {"a": np.full(400, 0.3), "b": np.full(400, 0.7)})
    shown = CliRunner().invoke(app, ["evaluate", str(file)])
    assert "how likely each LLM was asked is recorded in the table" in shown.output
    assert read_log(read_table(file), 0, PENALTIES, LANDMARKS).likely[:, 0].tolist() == [0.3] * 400


@pytest.mark.parametrize(
    ("likely", "message"),
    [
        ({"a": 0.5}, r"has 'a\|probability' but no 'b\|probability'"),
        ({"a": 0.5, "b": 0.6}, r"row 1: the probabilities of the LLMs are not 1 in sum"),
        ({"a": 0.5, "b": np.nan}, r"row 1: the probabilities of the LLMs are not 1 in sum"),
        ({"a": 50.0, "b": 50.0}, r"row 1: 'a\|probability' is 50.0, not in 0..1"),
    ],
    ids=["of one LLM only", "1.1 in sum", "an empty cell", "percent"],
)
def test_probabilities_that_are_none_are_refused(likely: dict[str, float], message: str, tmp_path: Path) -> None:
    """The error names the column or the row."""
    file = written(cheap_and_dear(100), tmp_path, {name: np.full(100, value) for name, value in likely.items()})
    with pytest.raises(FixSetting, match=message):
        read_table(file)


def test_no_policy_is_played_on_a_log(table: Path) -> None:
    """The error names the option and the remedy."""
    refused = CliRunner().invoke(app, ["evaluate", str(table), "--policy", "priced"])
    assert "--policy, --all: one LLM answered each row" in str(refused.exception)


def test_a_table_of_all_answers_is_no_log() -> None:
    """Nor is a table of one LLM, or one in which some answers are missing."""
    past = history(100, seed=1)
    assert is_log(log_of(past, "uniform"))
    assert not is_log(past)
    assert not is_log(past.columns([0]))


@pytest.mark.parametrize("code", ["no_overlap", "few_answers", "uneven_weights"])
def test_each_code_has_a_sentence(code: Untold) -> None:
    """A reader who meets a code meets its sentence below the table."""
    assert len(sentences.untold(code)) > 20
