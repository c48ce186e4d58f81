"""`tollgate verify`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.commands.options import ConfigOption, JsonOption, settings_from, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from worker.audit.report import Counts, Report
    from worker.kafka.reader import Progress

USD = 1e-6


def command(config: ConfigOption = None, json: JsonOption = None) -> None:
    """Prove the books from the topics, while the system runs or after it stopped.

    Every query has exactly one first decision: dispatched, deferred or a dead letter, and what was decided is in its
    topic exactly once. Every account is the sum of what was reserved and settled. The hash chain of the decisions is
    whole. Exit 1 names the first row that is wrong. Example: `tollgate verify --json proof.json`
    """
    from rich.console import Console

    from worker.audit.run_verify import verify
    from worker.contract.errors import CheckFailed

    console = Console()
    with watching(console) as progress:
        report = verify(settings_from(config), progress)
    write_json(json, report)
    show(console, report)
    if not report.ok:
        raise CheckFailed(f"{report.wrong} rows are wrong, the first: {report.findings[0]}")


@contextmanager
def watching(console: Console) -> Iterator[Progress]:
    """Shows what is being read, and how many records were."""
    counts: dict[str, int] = {}
    with console.status("reading") as status:

        def progress(what: str, records: int) -> None:
            counts[what] = counts.get(what, 0) + records
            status.update(f"{what}: {counts[what]:,} records")

        yield progress


def show(console: Console, report: Report) -> None:
    """The report as tables."""
    from rich.markup import escape

    console.print(accounts_table(report))
    console.print(_proof_table(report))
    for note in report.notes:
        console.print(f"[yellow]note[/] {escape(note)}")
    for finding in report.findings[:10]:
        console.print(f"[red]wrong[/] {escape(str(finding))}")
    if report.wrong > 10:
        console.print(f"[red]and {report.wrong - 10:,} more[/]")


def accounts_table(report: Report) -> Table:
    """One row for each LLM, and their sum."""
    from worker.commands.tables import figures

    rows = []
    for llm, total in report.llms.items():
        money = (total.budget_micros, total.spent_micros, total.reserved_micros, total.overrun_micros)
        quality = "" if total.mean_quality is None else f"{total.mean_quality:.3f}"
        rows.append((llm, *(f"{micros * USD:.4f}" for micros in money), f"{total.dispatched:,}", quality))
    return figures(("LLM", "budget $", "spent $", "held $", "over $", "dispatched", "quality"), rows)


def _proof_table(report: Report) -> Table:
    from rich.table import Table

    table = Table("proof", "", show_header=False, box=None)
    for claim, figures in _claims(report.counts):
        table.add_row(claim, figures)
    table.add_row("books", "[green]proven: every row is right[/]" if report.ok else f"[red]{report.wrong:,} wrong[/]")
    return table


def _claims(counts: Counts) -> list[tuple[str, str]]:
    return [
        (
            "queries in",
            f"{counts.queries:,} = {counts.dispatched:,} dispatched + {counts.deferred:,} deferred"
            f" + {counts.dead_letters:,} dead letters",
        ),
        ("dispatches", f"{counts.dispatches:,}, of them {counts.dispatches - counts.dispatched:,} later attempts"),
        (
            "their ends",
            f"{counts.settled:,} settled + {counts.released:,} released + {counts.expired:,} expired"
            f" + {counts.open:,} open",
        ),
        (
            "completions",
            f"{counts.completions:,}, of them {counts.ignored:,} ignored, {counts.refused_completions:,} unusable",
        ),
        ("chain", f"{counts.decisions:,} decisions in {counts.transactions:,} transactions"),
        ("still to come", f"{counts.waiting_queries:,} queries, {counts.waiting_completions:,} completions"),
    ]
