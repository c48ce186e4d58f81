"""What the experiments must find on made-up histories, whose answer is known in outline; and their command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from worker.commands.main import app
from worker.contract.errors import FixSetting
from worker.evaluation import plots
from worker.evaluation.experiments import EXPERIMENTS
from worker.evaluation.scenario import Plan
from worker.evaluation.scores import POLICIES
from worker.evaluation.study import Finding, Point, Study


@pytest.fixture(scope="module")
def found(made_up: Study) -> Callable[[str], Finding]:
    """Runs an experiment on one small draw, once."""
    study, known = Study(made_up.history, Plan(test=300), seeds=1), {}

    def run(name: str) -> Finding:
        if name not in known:
            known[name] = EXPERIMENTS[name](study)
        return known[name]

    return run


def percent(cell: str) -> float:
    """The leading figure of a cell such as `112.4% ± 1.0%`."""
    return float(cell.split("%", maxsplit=1)[0])


def column(finding: Finding, name: str) -> dict[str, str]:
    """A column's cells by the first cell of their row."""
    place = finding.columns.index(name)
    return {row[0]: row[place] for row in finding.rows}


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in EXPERIMENTS
        if name not in {"shift", "failures", "queries", "llms", "conditioning", "off_policy", "price_sizes"}
    ],
)
def test_every_row_has_every_column(found: Callable[[str], Finding], name: str) -> None:
    """Each row of an experiment has a cell for each column, and each experiment has a docstring."""
    finding = found(name)
    widths = {len(row) for row in finding.rows}
    assert widths == {len(finding.columns)}
    assert EXPERIMENTS[name].__doc__, "the experiment has no docstring"


def test_estimates_are_better_than_means_and_calibrated(found: Callable[[str], Finding]) -> None:
    """For every LLM the estimates are better than its mean. The truth of the lowest estimates is far below the mean,
    that of the highest far above."""
    finding = found("estimator")
    worse = [row for row in finding.rows if float(row[4]) >= float(row[3])]
    assert worse == [], "LLMs whose estimates are not better than their mean"
    points = finding.lines["estimates"]
    assert points[0].y < 0.4, points
    assert points[-1].y > 0.7, points


def test_larger_samples_find_the_same_prices(found: Callable[[str], Finding]) -> None:
    """Prices of larger samples differ less, and a fit on estimates that are not numbers keeps the old prices."""
    finding = found("optimisation")
    points, gaps = finding.lines["priced"], column(finding, "gap")
    assert points[-1].y < points[0].y, points
    assert gaps["estimates that are no numbers"] == "prices kept"


def test_prices_can_be_relied_on(found: Callable[[str], Finding]) -> None:
    """A change of all costs by a billionth changes the quality of `priced` by less than a thousandth."""
    first, *_ = found("conditioning").rows
    assert percent(first[2].partition("±")[2]) < 0.1, first


def test_priced_needs_no_observation(found: Callable[[str], Finding]) -> None:
    """`priced` with the prior of history is better than `priced` and PORT after a random phase, at every observed
    share."""
    finding = found("observation")
    *observed, prior = finding.rows
    best = max(max(percent(row[1]), percent(row[2])) for row in observed)
    assert percent(prior[2]) > best, finding.rows


def test_prices_are_worth_solving_again(found: Callable[[str], Finding]) -> None:
    """Solving often is no worse than never solving again, within a hundredth."""
    cells = column(found("resolve"), "priced")
    assert percent(cells["every 2.5%"]) >= percent(cells["never"]) - 1.0, cells


def test_priced_is_above_every_llm_of_its_cost(found: Callable[[str], Finding]) -> None:
    """At each budget, no LLM that costs less answers all queries clearly better; more budget gives more quality."""
    finding = found("frontier")
    curve, alone = finding.lines["priced"], [points[0] for points in finding.lines.values() if len(points) == 1]
    for point in curve[1:]:
        best = max(llm.y for llm in alone if llm.x <= point.x)
        assert point.y > best - 0.01, (point, best)
    assert curve[-1].y > curve[0].y + 0.02, curve


def test_a_picture_shows_every_line_in_the_colour_of_its_policy(tmp_path: Path) -> None:
    """A policy has one colour in all pictures, and its variants have it too."""
    styles = {plots.style(name) for name in ("priced", "priced, observing")}
    assert styles == {plots.STYLES["priced"]}
    assert set(plots.STYLES) == {"reference", *POLICIES}, "a policy has no colour"
    assert len({style.colour for style in plots.STYLES.values()}) == len(plots.STYLES), "two policies share a colour"
    lines = {"an LLM": [Point(0.5, 0.4, 0.1, 0.1)], "priced": [Point(0.1, 0.3), Point(2.0, 0.6, y_error=0.1)]}
    plots.draw_finding("made", Finding("made", (), [], lines, ("x", "y"), log_x=True), tmp_path)
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")


def test_partitions_cost_quality(found: Callable[[str], Finding]) -> None:
    """With 300 queries, more partitions have a lower quality: each lane has less to learn from."""
    cells = [percent(cell) for cell in column(found("partitions"), "priced").values()]
    assert cells == sorted(cells, reverse=True), cells


CASES = [
    ("shift", "nothing", "none"),
    ("shift", "texts unlike any", "outside_history"),
    ("shift", "the favourite's price, times 3", "cost_drift"),
    ("shift", "the favourite answers nothing right", "quality_drift"),
    ("failures", "more budget than can be spent", "prices_all_zero"),
    ("failures", "one LLM best and cheapest", "one_llm_takes_all"),
    ("failures", "a horizon of a third of the queries", "past_horizon"),
    ("failures", "50 rows of history", "tiny_history"),
    ("failures", "an LLM with 20 rows", "new_llm"),
]


@pytest.fixture(scope="module")
def larger() -> Study:
    """Enough history and queries for healthy cases to be healthy."""
    from tests.quality.instances import history

    return Study(history(1_800, seed=5), Plan(test=900), seeds=1)


@pytest.fixture(scope="module")
def told(larger: Study) -> dict[tuple[str, str], str]:
    """The alarms of every case of `shift` and `failures`."""
    return {
        (name, case): alarms
        for name in ("shift", "failures")
        for case, alarms in column(EXPERIMENTS[name](larger), "alarms of priced").items()
    }


@pytest.mark.parametrize(("name", "case", "alarm"), CASES)
def test_failures_are_told(told: dict[tuple[str, str], str], name: str, case: str, alarm: str) -> None:
    """Each known failure raises its alarm, and a run without a failure raises none."""
    assert alarm in told[name, case].split(", "), told


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `tollgate evaluate`, without its wrapper for errors."""
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    if isinstance(result.exception, FixSetting):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small history as a data set on disk, with embeddings beside it."""
    import numpy as np

    from tests.quality.instances import history

    place, rows = tmp_path_factory.mktemp("data"), history(300, seed=3)
    header = ["id", "prompt", *(name for llm in rows.llms for name in (llm, f"{llm}|total_cost"))]
    lines = [",".join(header)]
    for number, query_id in enumerate(rows.ids):
        figures = zip(rows.quality[number], rows.cost_micros[number] / 1e6, strict=True)
        lines.append(",".join([query_id, "?", *(f"{value:.9f}" for pair in figures for value in pair)]))
    (place / "data.csv").write_text("\n".join(lines) + "\n")
    np.save(place / "embeddings.npy", rows.embeddings)
    return place


def test_the_command_compares_policies(table: Path, tmp_path: Path) -> None:
    """`evaluate` prints a table of the policies, writes it as JSON, and draws one picture of it."""
    code, said = run(
        *(str(table), "--policy", "priced", "--policy", "random", "--seeds", "2", "--test", "120"),
        *("--output", str(tmp_path / "all.json"), "--plot", str(tmp_path / "pictures")),
    )
    assert code == 0, said
    policies = [one["policy"] for one in msgspec.json.decode((tmp_path / "all.json").read_bytes())["policies"]]
    drawn = {path.name for path in (tmp_path / "pictures").glob("*.png")}
    assert policies == ["reference", "priced", "random"], said
    assert drawn == {"policies.png"}, "the picture shows the table and nothing else"


def test_a_free_llm_is_compared(tmp_path: Path) -> None:
    """The budget is the cost of the cheapest LLM that is not free, and a share of nothing is a dash, or null in JSON:
    never a billion per cent."""
    lines = ["query_id,prompt,paid,paid|total_cost,free,free|total_cost"]
    lines += [
        f"q{n},What is {n} times {n % 7}?,{n % 2},{0.0001 * (1 + n % 3):.4f},{int(n % 3 == 0)},0" for n in range(60)
    ]
    (tmp_path / "history.csv").write_text("\n".join(lines) + "\n")
    arguments = [str(tmp_path / "history.csv"), "--test", "30", "--seeds", "1", "--all", "--json"]
    code, said = run(*arguments)
    assert code == 0, said
    result = msgspec.json.decode(said[said.index("{") :])
    means = {one["policy"]: one["mean"] for one in result["policies"]}
    assert means["optimum-true"]["cost_usd"] > 0, "the paid LLM has a budget"
    assert means["greedy-cost"]["quality_per_usd"] is None, "a free policy has no quality per dollar"
    largest = max(value or 0 for mean in means.values() for name, value in mean.items() if name.startswith("relative"))
    assert largest < 1_000, means


def test_the_command_runs_experiments(table: Path, tmp_path: Path) -> None:
    """`evaluate --experiment NAME` runs the experiment and writes its table as JSON."""
    code, said = run(str(table), "--experiment", "splits", "--seeds", "1", "--output", str(tmp_path / "found.json"))
    assert code == 0, said
    rows = msgspec.json.decode((tmp_path / "found.json").read_bytes())["splits"]["rows"]
    assert [row[0] for row in rows] == ["efficiency", "uniform", "cost", "quality", "random", "best"], said


REFUSED = [
    (("--policy", "best"), "'--policy': 'best' is not one of random"),
    (("--experiment", "everything"), "'--experiment': 'everything' is not one of list, all, estimator"),
    (("--order", "backwards"), "'--order': Value error, 'backwards' is not one of 'random'"),
    (("--rule", "none"), "'--rule': Value error, 'none' is not one of 'paper'"),
]


@pytest.mark.parametrize(("arguments", "expected"), REFUSED, ids=[" ".join(case[0]) for case in REFUSED])
def test_the_command_refuses_unknown_names(table: Path, arguments: tuple[str, ...], expected: str) -> None:
    """An unknown name ends with exit code 2, and the error lists the known names."""
    code, said = run(str(table), *arguments)
    assert code == 2, said
    assert expected in said


@pytest.mark.long
def test_logs_teach_nearly_as_much_as_full_rows(real: Study) -> None:
    """From one answer a row, `priced` reaches nearly what it reaches from as many answers in full rows, whatever the
    old policy was, on real figures."""
    finding = EXPERIMENTS["partial"](Study(real.history, real.plan, seeds=1))
    relative = {policy: float(cell) for policy, cell in column(finding, "relative quality").items()}
    assert min(relative.values()) >= 0.85, relative
    assert relative["uniform"] >= 0.95, relative
