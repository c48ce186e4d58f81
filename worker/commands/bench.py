"""`tollgate bench`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from worker.commands.options import JsonOption, OutputOption, finite, more_help, new_app
from worker.commands.output import present, working
from worker.commands.tables import Figures
from worker.local import bench_calls
from worker.local.bench import TARGETS, Bench, BenchPlan, BenchResult, missed
from worker.local.bench_calls import CallsPlan, CallsResult, Stage
from worker.local.broker import Broker
from worker.local.system import System

Queries = Annotated[int, typer.Option(metavar="N", min=1_000, help="Number of queries whose throughput is measured.")]
Rate = Annotated[
    float, typer.Option(metavar="N", callback=finite, min=1, help="Queries per second while latency is measured.")
]
Seconds = Annotated[
    float,
    typer.Option(metavar="N", callback=finite, min=5, help="Seconds of latency measurement, after 30 s of warming up."),
]
LedgerRecords = Annotated[
    int, typer.Option(metavar="N", min=50_000, help="Number of records in the ledger that is restored.")
]

Calls = Annotated[
    bool, typer.Option("--calls", help="Measure an inference worker with 500 open calls instead (150 seconds).")
]

# Of an inference worker with its server and Kafka on two cores.
ADDED_MS = 15

app = new_app()


@app.command(
    epilog=more_help("tollgate bench --queries 20000", "tollgate bench --calls", "tollgate bench --json > bench.json")
)
def command(
    queries: Queries = 100_000,
    rate: Rate = 200.0,
    seconds: Seconds = 30.0,
    ledger_records: LedgerRecords = 1_000_000,
    calls: Calls = False,
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Measure the speed of one worker on this machine.

    The command starts a Kafka broker and a worker of its own and ends them again. It measures throughput, latency, the
    time to restore a ledger, and memory. This takes some minutes.

    Some figures have a target. The table shows each target, and whether it was missed. A missed target does not change
    the exit code, because times on a busy machine vary.

    With --calls the command measures an inference worker. A server on this machine answers each call after 5 s, and
    100 calls a second begin. The table shows the time that Tollgate adds to the server's, and the CPU time of a call.
    """
    with (
        tempfile.TemporaryDirectory(prefix="tollgate-bench-") as place,
        working("starting Kafka") as progress,
        Broker(Path(place) / "kafka") as broker,
        System(Path(place), broker) as system,
    ):
        plan = BenchPlan(queries, rate, seconds, ledger_records=ledger_records)
        result = bench_calls.measure(system, CallsPlan(), progress) if calls else Bench(system, plan, progress).run()
    present(result, json, output, lambda console: show(console, result))


def show(console: Console, result: BenchResult | CallsResult) -> None:
    """The figures as a table, with their targets."""
    if isinstance(result, CallsResult):
        console.print(Figures(("one inference worker", "measured", "target", "at"), _calls(result)))
        return
    failed = missed(result)
    console.print(Figures(("one worker", "measured", "target", "at"), _rows(result, failed)))
    if failed:
        console.print(f"missed: {', '.join(failed)}. Is the machine busy with other work?", style="bold red")


def _calls(result: CallsResult) -> list[tuple[str, ...]]:
    at_rate = f"{result.rate:,.0f} calls/s, {result.open_calls:,} open"
    is_missed = " MISSED" if result.added.p50_ms > ADDED_MS else ""
    return [
        ("added to the LLM's time, p50", f"{result.added.p50_ms} ms", f"<= {ADDED_MS} ms{is_missed}", at_rate),
        ("added to the LLM's time, p99", f"{result.added.p99_ms} ms", "", at_rate),
        ("of it: dispatch to request", *_stage(result.before_call)),
        ("of it: response to answer", *_stage(result.after_call)),
        ("not of it: query to dispatch", *_stage(result.to_dispatch)),
        ("CPU time of a call", f"{result.cpu_ms_per_call} ms", "", "all threads"),
        ("memory", f"{result.memory_mb:,.0f} MB", "", f"after {result.calls:,} calls"),
        *((f"cores of: {name}", f"{cores:.2f}", "", f"of {os.cpu_count()}") for name, cores in result.cores.items()),
        ("load of the machine", f"{result.load:.1f}", "", "the last minute"),
    ]


def _stage(stage: Stage) -> tuple[str, str, str]:
    return f"{stage.p50_ms} ms", "", f"p50; p99 {stage.p99_ms} ms"


def _rows(result: BenchResult, failed: list[str]) -> list[tuple[str, ...]]:
    def target(name: str) -> str:
        bound, at_least = TARGETS[name]
        return f"{'>=' if at_least else '<='} {bound:g}{' MISSED' if name in failed else ''}"

    at_rate = f"{result.rate:,.0f} queries/s"
    records = f"{result.ledger_records:,} records"
    return [
        ("bare FAISS search", f"{result.searches_per_second:,.0f}/s", "", "10,000 rows, k = 64"),
        ("decisions, end to end", f"{result.decisions_per_second:,.0f}/s", "", "17 LLMs"),
        ("decisions / searches", f"{result.share:.2f}", target("share"), "1 search thread"),
        ("to dispatch, p50", f"{result.p50_latency_ms} ms", target("p50_latency_ms"), at_rate),
        ("to dispatch, p99", f"{result.p99_latency_ms} ms", target("p99_latency_ms"), at_rate),
        ("bare Kafka, p50", f"{result.bare_latency_ms} ms", "", at_rate),
        ("to dispatch / bare", f"{result.latency_ratio:.2f}", "", "p50"),
        ("restore", f"{result.restore_seconds} s", target("restore_seconds"), records),
        ("bare reading", f"{result.bare_read_seconds} s", "", records),
        ("restore / reading", f"{result.restore_ratio:.2f}", "", ""),
        ("memory", f"{result.memory_mb:,.0f} MB", "", "after the throughput"),
    ]
