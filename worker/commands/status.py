"""`tollgate status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.options import ConfigOption, settings_from

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from worker.audit.status import LlmStatus, Status

AsJson = Annotated[bool, typer.Option("--json", help="Print the status as JSON, one object.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Keep showing it until Ctrl-C.")]

USD = 1e-6


def command(config: ConfigOption = None, as_json: AsJson = False, watch: Watch = False) -> None:
    """Show what every LLM's budget has left, its price, and how far each partition is.

    Read from the ledger topic alone, so it needs no worker. A price is the quality that a dollar must buy: 0 for a
    budget that is not scarce. `behind` counts what has come in and is not decided yet. Example:
    `tollgate status --watch`
    """
    import msgspec
    from rich.console import Console
    from rich.live import Live

    from worker.audit.follow import statuses

    states = statuses(settings_from(config))
    if not watch:
        found = next(states)
        if as_json:
            typer.echo(msgspec.json.encode(found))
        else:
            Console().print(_tables(found))
        return
    with Live(refresh_per_second=4) as live:
        for found in states:
            live.update(_tables(found))


def _tables(status: Status) -> RenderableType:
    from rich.console import Group

    if not status.partitions:
        return "no partition has decided anything yet: start a worker with `tollgate run`"
    return Group(_llms(status), _partitions(status))


def _llms(status: Status) -> Table:
    from worker.commands.tables import figures

    rows = []
    for llm, state in status.llms.items():
        money = (state.budget_micros, state.spent_micros, state.reserved_micros)
        rows.append((llm, *(f"{micros * USD:.4f}" for micros in money), _left(state), _prices(state.prices)))
    return figures(("LLM", "budget $", "spent $", "held $", "left", "price"), rows)


def _left(state: LlmStatus) -> str:
    left = state.budget_micros - state.spent_micros - state.reserved_micros
    return f"{max(0, left) / state.budget_micros:.0%}" if state.budget_micros else ""


def _prices(prices: list[float]) -> str:
    if not prices:
        return "none yet"
    low, high = min(prices), max(prices)
    return f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} - {high:.0f}"


def _partitions(status: Status) -> Table:
    from worker.commands.tables import figures

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
    headers = ("partition", "queries", "behind", "answers", "behind", "dispatches", "open", "prices")
    return figures(headers, [*rows, *((str(partition), *[""] * 7) for partition in status.silent)])
