"""`tollgate evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from worker.commands.options import (
    JsonOption,
    OutputOption,
    each_of,
    finite,
    more_help,
    new_app,
    writable_directory,
)
from worker.commands.output import console, errors, present, working
from worker.commands.worth import show as show_worth
from worker.contract.errors import FixSetting
from worker.estimation import demo_data, index
from worker.estimation.embedder import WORDLLAMA, embed_with
from worker.estimation.history import History, read_table
from worker.evaluation import worth
from worker.evaluation.experiments import EXPERIMENTS
from worker.evaluation.off_policy import is_log, read_log
from worker.evaluation.scenario import Order, Plan, Split
from worker.evaluation.scores import POLICIES, USUAL, Score, spreads
from worker.evaluation.simulate import Rule
from worker.evaluation.study import FIRST_SEED, Finding, Study

T = TypeVar("T")

Data = Annotated[
    Path | None,
    typer.Argument(metavar="DATA", help="The table. Without it: the package's data.", show_default=False),
]
PolicyNames = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        callback=each_of(POLICIES),
        help=f"Play this policy; may be repeated. One of: {', '.join(POLICIES)}.",
        show_default=", ".join(USUAL),
    ),
]
All = Annotated[bool, typer.Option("--all", help="Play all policies.")]
RuleName = Annotated[
    Rule,
    typer.Option(
        "--rule",
        help="How queries are charged. paper: the true cost is known before the answer. tollgate: the estimated cost "
        "is reserved, and the true cost is charged after the answer.",
    ),
]
Test = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Number of queries to route. Without it: 45 % of the rows.", show_default=False
    ),
]
Budget = Annotated[
    float,
    typer.Option(
        metavar="N",
        min=0.0,
        callback=finite,
        help="The total budget, as a multiple of the cheapest LLM's cost for all queries.",
    ),
]
OrderName = Annotated[Order, typer.Option("--order", help="Order in which queries arrive; source: sorted by category.")]
SplitName = Annotated[Split, typer.Option("--split", help="How the total budget is split over the LLMs.")]
Seeds = Annotated[int, typer.Option(metavar="N", min=1, help="Number of random draws. The figures are their means.")]
Embeddings = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A .npy file with the table's embeddings, float [rows, d]. Without it: embeddings*.npy in its directory, "
        "then the package's embedder on the column `prompt`.",
        show_default=False,
    ),
]


def plots() -> ModuleType:
    """The module that draws. Matplotlib is in the extra `tollgate[evaluate]`, so only --plot needs it."""
    return import_module("worker.evaluation.plots")


def picture_directory(value: Path | None) -> Path | None:
    """For --plot: if Matplotlib is missing, the user learns it now, and not at the end of a long run."""
    if value is not None:
        plots()
    return writable_directory(value)


Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="DIRECTORY",
        help="Draw the table as a picture into this directory.",
        callback=picture_directory,
        show_default=False,
    ),
]
Experiment = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        callback=each_of(("list", "all", *EXPERIMENTS)),
        help="Run this experiment instead; may be repeated. `list` lists them, `all` runs all.",
        show_default=False,
    ),
]

app = new_app()


@app.command(
    epilog=more_help(
        "tollgate evaluate --all",
        "tollgate evaluate history.parquet --policy priced --policy port --seeds 5",
        "tollgate evaluate history.parquet --experiment partitions --plot pictures/",
        exit_3="",
    )
)
def command(
    data: Data = None,
    policy: PolicyNames = None,
    every: All = False,
    rule: RuleName = "paper",
    test: Test = None,
    budget: Budget = 1.0,
    order: OrderName = "random",
    split: SplitName = "efficiency",
    seeds: Seeds = 3,
    embeddings: Embeddings = None,
    experiment: Experiment = None,
    json: JsonOption = False,
    output: OutputOption = None,
    plot: Plot = None,
) -> None:
    """Compare routing policies on recorded answers.

    DATA is a table as for `tollgate index build`: one row per query, and for each LLM a column `<llm>` (the score of
    its answer, from 0 to 1) and a column `<llm>|total_cost` (US dollars).

    For each seed, some rows are drawn as live queries and all other rows are the history that policies learn from. The
    budget is the cheapest LLM's cost for all queries, split over the LLMs. No Kafka is needed.

    Figures are relative to the reference of PORT (arXiv 2509.02718): the offline linear program on the means of the 5
    nearest neighbours, played by the paper's charging rule.

    If one LLM answered most rows alone, as in a log, nothing can be played. Then the command says what policies would
    have been worth and cost, with intervals: all rows to each LLM, and `priced` at equal cost and at equal quality,
    beside what was really done. Only --embeddings, --json, --output and --plot matter then.
    """
    if experiment and "list" in experiment:
        _list_experiments()
        return
    plan = Plan(test=test, budget=budget, order=order, split=split)
    study = Study(history_of(data, embeddings), plan, seeds, rule)
    if experiment:
        _run_experiments(study, list(EXPERIMENTS) if "all" in experiment else experiment, json, output, plot)
    elif is_log(study.history):
        if policy or every:
            raise FixSetting("--policy, --all: one LLM answered each row, so no policy can be played; omit the options")
        _judge(study.history, json, output, plot)
    else:
        _compare(study, list(POLICIES) if every else policy or list(USUAL), json, output, plot)


def history_of(data: Path | None, embeddings: Path | None) -> History:
    """The table of DATA, or the package's data."""
    if data is None:
        return demo_data.load()
    place = data if data.is_dir() else data.parent
    embedded = embeddings is not None or any(place.glob("embeddings*.npy"))
    return read_table(data, embeddings) if embedded else read_table(data, embed=embed_with(WORDLLAMA))


def _compare(study: Study, policies: list[str], json: bool, output: Path | None, plot: Path | None) -> None:
    started = perf_counter()
    scores = followed(study, study.seeds * (2 + len(policies)), lambda: list(study.scores(policies)))
    seconds = perf_counter() - started

    def show(screen: Console) -> None:
        screen.print(_table(study, scores))
        screen.print(f"{len(study.history.ids):,} rows, {study.seeds} seeds, {seconds:.0f} s", style="dim")

    for doubt in index.doubts(study.scenario(study.all_seeds[0]).estimator.manifest):
        typer.echo(f"warning: {doubt}", err=True)
    present(_result(study, scores), json, output, show)
    if plot:
        plots().draw_scores(spreads(scores), plot)


def _judge(history: History, json: bool, output: Path | None, plot: Path | None) -> None:
    with working("judging policies on the log"):
        report = worth.report(read_log(history, FIRST_SEED), history.likely is None)
    present(report, json, output, lambda screen: show_worth(screen, report))
    if plot:
        plots().draw_finding("log", worth.picture(report), plot)


def followed(study: Study, steps: int | None, work: Callable[[], T]) -> T:
    """Do the work while a terminal shows each step of the study."""
    screen = errors()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("reading", total=steps)
        study.listener = lambda step: progress.update(task, description=step, advance=1)
        return work()


def _table(study: Study, scores: list[Score]) -> Table:
    live = study.scenario(study.all_seeds[0])
    title = f"{live.queries:,} queries, {len(live.live.llms)} LLMs, {len(live.past.ids):,} rows of history, "
    table = Table(title=title + f"{study.rule}'s rule; % of the reference", title_justify="left")
    table.add_column("policy", no_wrap=True)
    for name in ("quality", "%", "±", "cost USD", "%", "quality/USD", "%", "served", "%", "overrun USD", "seconds"):
        table.add_column(name, justify="right")
    for spread in spreads(scores):
        table.add_row(*_cells(spread.policy, spread.mean, spread.deviation))
    return table


def _cells(policy: str, mean: Score, deviation: float) -> tuple[str, ...]:
    return (
        policy,
        f"{mean.quality:,.1f}",
        _known(f"{mean.relative_quality:.1%}"),
        _known(f"{deviation:.1%}"),
        f"{mean.cost_usd:.4f}",
        _known(f"{mean.relative_cost:.1%}"),
        _known(f"{mean.quality_per_usd:,.0f}"),
        _known(f"{mean.relative_quality_per_usd:.1%}"),
        f"{mean.served:,}",
        f"{mean.relative_served:.1%}",
        f"{mean.overrun_usd:.4f}",
        f"{mean.seconds:.2f}",
    )


def _known(figure: str) -> str:
    """A figure, or a dash for a share of nothing."""
    return "-" if figure.startswith("nan") else figure


def _result(study: Study, scores: list[Score]) -> dict[str, Any]:
    return {
        "rows": len(study.history.ids),
        "llms": study.history.llms,
        "rule": study.rule,
        "seeds": list(study.all_seeds),
        "plan": dataclasses.asdict(study.plan),
        "policies": [
            {"policy": spread.policy, "mean": spread.mean, "deviation": spread.deviation} for spread in spreads(scores)
        ],
        "scores": scores,
    }


def _list_experiments() -> None:
    for name, experiment in EXPERIMENTS.items():
        typer.echo(f"{name:18} {(experiment.__doc__ or '').splitlines()[0]}")


def _run_experiments(study: Study, names: list[str], json: bool, output: Path | None, plot: Path | None) -> None:
    found = {}
    for name in names:
        found[name] = followed(study, None, partial(EXPERIMENTS[name], study))
        if not json:
            console().print(_finding(found[name]))
        if plot:
            plots().draw_finding(name, found[name], plot)
    # The tables were shown as they came: all experiments together take an hour.
    present(found, json, output, lambda _: None)


def _finding(finding: Finding) -> Table:
    table = Table(title=finding.title, title_justify="left")
    for number, name in enumerate(finding.columns):
        table.add_column(name, justify="right" if number else "left")
    for row in finding.rows:
        table.add_row(*row)
    return table
