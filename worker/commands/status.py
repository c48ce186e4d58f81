"""`tollgate status`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from worker.audit.budget_totals import BudgetTotal
from worker.audit.status import LlmStatus, Status, statuses
from worker.commands.options import ConfigOption, JsonOption, OutputOption, more_help, new_app, settings_from
from worker.commands.output import console, present
from worker.commands.tables import Figures, amount, usd

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show it again every second, until Ctrl-C.")]

app = new_app()


@app.command(epilog=more_help("tollgate status", "tollgate status --watch", "tollgate status --watch --json"))
def command(
    config: ConfigOption = None, json: JsonOption = False, output: OutputOption = None, watch: Watch = False
) -> None:
    """Show budgets, prices and the progress of each partition.

    The status is read from the ledger topic, so no worker has to run. A price is the quality that one dollar, token or
    request of a budget must buy; it is 0 for a budget that is not scarce, and for open dispatches. `behind` counts the
    records that arrived and are not decided yet. If queries have tags, a table shows the number of queries with each
    tag and what their answers cost.

    `settings` names the settings that were changed since the workers started. They take effect when the workers are
    restarted. Settings that no decision depends on, such as [log] and base_url, are not compared.

    With --watch, --json prints one object per line.
    """
    if watch and output is not None:
        raise typer.BadParameter("--output writes one status; omit --watch", param_hint="--output")
    states = statuses(settings_from(config))
    if watch:
        _follow(states, json)
    else:
        found = next(iter(states))
        present(found, json, output, lambda console: console.print(tables(found)))


def _follow(states: Iterable[Status], as_json: bool) -> None:
    if as_json:
        for found in states:
            typer.echo(msgspec.json.encode(found))
            sys.stdout.flush()
        return
    screen = console()
    if not screen.is_terminal:
        for found in states:
            screen.print(tables(found))
        return
    with Live(console=screen, refresh_per_second=4) as live:
        for found in states:
            live.update(tables(found))


def tables(status: Status) -> RenderableType:
    """The budgets, the LLMs, the partitions, and the tags if there are any."""
    if not status.partitions:
        return "no partition has decided anything yet: start a worker with `tollgate run`"
    tags = [_tags(status)] if status.tags else []
    return Group(_budgets(status), _llms(status), _partitions(status), *tags, _settings(status))


def _settings(status: Status) -> Text:
    """Whether the partitions decide by the settings that this command reads."""
    if not status.changed_settings:
        left_out = (
            "" if status.index_is_here else "; the index is not here: index.directory and margins were not compared"
        )
        return Text(f"settings  every partition decides by these settings{left_out}")
    names = ", ".join(f"{name} ({_numbers(places)})" for name, places in status.changed_settings.items())
    return Text.assemble("settings  ", ("changed", "yellow"), f" since the workers started; restart them: {names}")


def _numbers(partitions: Sequence[int]) -> str:
    return f"partition{'s' if len(partitions) > 1 else ''} {', '.join(map(str, partitions))}"


def _budgets(status: Status) -> Figures:
    rows = []
    for one in status.budgets:
        columns = (one.amount, one.spent, one.late, one.paid_twice, one.reserved)
        figures = (amount(one.resource, column) for column in columns)
        rows.append((one.budget, one.resource, *figures, _left(one), _prices(status.prices.get(one.budget, []))))
    headers = ("budget", "of", "amount", "spent", "late", "twice", "reserved", "left", "price")
    return Figures(headers, rows, texts=2)


def _llms(status: Status) -> Figures:
    rows = []
    for llm, state in status.llms.items():
        silent = f"{state.unanswered:,}" if state.unanswered else ""
        rows.append((llm, f"{state.open:,}", usd(state.reserved_micros), silent, _out(state)))
    return Figures(("LLM", "open", "reserved $", "unanswered", "taken out"), rows)


def _out(state: LlmStatus) -> str:
    """Why the LLM was taken out, and in how many partitions."""
    if not state.out:
        return ""
    return f"{', '.join(sorted(set(state.out.values())))} ({len(state.out)})"


def _tags(status: Status) -> Figures:
    rows = [(tag, f"{total.queries:,}", usd(total.spent_micros)) for tag, total in status.tags.items()]
    return Figures(("tag", "queries", "spent $"), rows)


def _left(total: BudgetTotal) -> str:
    return f"{total.left / total.amount:.0%}" if total.amount else ""


def _prices(prices: list[float]) -> str:
    if not prices:
        return "none yet"
    low, high = min(prices), max(prices)
    return f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} - {high:.0f}"


def _partitions(status: Status) -> Figures:
    rows = [
        (
            str(state.partition),
            f"{state.offsets.queries + 1:,}",
            f"{state.behind.queries:,}",
            f"{state.offsets.completions + 1:,}",
            f"{state.behind.completions:,}",
            f"{state.dispatches:,}",
            f"{state.open:,}",
            state.fit.status,
        )
        for state in status.partitions
    ]
    headers = ("partition", "queries", "behind", "completions", "behind", "dispatches", "open", "prices")
    return Figures(headers, [*rows, *((str(partition), *[""] * 7) for partition in status.silent)])
