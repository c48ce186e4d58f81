"""`tollgate replay`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worker.commands.options import ConfigOption, JsonOption, settings_from, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from worker.audit.run_replay import Limit, Replayed

Partitions = Annotated[list[int] | None, typer.Option("--partition", "-p", help="This one only; may be repeated.")]
From = Annotated[
    str | None, typer.Option("--from", metavar="OFFSET|TIME", help="Begin at the first checkpoint from here on.")
]
To = Annotated[str | None, typer.Option("--to", metavar="OFFSET|TIME", help="End before the first event from here on.")]
Estimates = Annotated[
    str,
    typer.Option(
        help="recorded: exact on any machine; index: estimate every query again, "
        "to within 0.02 of quality and 5 % + 1 micro-dollar of cost."
    ),
]
AnchorFile = Annotated[
    Path | None, typer.Option("--anchor", help="Check the chains against the heads in this file, then write them anew.")
]


def command(
    config: ConfigOption = None,
    partition: Partitions = None,
    start: From = None,
    end: To = None,
    estimates: Estimates = "recorded",
    anchor: AnchorFile = None,
    json: JsonOption = None,
) -> None:
    """Decide everything again, from the topics, and compare every record bit for bit.

    Decisions, reservations, settlements, prices and accounts must come out as they were recorded; the first that does
    not is named with its offset, its field and the ledger before it (exit 1). Works while the system runs, from the
    beginning or, where that has left the topic, from a checkpoint. Prices are solved again where the index is at hand,
    to within 1e-6 of themselves; all else is exact. A TIME is as 2026-01-31T08:00:00 (UTC unless it says
    otherwise) or milliseconds since 1970 behind an @; offsets are of `decisions`. Examples:

    `tollgate replay --anchor heads.json` proves also that nothing before the last heads was changed or removed; the
    file is written anew when all of it was proven.

    `tollgate replay -p 3 --from 2026-01-31T08:00:00 --estimates index`
    """
    from rich.console import Console

    from worker.audit import anchors
    from worker.audit.run_replay import Task, replay
    from worker.commands.verify import watching
    from worker.contract.errors import CheckFailed

    task = Task(
        partitions=tuple(partition or ()),
        start=_limit("--from", start),
        end=_limit("--to", end),
        estimates=_estimates(estimates),
        anchors=anchors.read(anchor) if anchor is not None else {},
    )
    console = Console()
    with watching(console) as progress:
        results = list(replay(settings_from(config), task, progress))
    write_json(json, results)
    show(console, results)
    if diverged := [result.divergence for result in results if result.divergence is not None]:
        raise CheckFailed(f"{len(diverged)} of {len(results)} partitions diverge, the first: {diverged[0]}")
    if anchor is None:
        return
    if not task.partitions and (unread := sorted(task.anchors.keys() - {result.partition for result in results})):
        raise CheckFailed(f"--anchor {anchor}: holds heads of partitions that were not replayed: {unread}")
    passed = [result.head for result in results if result.head is not None and result.anchored is not False]
    anchors.write(anchor, {**task.anchors, **{head.partition: head for head in passed}}.values())


def _limit(option: str, text: str | None) -> Limit | None:
    from datetime import UTC, datetime

    from worker.audit.run_replay import Limit

    if text is None:
        return None
    if text.isdecimal():
        return Limit(offset=int(text))
    if text.startswith("@") and text[1:].isdecimal():
        return Limit(at_ms=int(text[1:]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither an offset nor a time", param_hint=option) from None
    return Limit(at_ms=int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000))


def _estimates(name: str) -> Literal["recorded", "index"]:
    if name == "recorded":
        return "recorded"
    if name == "index":
        return "index"
    raise typer.BadParameter("one of: recorded, index", param_hint="--estimates")


def show(console: Console, results: list[Replayed]) -> None:
    """The results, partition by partition, and what could not be looked at."""
    from rich.markup import escape

    from worker.commands.tables import figures

    headers = ("partition", "decisions", "divergent", "prices", "estimates", "per second", "x live")
    console.print(figures(headers, [_row(result) for result in results]))
    for result in results:
        for note in _notes(result):
            console.print(f"[yellow]note[/] partition {result.partition}: {escape(note)}")
        if (divergence := result.divergence) is not None:
            console.print(f"[red]diverges[/] {escape(str(divergence))}")
            for llm, account in divergence.before.items():
                console.print(f"  before it: {escape(llm)}: {account}", highlight=False)


def _row(result: Replayed) -> tuple[str, ...]:
    rate, speed = result.compared / result.seconds, result.live_seconds / result.seconds
    divergent = "1" if result.divergence is not None else "0"
    again = result.estimates_exact + result.estimates_close
    estimates = f"{again:,}" if again else "recorded"
    prices = f"{result.prices_exact + result.prices_close:,}"
    return (
        str(result.partition),
        f"{result.compared:,}",
        divergent,
        prices,
        estimates,
        f"{rate:,.0f}",
        f"{speed:,.1f}",
    )


def _notes(result: Replayed) -> list[str]:
    from worker.audit import input_check, recorded_prices

    tolerance = f"quality {input_check.QUALITY_TOLERANCE}, cost {input_check.COST_TOLERANCE:.0%}"
    counted = [
        (
            result.prices_close,
            f"solutions for prices differ by less than {recorded_prices.TOLERANCE}: another machine's",
        ),
        (result.prices_taken, "solutions were taken as recorded: the index they need is not here"),
        (
            result.estimates_close,
            f"estimates differ within {tolerance} + {input_check.COST_TOLERANCE_MICROS} micro-dollar",
        ),
        (result.estimates_taken, f"estimates were taken as recorded: index {result.index_missing} is not here"),
        (result.gone_queries, "queries have left their topic and were not looked at"),
        (result.gone_completions, "completions have left their topic and were not looked at"),
        *((count, doubt) for doubt, count in result.doubts.items()),
    ]
    return [*_span(result), *(f"{count:,} {what}" for count, what in counted if count)]


def _span(result: Replayed) -> list[str]:
    """What of the chain was not replayed."""
    notes = []
    if result.first_offset is None and result.divergence is None:
        notes.append("there was nothing to replay")
    elif result.first_offset is not None and not result.whole:
        skipped = f"after {result.skipped:,} records in the topic: nothing before it was decided again"
        notes.append(f"began at the checkpoint at offset {result.first_offset}, {skipped}")
    if result.anchored is False:
        notes.append(
            "its anchor was not passed, and stays as it is in the file: the replay began after or ended before"
        )
    return notes
