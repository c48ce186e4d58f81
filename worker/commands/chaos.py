"""`tollgate chaos`."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.commands.options import JsonOption, write_json

if TYPE_CHECKING:
    from worker.local.chaos import Result

Minutes = Annotated[float, typer.Option(min=0.1, help="How long queries are produced and things are broken.")]
Rate = Annotated[float, typer.Option(min=1, help="Queries a second.")]
Every = Annotated[float, typer.Option(min=1, help="Mean seconds between blows.")]
Seed = Annotated[int | None, typer.Option(help="Repeat the blows of a run; else drawn and shown.")]


def command(
    minutes: Minutes = 2.0, rate: Rate = 150.0, every: Every = 8.0, seed: Seed = None, json: JsonOption = None
) -> None:
    """Break a whole Tollgate at random, then prove that nothing was lost, doubled or changed.

    On a Kafka of its own: 3 workers over 6 partitions, 2 inference workers, a producer; SIGKILL, SIGSTOP for longer
    than the session timeout, SIGTERM, and the broker killed and restarted. Ends with verify and replay; exit code 1 if
    either finds anything. Example: `tollgate chaos --minutes 10 --seed 7`
    """
    from rich.console import Console

    from worker.local.broker import Broker
    from worker.local.chaos import Chaos, Plan
    from worker.local.system import System

    console = Console()
    plan = Plan(minutes, rate, every, random.SystemRandom().randrange(2**32) if seed is None else seed)
    console.print(f"seed {plan.seed}")
    with (
        tempfile.TemporaryDirectory(prefix="tollgate-chaos-") as place,
        Broker(Path(place) / "kafka") as broker,
        System(Path(place), broker) as system,
    ):
        result = Chaos(system, plan, console.print).run()
    _show(console, result)
    write_json(json, result)
    if not result.ok:
        raise typer.Exit(1)


def _show(console: Any, result: Result) -> None:
    counts = result.report.counts
    blows = ", ".join(f"{count} x {blow}" for blow, count in result.blows.items())
    exits = ", ".join(f"{count} x {code}" for code, count in sorted(result.exits.items()))
    console.print(f"blows     {blows}; {result.restarts} restarts (exit codes: {exits})")
    console.print(
        f"queries   {result.queries:,} produced = {counts.dispatched:,} dispatched + {counts.deferred:,} deferred + "
        f"{counts.dead_letters:,} dead letters; {counts.transactions:,} transactions"
    )
    console.print(
        f"result    {result.lost} lost, {result.doubled} duplicated, {result.divergent} divergent of "
        f"{result.replayed:,} decisions replayed; {result.wrong} rows wrong by verify",
        style="bold green" if result.ok else "bold red",
    )
    for finding in [*map(str, result.report.findings), *result.divergences][:10]:
        console.print(f"          {finding}", style="red")
