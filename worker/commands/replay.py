"""`tollgate replay`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from worker.audit import input_check, recorded_prices
from worker.audit.chain import Anchor, read_anchors, write_anchors
from worker.audit.run_replay import Limit, Replayed, Task, replay
from worker.commands.options import (
    ConfigOption,
    JsonOption,
    OutputOption,
    more_help,
    new_app,
    replaceable_file,
    settings_from,
)
from worker.commands.output import present, reading
from worker.commands.tables import Figures
from worker.contract.errors import CheckFailed, FixSetting


def limit(text: str) -> Limit:
    """An offset, a time in ISO 8601, or `@` with milliseconds since 1970. Raises typer.BadParameter."""
    if text.isdecimal():
        return Limit(offset=int(text))
    if text.startswith("@") and text[1:].isdecimal():
        return Limit(at_ms=int(text[1:]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither an offset nor a time (see --help)") from None
    return Limit(at_ms=int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000))


Partitions = Annotated[
    list[int] | None,
    typer.Option(
        "--partition",
        "-p",
        metavar="N",
        min=0,
        help="Replay this partition only; may be repeated. Without it: all.",
        show_default=False,
    ),
]
From = Annotated[
    Limit | None,
    typer.Option(
        "--from",
        metavar="OFFSET|TIME",
        parser=limit,
        help="Begin at the first checkpoint from here on.",
        show_default=False,
    ),
]
To = Annotated[
    Limit | None,
    typer.Option(
        "--to",
        metavar="OFFSET|TIME",
        parser=limit,
        help="End before the first event from here on.",
        show_default=False,
    ),
]
Estimates = Annotated[
    Literal["recorded", "index"],
    typer.Option(
        help="recorded: use the estimates in the records; exact on any machine. index: estimate each query again, and "
        "accept a difference of 0.02 in quality and of 5 % + 1 micro-dollar in cost."
    ),
]
AnchorFile = Annotated[
    Path | None,
    typer.Option(
        "--anchor",
        metavar="FILE",
        help="Check the chains against the heads in FILE, then write the new heads to it. FILE must exist.",
        callback=replaceable_file,
        show_default=False,
    ),
]
AnchorCreate = Annotated[
    bool, typer.Option("--anchor-create", help="The first time: create the file of --anchor. Nothing is proven yet.")
]

app = new_app()


@app.command(
    epilog=more_help(
        "tollgate replay",
        "tollgate replay --anchor heads.json --anchor-create",
        "tollgate replay --anchor heads.json",
        "tollgate replay -p 3 --from 2026-01-31T08:00:00 --estimates index",
        exit_1="a partition diverges, or an anchor was not proven",
    )
)
def command(
    config: ConfigOption = None,
    partition: Partitions = None,
    start: From = None,
    end: To = None,
    estimates: Estimates = "recorded",
    anchor: AnchorFile = None,
    anchor_create: AnchorCreate = False,
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Decide everything again and compare each record.

    Decisions, reservations, settlements, prices and accounts must be the same, bit for bit. If a record differs, the
    command names its offset, the field, and the accounts before it. Prices are solved again if the index is here; they
    must agree within a factor of 1e-6.

    The command works while the system runs. It begins with the chain, or at the first checkpoint if retention has
    removed the beginning.

    With --anchor it also proves that nothing before the heads in the file was changed or removed since the file was
    written, and tells up to which decision and time. The file is written only if everything was proven. Keep it
    outside of Kafka.

    OFFSET is an offset of the topic `decisions`. TIME is ISO 8601 (UTC if it has no offset), for example
    2026-01-31T08:00:00, or `@` followed by milliseconds since 1970.
    """
    if anchor_create and anchor is None:
        raise FixSetting("--anchor-create: needs --anchor FILE, the file to create")
    heads = {} if anchor is None else read_anchors(anchor, anchor_create)
    task = Task(partitions=tuple(partition or ()), start=start, end=end, estimates=estimates, anchors=heads)
    with reading() as progress:
        results = list(replay(settings_from(config), task, progress))
    present(results, json, output, lambda console: show(console, results, anchor))
    if diverged := [result.divergence for result in results if result.divergence is not None]:
        raise CheckFailed(f"{len(diverged)} of {len(results)} partitions diverge, the first: {diverged[0]}")
    if anchor is not None:
        _anchor(anchor, task, results)


def _anchor(file: Path, task: Task, results: Sequence[Replayed]) -> None:
    if not task.partitions and (unread := sorted(task.anchors.keys() - {result.partition for result in results})):
        raise CheckFailed(f"--anchor {file}: holds heads of partitions that were not replayed: {unread}")
    passed = [result.head for result in results if result.head is not None and result.anchored is not False]
    write_anchors(file, {**task.anchors, **{head.partition: head for head in passed}}.values())


def show(console: Console, results: Sequence[Replayed], anchor: Path | None = None) -> None:
    """The results by partition, and what was not checked."""
    headers = ("partition", "decisions", "divergent", "prices", "estimates", "per second", "x live")
    console.print(Figures(headers, [_row(result) for result in results]))
    for result in results:
        if anchor is not None and result.divergence is None:
            console.print(Text.assemble(("anchor", "green"), f" partition {result.partition}: {_proof(result)}"))
        for note in _notes(result):
            console.print(Text.assemble(("note", "yellow"), f" partition {result.partition}: {note}"))
        if (divergence := result.divergence) is not None:
            console.print(Text.assemble(("diverges", "red"), f" {divergence}"))
            for account in result.accounts_before:
                console.print(f"  before it: {account}")


def _proof(result: Replayed) -> str:
    """What the anchor proved, and since when."""
    anchor, head = result.anchor, result.head
    if anchor is None:
        ends = "" if head is None else f"; this run keeps one at decision {head.decisions:,}{_moment(head)}"
        return f"nothing is proven, because the file held no anchor of it{ends}"
    if not result.anchored:
        return f"the anchor at decision {anchor.decisions:,}{_moment(anchor)} was not proven"
    what = f"the first {anchor.decisions:,} decisions"
    if not result.whole:
        what = f"the decisions from offset {result.first_offset} to number {anchor.decisions:,}"
    return f"proven: {what}{_moment(anchor)} were not changed, removed or moved since that anchor was kept"


def _moment(anchor: Anchor) -> str:
    """When its last decision was made, as the lane's clock had it."""
    if anchor.at_ms is None:
        return ""
    return f" (up to {datetime.fromtimestamp(anchor.at_ms / 1000, UTC).isoformat(' ', 'seconds')})"


def _row(result: Replayed) -> tuple[str, ...]:
    again = result.estimates_exact + result.estimates_close
    return (
        str(result.partition),
        f"{result.compared:,}",
        "1" if result.divergence is not None else "0",
        f"{result.prices_exact + result.prices_close:,}",
        f"{again:,}" if again else "recorded",
        f"{result.compared / result.seconds:,.0f}",
        f"{result.live_seconds / result.seconds:,.1f}",
    )


def _notes(result: Replayed) -> list[str]:
    tolerance = f"quality {input_check.QUALITY_TOLERANCE}, cost {input_check.COST_TOLERANCE:.0%}"
    counted = [
        (
            result.prices_close,
            f"price solutions differ, and are worth the same within {recorded_prices.TOLERANCE:.2%}: another machine "
            "solved them",
        ),
        (result.prices_taken, "price solutions were not checked: their index is not here"),
        (
            result.estimates_close,
            f"estimates differ within {tolerance} + {input_check.COST_TOLERANCE_MICROS} micro-dollar",
        ),
        (result.estimates_taken, f"estimates were not checked: their index {result.index_missing} is not here"),
        (result.gone_queries, "queries were not checked: they have left their topic"),
        (result.gone_completions, "completions were not checked: they have left their topic"),
        *((count, doubt) for doubt, count in result.doubts.items()),
    ]
    return [*_span(result), *(f"{count:,} {what}" for count, what in counted if count)]


def _span(result: Replayed) -> list[str]:
    """Which part of the chain was not replayed."""
    notes = []
    if result.first_offset is None and result.divergence is None:
        notes.append("there was nothing to replay")
    elif result.first_offset is not None and not result.whole:
        notes.append(
            f"began at the checkpoint at offset {result.first_offset}; the {result.skipped:,} records before it in the "
            "topic were not decided again"
        )
    if result.anchored is False:
        notes.append(
            "its anchor lies outside of what was replayed: it is not proven, and the file keeps the old anchor"
        )
    return notes
