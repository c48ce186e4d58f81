"""`tollgate evaluate`: every routing policy on a table of recorded answers, relative to the paper's reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from worker.commands.options import JsonOption, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from worker.estimation.history import History
    from worker.evaluation.finding import Finding
    from worker.evaluation.scores import Score
    from worker.evaluation.study import Study

T = TypeVar("T")

HELP = "\n\n".join(
    (
        "Compare routing policies on recorded answers, before you trust one with money.",
        "DATA is a parquet, CSV or JSONL table, or a directory with one as data.*: one row per query, and per LLM the "
        "columns `<llm>` (score in [0, 1]) and `<llm>|total_cost` (USD). Embeddings lie beside it as embeddings*.npy, "
        "or are made from its `prompt` column. Without DATA, the MMLU-Pro figures of the package are taken.",
        "For each seed some rows are drawn as live queries; all that is learned is learned from the rest. The budget "
        "is what the cheapest LLM would cost for all of them, split over the LLMs. Figures are relative to the "
        "reference of PORT (arXiv 2509.02718): the offline LP on the means of the 5 nearest neighbours, played by the "
        "paper's charging rule.",
        "`tollgate evaluate --all`",
        "`tollgate evaluate data/ --policy priced --policy port --seeds 5 --order source`",
        "`tollgate evaluate data/ --experiment partitions --plot pictures/`",
    )
)

Data = Annotated[
    Path | None, typer.Argument(metavar="[DATA]", help="The table; else the package's.", show_default=False)
]
PolicyNames = Annotated[list[str] | None, typer.Option("--policy", help="Play this one; may be given several times.")]
All = Annotated[bool, typer.Option("--all", help="Play every policy, the offline optima too.")]
RuleName = Annotated[str, typer.Option(help="Who is charged how: paper (the true cost is known before), tollgate.")]
Test = Annotated[int | None, typer.Option(min=1, help="Queries to route; else 45 % of the rows.", show_default=False)]
Budget = Annotated[float, typer.Option(min=0.0, help="Total budget, in costs of the cheapest LLM for all queries.")]
OrderName = Annotated[str, typer.Option(help="Order of arrival: random, source (by category), hardest-last.")]
SplitName = Annotated[str, typer.Option(help="Budget split: efficiency, uniform, cost, quality, random.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many draws; figures are their means.")]
Embeddings = Annotated[Path | None, typer.Option(help="The table's embeddings, .npy of [rows, d].", show_default=False)]
Plot = Annotated[Path | None, typer.Option(help="Draw pictures into this directory.", show_default=False)]
Experiment = Annotated[list[str] | None, typer.Option(help="Run this experiment instead; `list` shows them.")]


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
    json: JsonOption = None,
    plot: Plot = None,
) -> None:
    """Play policies or run experiments on DATA and show the table."""
    from typing import cast

    from worker.evaluation.scenario import ORDERS, SPLITS, Order, Plan, Split
    from worker.evaluation.scores import POLICIES, USUAL
    from worker.evaluation.simulate import RULES, Rule
    from worker.evaluation.study import Study

    if experiment and "list" in experiment:
        _list_experiments()
        return
    for name, value, allowed in (("rule", rule, RULES), ("order", order, ORDERS), ("split", split, SPLITS)):
        _check(name, [value], allowed)
    _check("policy", policy or [], POLICIES)
    plan = Plan(test=test, budget=budget, order=cast(Order, order), split=cast(Split, split))
    study = Study(_history(data, embeddings), plan, seeds, cast(Rule, rule))
    if experiment:
        _run_experiments(study, experiment, json, plot)
    else:
        _compare(study, list(POLICIES) if every else policy or list(USUAL), json, plot)


def _check(option: str, values: Iterable[str], allowed: Iterable[str]) -> None:
    from worker.contract.errors import FixSetting

    for value in values:
        if value not in allowed:
            raise FixSetting(f"--{option}: {value!r} is not one of {', '.join(allowed)}")


def _history(data: Path | None, embeddings: Path | None) -> History:
    from worker.estimation import demo_data
    from worker.estimation.history import read_table

    if data is None:
        return demo_data.load()
    place = data if data.is_dir() else data.parent
    beside = embeddings is not None or any(place.glob("embeddings*.npy"))
    if beside:
        return read_table(data, embeddings)
    from worker.estimation.embedder import embed_with

    return read_table(data, embed=embed_with("wordllama"))


def _compare(study: Study, policies: list[str], json: Path | None, plot: Path | None) -> None:
    console, started = _console(), _clock()
    scores = _followed(study, study.seeds * (2 + len(policies)), lambda: list(study.scores(policies)))
    console.print(_table(study, scores))
    console.print(f"{len(study.history.ids):,} rows, {study.seeds} seeds, {_clock() - started:.0f} s", style="dim")
    if json:
        _write(json, study, scores)
    if plot:
        from worker.evaluation.plots import draw_paper

        _followed(study, None, lambda: draw_paper(study, plot))


def _clock() -> float:
    from time import perf_counter

    return perf_counter()


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=132)


def _followed(study: Study, steps: int | None, work: Callable[[], T]) -> T:
    """Do the work under a progress bar on standard error that the study's steps move on."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=steps)
        study.listener = lambda step: progress.update(task, description=step, advance=1)
        return work()


def _table(study: Study, scores: list[Score]) -> Table:
    from rich.table import Table

    from worker.evaluation.scores import spreads

    live = study.scene(study.all_seeds[0])
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
        f"{mean.relative_quality:.1%}",
        f"{deviation:.1%}",
        f"{mean.cost_usd:.4f}",
        f"{mean.relative_cost:.1%}",
        f"{mean.quality_per_usd:,.0f}",
        f"{mean.relative_quality_per_usd:.1%}",
        f"{mean.served:,}",
        f"{mean.relative_served:.1%}",
        f"{mean.overrun_usd:.4f}",
        f"{mean.seconds:.2f}",
    )


def _write(file: Path, study: Study, scores: list[Score]) -> None:
    import dataclasses

    from worker.evaluation.scores import spreads

    result = {
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
    write_json(file, result)


def _list_experiments() -> None:
    from worker.evaluation.experiments import EXPERIMENTS

    for name, experiment in EXPERIMENTS.items():
        typer.echo(f"{name:18} {(experiment.__doc__ or '').splitlines()[0]}")


def _run_experiments(study: Study, names: list[str], json: Path | None, plot: Path | None) -> None:
    from worker.evaluation.experiments import EXPERIMENTS

    wanted = list(EXPERIMENTS) if "all" in names else names
    _check("experiment", wanted, EXPERIMENTS)
    console, found = _console(), {}
    for name in wanted:
        found[name] = _followed(study, None, partial(EXPERIMENTS[name], study))
        console.print(_finding(found[name]))
        if plot:
            from worker.evaluation.plots import draw_finding

            draw_finding(name, found[name], plot)
    write_json(json, found)


def _finding(finding: Finding) -> Table:
    from rich.table import Table

    table = Table(title=finding.title, title_justify="left")
    for number, name in enumerate(finding.columns):
        table.add_column(name, justify="right" if number else "left")
    for row in finding.rows:
        table.add_row(*row)
    return table
