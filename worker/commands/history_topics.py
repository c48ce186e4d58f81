"""What `tollgate history from-topics` does and shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct
from rich.console import Console

from worker.commands.options import more_help, replaceable_file, writable_file
from worker.commands.output import present, reading
from worker.commands.tables import Figures
from worker.contract.settings import Settings
from worker.exports.from_topics import FromTopics, read_topics
from worker.exports.records import Reason
from worker.exports.write import write_left_out, write_table
from worker.kafka import admin
from worker.kafka.reader import KafkaReader

EPILOG = more_help("tollgate history from-topics --to history.parquet", exit_1="the topics hold no answer")

To = Annotated[
    Path,
    typer.Option(
        "--to",
        metavar="FILE",
        help="The table to write: .csv or .parquet.",
        callback=replaceable_file,
        show_default=False,
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Take the scores of this judge only. Without it: the mean of all.", show_default=False
    ),
]
LeftOut = Annotated[
    Path | None,
    typer.Option(
        "--left-out",
        metavar="FILE",
        help="Write the id of each dispatch and judgement that is left out, and the reason, as CSV.",
        callback=writable_file,
        show_default=False,
    ),
]


class TopicsReport(Struct, frozen=True):
    """What the topics held. `queries` are rows of the table, `judges` the judgements of each judge."""

    answers: int
    queries: int
    judged: int
    costs: int
    left_out: dict[Reason, int]
    judges: dict[str, int]


def run(settings: Settings, to: Path, by: str | None, left_out: Path | None, json: bool, output: Path | None) -> None:
    """Write the table, and show what is in it."""
    has_judgements = admin.has_topic(settings, settings.topics.judgements)
    with reading() as progress, KafkaReader(settings, progress) as reader:
        found = read_topics(settings, reader, has_judgements, by)
    rows = write_table(to, found.results, False) if found.results else 0
    if left_out is not None:
        write_left_out(left_out, found.left)
    report = report_of(found, rows)
    present(report, json, output, lambda console: show(console, report, to, has_judgements))
    if not found.results:
        raise typer.Exit(1)


def report_of(found: FromTopics, rows: int) -> TopicsReport:
    """What is told about the table."""
    return TopicsReport(
        answers=len(found.results),
        queries=rows,
        judged=found.judged,
        costs=sum(one.cost_usd is not None for one in found.results),
        left_out=found.reasons(),
        judges=found.judges,
    )


def show(console: Console, report: TopicsReport, to: Path, has_judgements: bool) -> None:
    """What was written, and what was left out."""
    if report.answers:
        console.print(f"wrote {to}: {report.answers:,} answers to {report.queries:,} queries")
        console.print(f"answers with a score: {report.judged:,}, with a cost: {report.costs:,}")
    else:
        console.print("the topics hold no answer; no table is written")
    if report.left_out:
        console.print(Figures(["left out", "records"], [(name, f"{n:,}") for name, n in report.left_out.items()]))
    for judge, count in report.judges.items():
        console.print(f"judge: {judge}, {count:,} judgements")
    if not has_judgements:
        console.print("note: there is no topic for judgements; `tollgate topics create` makes it")
