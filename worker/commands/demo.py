"""`tollgate demo`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from worker.audit.report import LlmTotals
from worker.commands import demo_answers
from worker.commands.options import JsonOption, OutputOption, finite, more_help, new_app, writable_directory
from worker.commands.output import errors, present
from worker.commands.tables import Figures
from worker.local import demo
from worker.local.demo import DemoResult, Latency, Stage
from worker.local.demo_directory import demo_directory
from worker.local.llm_demo import LlmDemo, LlmDemoResult

Directory = Annotated[
    Path | None,
    typer.Option(
        metavar="DIRECTORY",
        help="The demo's directory, for Kafka's data and the logs. An old demo there is deleted first. Without it: a "
        "directory for temporary files.",
        callback=writable_directory,
        show_default=False,
    ),
]
Queries = Annotated[int, typer.Option(metavar="N", min=100, max=1_000_000, help="Number of queries to route.")]
Rate = Annotated[float, typer.Option(metavar="N", callback=finite, min=1, help="Queries per second in the burst.")]
Workers = Annotated[int, typer.Option(metavar="N", min=1, max=4, help="Number of workers; they share 4 partitions.")]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the system running until Ctrl-C, for `tollgate send`.")]
NoKill = Annotated[bool, typer.Option("--no-kill", help="Do not kill a worker.")]
Llm = Annotated[bool, typer.Option("--llm", help="Ask a real LLM on this machine, and show its answers (`make llm`).")]
Fresh = Annotated[bool, typer.Option("--fresh", help="With --llm: ask for the answers of history anew (2 minutes).")]
# They belong to the demo without --llm.
LOAD = ("queries", "rate", "workers", "no_kill")
MONEY = ("amount", "spent", "reserved", "overrun")
COLUMNS = ("budget", *MONEY[1:])

app = new_app()


@app.command(
    epilog=more_help(
        "tollgate demo",
        "tollgate demo --keep",
        "tollgate demo --llm",
        "tollgate demo --json",
        exit_1="the proof failed",
    )
)
def command(
    context: typer.Context,
    llm: Llm = False,
    fresh: Fresh = False,
    queries: Queries = 2_000,
    rate: Rate = 250.0,
    workers: Workers = 2,
    no_kill: NoKill = False,
    keep: Keep = False,
    json: JsonOption = False,
    output: OutputOption = None,
    directory: Directory = None,
) -> None:
    """Run the whole system on this machine and prove its books.

    The demo starts a Kafka broker on 127.0.0.1, builds an index from the past queries in the package, and starts
    workers and an inference worker. It routes real queries: the first 300 at 50 per second, which is a light load, then
    the others in a burst, in which it kills one worker. Then it checks that no query was lost or routed twice and that
    all money is accounted for. At the end it stops everything.

    With --llm the demo serves a small LLM (SmolLM2, which `make llm` installs), makes two LLMs of it with two prices,
    and asks 32 short questions. It shows each answer, whether it is right, and what it cost.

    With --keep the system runs on after the proof. `tollgate send` and `tollgate status` in another terminal find it.
    """
    sources = {name: context.get_parameter_source(name) for name in LOAD}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if llm and given:
        raise typer.BadParameter(f"with --llm there is no --{given[0].replace('_', '-')}")
    if fresh and not llm:
        raise typer.BadParameter("--fresh belongs to --llm")
    # Both signals end the demo alike. Python ignores SIGINT in a process that a script started in the background.
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, signal.default_int_handler)
    place = demo.own_directory(directory or demo_directory())
    stages = Stages()
    plan = demo.DemoPlan(queries, rate, workers, kill=not no_kill)
    with LlmDemo(place, fresh, stages.show) if llm else demo.Demo(place, plan, stages.show) as running:
        with stages:
            result = running.run()
        present(result, json, output, lambda console: show(console, result))
        if keep and result.report.ok:
            _wait()
    if not result.report.ok:
        typer.echo(f"the logs are in {place}", err=True)
        raise typer.Exit(1)
    demo.forget(place)


class Stages:
    """One progress bar for each stage of the demo, on standard error if that is a terminal."""

    def __init__(self) -> None:
        console = errors()
        columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._name = ""
        self._task = TaskID(0)

    def show(self, stage: Stage) -> None:
        """Show how far the demo is."""
        name = "getting ready" if stage.steps else stage.name
        if name != self._name:
            self._name, self._task = name, self._progress.add_task(name, total=stage.total)
        described = f"{name}: {stage.name}" if stage.steps else name
        self._progress.update(self._task, description=described, completed=stage.done, total=stage.total)

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def show(console: Console, result: DemoResult | LlmDemoResult) -> None:
    """The accounts, the quality of this and other policies, the speed and the proof; or the answers and the proof."""
    if isinstance(result, LlmDemoResult):
        demo_answers.show(console, result)
        return
    console.print(_accounts(result))
    rivals = ", ".join(
        f"{result.quality / other - 1:+.0%} over {name} ({other:,.1f})" for name, other in result.rivals.items()
    )
    console.print(f"quality   {result.quality:,.1f} by {result.policy}: {rivals}, on the same queries and budgets")
    _show_speed(console, result)
    demo_answers.show_proof(console, result.report)


def _show_speed(console: Console, result: DemoResult) -> None:
    machine, timing = result.machine, result.timing
    killed = "" if timing.takeover_seconds is None else f"; SIGKILL: taken over after {timing.takeover_seconds} s"
    busy = "; other programs keep it busy, so times are longer" if machine.load > machine.cores / 2 else ""
    console.print(f"machine   {machine.cores} cores, load {machine.load} when the demo started{busy}")
    console.print(f"steady    {_latency(timing.steady)}: the latency of a light load")
    console.print(
        f"burst     {_latency(timing.burst)}: the latency of a full machine; "
        f"{timing.decided_per_second:,.0f} decided/s{killed}"
    )


def _latency(latency: Latency) -> str:
    figures = f"p50 {latency.p50_ms} ms, p99 {latency.p99_ms} ms"
    return f"{latency.queries:,} queries at {latency.rate:g}/s, from produced to decided {figures}"


def _accounts(result: DemoResult) -> Figures:
    """One row for each LLM with its own budget, and their sums."""
    llms, rows = result.report.llms, []
    for budget in result.report.budgets:
        figures = [getattr(budget, name) for name in MONEY]
        total = llms.get(budget.budget, LlmTotals())
        quality = "" if total.mean_quality is None else f"{total.mean_quality:.3f}"
        rows.append((budget.budget, [*figures, total.dispatched], quality))
    rows.append(("all", [sum(column) for column in zip(*(figures for _, figures, _ in rows), strict=True)], ""))
    cells = [(name, *(f"{figure:,}" for figure in figures), quality) for name, figures, quality in rows]
    return Figures(("micro-dollars", *COLUMNS, "dispatched", "quality"), cells)


def _wait() -> None:
    typer.echo(
        'still running: try `tollgate send "a question of yours"` or `tollgate status`; Ctrl-C ends it', err=True
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        typer.echo("ending", err=True)
