"""`tollgate send`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.commands.options import ConfigOption, settings_from

if TYPE_CHECKING:
    from worker.contract.messages import Routed
    from worker.local.send import Reply

# The best by score, and the chosen one.
SHOWN = 8

Text = Annotated[str, typer.Argument(help="The query's text. It is never logged.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for the decision, and again for the answer.")]
MaxOutputTokens = Annotated[int | None, typer.Option(min=1, help="Most tokens of an answer.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def command(
    text: Text,
    config: ConfigOption = None,
    wait: Wait = 10.0,
    max_output_tokens: MaxOutputTokens = None,
    json: AsJson = False,
) -> None:
    """Send one query and show which LLM it goes to and why.

    Uses --config, ./tollgate.toml or the running demo (`tollgate demo --keep` in another terminal). Exit 1 if the query
    was refused, or nothing was decided in time.
    Example: `tollgate send "What is the capital of France?"`
    """
    import msgspec
    from rich.console import Console

    from worker.contract.messages import Query
    from worker.local.send import send

    settings = settings_from(config)
    reply = send(settings, Query(text=text, max_output_tokens=max_output_tokens), wait)
    if json:
        typer.echo(msgspec.json.encode(reply).decode())
    else:
        # Names and reasons may hold brackets, which are no markup.
        _show(Console(markup=False), reply)
    if reply.decision is None:
        raise typer.Exit(1)


def _show(console: Any, reply: Reply) -> None:
    console.print(f"query     {reply.origin.partition}-{reply.origin.offset}")
    if reply.rejected is not None:
        console.print(f"refused   {reply.rejected}", style="red")
    elif reply.decision is None:
        console.print("no decision in time: is a worker running, and does it use these settings? see `tollgate status`")
    else:
        _show_decision(console, reply, reply.decision)


def _show_decision(console: Any, reply: Reply, routed: Routed) -> None:
    from rich.table import Table

    table = Table("LLM", "quality", "cost (micro-USD)", "price x cost", "score")
    rows = sorted(reply.candidates, key=lambda candidate: -candidate.score)
    shown = [one for place, one in enumerate(rows) if place < SHOWN or one.llm == routed.llm]
    for one in shown:
        style = "bold green" if one.llm == routed.llm else None
        table.add_row(
            one.llm, f"{one.quality:.3f}", f"{one.cost_micros:,}", f"{one.paid:.3f}", f"{one.score:+.3f}", style=style
        )
    console.print(table)
    if len(rows) > len(shown):
        console.print(f"          and {len(rows) - len(shown)} more")
    if routed.llm is None:
        console.print(f"deferred  {routed.reason}", style="yellow")
    else:
        console.print(f"goes to   {routed.llm} ({routed.reason}); {routed.reserved_micros:,} micro-dollars reserved")
        if routed.attempt == 1 and routed.reason == "best_score" and rows[0].llm != routed.llm:
            console.print(f"          what scores more could not reserve: `tollgate explain {routed.query_id}`")
    for closed in reply.closed:
        console.print(f"{closed.outcome:9s} {closed.spent_micros:,} micro-dollars ({closed.basis})")
