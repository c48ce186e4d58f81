"""`tollgate bench`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.commands.options import JsonOption, write_json

if TYPE_CHECKING:
    from worker.local.bench import Result

Queries = Annotated[int, typer.Option(min=1_000, help="Backlog for the throughput.")]
Rate = Annotated[float, typer.Option(min=1, help="Queries a second for the latency.")]
Seconds = Annotated[float, typer.Option(min=5, help="How long the latency is measured, after 30 s of warming up.")]
LedgerRecords = Annotated[int, typer.Option(min=50_000, help="Records of the ledger partition that is restored.")]


def command(
    queries: Queries = 100_000,
    rate: Rate = 200.0,
    seconds: Seconds = 30.0,
    ledger_records: LedgerRecords = 1_000_000,
    json: JsonOption = None,
) -> None:
    """Measure throughput, latency, restore and memory of one worker, on a Kafka of its own on this machine.

    Beside each figure that has one stands its target, and whether it was missed (exit code 0 all the same: machines
    are noisy). Example: `tollgate bench --queries 20000`
    """
    from rich.console import Console

    from worker.local.bench import Bench, Plan
    from worker.local.broker import Broker
    from worker.local.system import System

    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="tollgate-bench-") as place,
        console.status("starting Kafka") as status,
        Broker(Path(place) / "kafka") as broker,
        System(Path(place), broker) as system,
    ):
        result = Bench(system, Plan(queries, rate, seconds, ledger_records=ledger_records), status.update).run()
    _show(console, result)
    write_json(json, result)


def _show(console: Any, result: Result) -> None:
    from worker.commands.tables import figures
    from worker.local.bench import missed

    failed = missed(result)
    console.print(figures(("one worker", "measured", "target", "at"), _rows(result, failed)))
    if failed:
        console.print(f"missed: {', '.join(failed)}; is the machine busy with something else?", style="bold red")


def _rows(result: Result, failed: list[str]) -> list[tuple[str, ...]]:
    def target(name: str) -> str:
        from worker.local.bench import TARGETS

        bound, at_least = TARGETS[name]
        return f"{'>=' if at_least else '<='} {bound:g}{' MISSED' if name in failed else ''}"

    at_rate = f"{result.rate:,.0f} queries/s"
    return [
        ("bare FAISS search", f"{result.searches_per_second:,.0f}/s", "", "10,000 rows, k = 64"),
        ("decisions, end to end", f"{result.decisions_per_second:,.0f}/s", "", "17 LLMs"),
        ("decisions / searches", f"{result.share:.2f}", target("share"), "1 search thread"),
        ("to dispatch, p50", f"{result.p50_latency_ms} ms", target("p50_latency_ms"), at_rate),
        ("to dispatch, p99", f"{result.p99_latency_ms} ms", target("p99_latency_ms"), at_rate),
        ("bare Kafka, p50", f"{result.bare_latency_ms} ms", "", at_rate),
        ("to dispatch / bare", f"{result.latency_ratio:.2f}", "", "p50"),
        ("restore", f"{result.restore_seconds} s", target("restore_seconds"), f"{result.ledger_records:,} records"),
        ("bare reading", f"{result.bare_read_seconds} s", "", f"{result.ledger_records:,} records"),
        ("restore / reading", f"{result.restore_ratio:.2f}", "", ""),
        ("memory", f"{result.memory_mb:,.0f} MB", "", "after the backlog"),
    ]
