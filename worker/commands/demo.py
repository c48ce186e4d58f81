"""`tollgate demo`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.commands.options import JsonOption, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from worker.audit.report import LlmTotals
    from worker.local.demo import Result

Directory = Annotated[Path | None, typer.Option(help="Where it keeps Kafka's data and its logs; made anew.")]
Queries = Annotated[int, typer.Option(min=100, max=1_000_000, help="How many queries to route.")]
Rate = Annotated[float, typer.Option(min=1, help="Queries a second.")]
Workers = Annotated[int, typer.Option(min=1, max=4, help="Worker processes over the 4 partitions.")]
Keep = Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C, for `tollgate send`.")]
NoKill = Annotated[bool, typer.Option("--no-kill", help="Do not kill a worker midway.")]
MONEY = ("budget", "spent", "reserved", "overrun")


def command(
    queries: Queries = 2_000,
    rate: Rate = 250.0,
    workers: Workers = 2,
    no_kill: NoKill = False,
    keep: Keep = False,
    json: JsonOption = None,
    directory: Directory = None,
) -> None:
    """Run the whole job on a real Kafka: route real queries, kill a worker midway, prove the books.

    Starts a Kafka on 127.0.0.1, builds the index from the real history in the package, starts workers and an inference
    worker, and ends all of them again. Exit code 1 if the proof fails. Example: `tollgate demo --queries 5000 --keep`
    """
    from rich.console import Console

    from worker.estimation.demo_data import demo_directory
    from worker.local import demo

    # Both alike; Python leaves SIGINT ignored where a script started the demo in the background.
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, signal.default_int_handler)
    # Names and findings may hold brackets, which are no markup.
    console = Console(markup=False)
    place = demo.own_directory(directory or demo_directory())
    stages = _Stages(console)
    with demo.Demo(place, demo.Plan(queries, rate, workers, kill=not no_kill), stages.show) as running:
        with stages:
            settings = running.start()
            result = running.result(settings, running.route(settings))
        _show(console, result)
        write_json(json, result)
        if keep and result.report.ok:
            _wait(console)
    if not result.report.ok:
        console.print(f"the logs are in {place}")
        raise typer.Exit(1)
    demo.forget(place)


class _Stages:
    """One progress line for each stage, as they come."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console)
        self._name = ""
        self._task: Any = None

    def show(self, stage: Any) -> None:
        name = "getting ready" if stage.steps else stage.name
        if name != self._name:
            self._name, self._task = name, self._progress.add_task(name, total=stage.total)
        described = f"{name}: {stage.name}" if stage.steps else name
        self._progress.update(self._task, description=described, completed=stage.done, total=stage.total)

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _show(console: Any, result: Result) -> None:
    console.print(_accounts(result))
    rivals = ", ".join(
        f"{result.quality / other - 1:+.0%} over {name} ({other:,.1f})" for name, other in result.rivals.items()
    )
    console.print(f"quality   {result.quality:,.1f} by {result.policy}: {rivals}, on the same queries and budgets")
    timing = result.timing
    killed = "" if timing.takeover_seconds is None else f"; SIGKILL: taken over after {timing.takeover_seconds} s"
    console.print(
        f"speed     {timing.queries_per_second:,.0f} queries/s; from produced to decided "
        f"p50 {timing.p50_latency_ms} ms, p99 {timing.p99_latency_ms} ms{killed}"
    )
    _show_proof(console, result)


def _accounts(result: Result) -> Table:
    from worker.audit.report import LlmTotals
    from worker.commands.tables import figures

    llms = result.report.llms
    rows = [_account(llm, total, total.mean_quality) for llm, total in llms.items()]
    sums = {f"{name}_micros": sum(getattr(total, f"{name}_micros") for total in llms.values()) for name in MONEY}
    dispatched = sum(total.dispatched for total in llms.values())
    rows.append(_account("all", LlmTotals(**sums, dispatched=dispatched), None))
    return figures(("micro-dollars", *MONEY, "dispatched", "quality"), rows)


def _account(llm: str, total: LlmTotals, quality: float | None) -> list[str]:
    money = [getattr(total, f"{name}_micros") for name in MONEY]
    return [llm, *(f"{figure:,}" for figure in (*money, total.dispatched)), "" if quality is None else f"{quality:.3f}"]


def _show_proof(console: Any, result: Result) -> None:
    report, counts = result.report, result.report.counts
    if not report.ok:
        console.print(f"proof     FAILED, {report.wrong} wrong; the first: {report.findings[0]}", style="bold red")
        return
    console.print(
        f"proof     {counts.queries:,} queries = {counts.dispatched:,} dispatched + {counts.deferred:,} deferred + "
        f"{counts.dead_letters:,} dead letters; nothing twice; {counts.settled:,} settled, {counts.released:,} "
        f"released, {counts.expired:,} expired, {counts.open:,} open; ledger = settled + reserved; no overrun but what "
        f"was charged beyond reservations; chain of {counts.decisions:,} decisions whole",
        style="bold green",
    )


def _wait(console: Any) -> None:
    console.print('\nstill running: try `tollgate send "any question of yours"`, `tollgate status`; Ctrl-C ends it')
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("ending")
