"""`tollgate chaos`."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from worker.commands.options import JsonOption, OutputOption, finite, more_help, new_app
from worker.commands.output import errors, present
from worker.local.chaos import Chaos, ChaosPlan, ChaosResult
from worker.local.cluster import Cluster
from worker.local.system import System

Minutes = Annotated[
    float,
    typer.Option(
        metavar="N", callback=finite, min=0.1, help="Minutes during which queries are produced and faults happen."
    ),
]
Rate = Annotated[float, typer.Option(metavar="N", callback=finite, min=1, help="Queries per second.")]
Every = Annotated[
    float, typer.Option(metavar="N", callback=finite, min=1, help="Mean number of seconds between faults.")
]
Brokers = Annotated[
    int, typer.Option(metavar="N", min=1, max=5, help="Brokers. With three, each record has three replicas.")
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Use this seed to repeat a run's faults. Without it a seed is chosen and printed.",
        show_default=False,
    ),
]

app = new_app()


@app.command(
    epilog=more_help("tollgate chaos --minutes 10 --seed 7", exit_1="a query was lost, doubled or decided wrongly")
)
def command(
    minutes: Minutes = 2.0,
    rate: Rate = 150.0,
    every: Every = 8.0,
    brokers: Brokers = 1,
    seed: Seed = None,
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Break a whole system at random and prove its books.

    The command starts Kafka, 3 workers over 6 partitions, 2 inference workers and a producer. Then it kills, stops and
    ends workers, inference workers and brokers, sets the clocks of workers, and cuts and slows the network. Meanwhile
    others write records that nobody can read, and abort transactions. At the end it runs the checks of `verify` and
    `replay`, and counts all again with a reader that shares no code with them. The faults are printed on standard error
    as they happen.
    """
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    plan = ChaosPlan(minutes, rate, every, seed, brokers)
    progress = errors().print
    progress(f"seed {plan.seed}")
    with (
        tempfile.TemporaryDirectory(prefix="tollgate-chaos-") as place,
        Cluster(Path(place), brokers) as cluster,
        System(Path(place), cluster.brokers[0]) as system,
    ):
        result = Chaos(system, cluster, plan, progress).run()
    present(result, json, output, lambda console: show(console, result))
    if not result.ok:
        raise typer.Exit(1)


def show(console: Console, result: ChaosResult) -> None:
    """The faults, what became of the queries, and the result."""
    counts = result.report.counts
    faults = ", ".join(f"{count} x {fault}" for fault, count in result.faults.items())
    exits = ", ".join(f"{count} x {code}" for code, count in sorted(result.exits.items()))
    console.print(f"seed      {result.seed}")
    console.print(f"faults    {faults}; {result.restarts} restarts (exit codes: {exits})")
    console.print(
        f"queries   {result.queries:,} produced = {counts.dispatched:,} dispatched + {counts.deferred:,} deferred + "
        f"{counts.dead_letters:,} dead letters; {counts.transactions:,} transactions"
    )
    console.print(
        f"result    {result.lost} lost, {result.doubled} duplicated, {result.divergent} divergent of "
        f"{result.replayed:,} decisions replayed; {result.wrong} rows wrong by verify",
        style="bold green" if result.ok else "bold red",
    )
    counted = result.counted
    console.print(
        f"counted   {counted.queries:,} queries: {counted.lost} lost, {counted.doubled} duplicated; spent "
        f"{counted.spent_micros:,} micro-dollars, billed {counted.billed_micros:,}; lag {counted.lag}"
    )
    console.print(f"used      {result.most_memory_bytes / 1e6:,.0f} MB and {result.most_files} files by one worker")
    for finding in [*map(str, result.report.findings), *result.divergences, *counted.problems][:10]:
        console.print(f"          {finding}", style="red")
