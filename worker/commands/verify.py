"""`tollgate verify`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.audit.report import Counts, Report
from worker.audit.run_verify import verify
from worker.commands.options import ConfigOption, JsonOption, OutputOption, more_help, new_app, settings_from
from worker.commands.output import present, reading
from worker.commands.tables import Figures, amount, usd
from worker.contract.errors import CheckFailed

SHOWN = 10

app = new_app()


@app.command(epilog=more_help("tollgate verify", "tollgate verify --json > proof.json", exit_1="a row is wrong"))
def command(config: ConfigOption = None, json: JsonOption = False, output: OutputOption = None) -> None:
    """Prove the books from the topics.

    The command reads all topics, while the system runs or after it has stopped, and checks that:

    \b
    - each query has one first decision: dispatched, deferred or a dead letter;
    - each decision is in its topic exactly once;
    - each dispatch holds a part of every budget that matches it;
    - each account of a budget is the sum of its dispatches;
    - the hash chain of the decisions is whole.

    If a row is wrong, the command names the first one by its topic, partition and offset.
    """
    with reading() as progress:
        report = verify(settings_from(config), progress)
    present(report, json, output, lambda console: show(console, report))
    if not report.ok:
        raise CheckFailed(f"{report.wrong} rows are wrong, the first: {report.findings[0]}")


def show(console: Console, report: Report) -> None:
    """The report as tables."""
    console.print(budgets_table(report))
    console.print(llms_table(report))
    console.print(_proof_table(report))
    for note in report.notes:
        console.print(Text.assemble(("note", "yellow"), " ", note))
    for finding in report.findings[:SHOWN]:
        console.print(Text.assemble(("wrong", "red"), " ", str(finding)))
    if report.wrong > SHOWN:
        console.print(f"and {report.wrong - SHOWN:,} more", style="red")


def budgets_table(report: Report) -> Figures:
    """One row for each budget."""
    headers = ("budget", "of", "amount", "spent", "late", "twice", "reserved", "overrun")
    rows = []
    for one in report.budgets:
        columns = (one.amount, one.spent, one.late, one.paid_twice, one.reserved, one.overrun)
        rows.append((one.budget, one.resource, *(amount(one.resource, column) for column in columns)))
    return Figures(headers, rows, texts=2)


def llms_table(report: Report) -> Figures:
    """One row for each LLM."""
    rows = []
    for llm, total in report.llms.items():
        quality = "" if total.mean_quality is None else f"{total.mean_quality:.3f}"
        rows.append((llm, usd(total.spent_micros), f"{total.dispatched:,}", quality))
    return Figures(("LLM", "spent $", "dispatched", "quality"), rows)


def _proof_table(report: Report) -> Table:
    table = Table("proof", "", show_header=False, box=None)
    for claim, figures in _claims(report.counts):
        table.add_row(claim, figures)
    if report.remarks:
        table.add_row("odd answers", ", ".join(f"{count:,} {remark}" for remark, count in report.remarks.items()))
    proven = Text("proven: every row is right", "green") if report.ok else Text(f"{report.wrong:,} wrong", "red")
    table.add_row("books", proven)
    return table


def _claims(counts: Counts) -> list[tuple[str, str]]:
    later = counts.dispatches - counts.dispatched
    return [
        (
            "queries",
            f"{counts.queries:,} = {counts.dispatched:,} dispatched + {counts.deferred:,} deferred"
            f" + {counts.dead_letters:,} dead letters",
        ),
        ("dispatches", f"{counts.dispatches:,}, of which {later:,} are later attempts"),
        (
            "outcomes",
            f"{counts.settled:,} settled + {counts.released:,} released + {counts.expired:,} expired"
            f" + {counts.open:,} open",
        ),
        (
            "completions",
            f"{counts.completions:,}, of which {counts.late:,} were late, {counts.paid_twice:,} answered again, "
            f"{counts.ignored:,} were ignored and {counts.refused_completions:,} are dead letters",
        ),
        ("chain", f"{counts.decisions:,} decisions in {counts.transactions:,} transactions"),
        ("waiting", f"{counts.waiting_queries:,} queries, {counts.waiting_completions:,} completions"),
        ("lost unread", f"{counts.missed_queries:,} queries, {counts.missed_completions:,} completions at most"),
    ]
