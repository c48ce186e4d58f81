"""`tollgate send`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console

from worker.commands.options import ConfigOption, JsonOption, OutputOption, finite, more_help, new_app, settings_from
from worker.commands.output import present, working
from worker.commands.tables import Figures
from worker.contract.decisions import Routed
from worker.contract.messages import Query
from worker.contract.settings import Settings
from worker.inference.replies import answer_text
from worker.local.send import SendResult, dispatch_id
from worker.local.send import send as send_query

# The best by score, and the chosen one.
SHOWN = 8

Text = Annotated[str, typer.Argument(metavar="TEXT", help="The query's text. It is never logged.")]
Wait = Annotated[
    float,
    typer.Option(
        metavar="N", min=0, callback=finite, help="Seconds to wait for the decision, and again for the answer."
    ),
]
MaxOutputTokens = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="The largest number of tokens of the answer.", show_default=False)
]

app = new_app()


@app.command(
    epilog=more_help(
        'tollgate send "What is the capital of France?"',
        'tollgate send --config tollgate.toml --wait 60 "What is the capital of France?"',
        exit_0="the query was answered or deferred",
        exit_1="it was rejected, or no decision or no answer came in time",
    )
)
def command(
    text: Text,
    config: ConfigOption = None,
    wait: Wait = 10.0,
    max_output_tokens: MaxOutputTokens = None,
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Send one query, and show its decision and its answer.

    The command shows each LLM's estimates, price and score, the chosen LLM, its answer, and what the answer cost. If no
    decision or no answer comes in time, it says why and what to do.

    Without --config it uses ./tollgate.toml or the running demo (`tollgate demo --keep` in another terminal).
    """
    settings = settings_from(config)
    with working("waiting for the decision and the answer"):
        reply = send_query(settings, Query(text=text, max_output_tokens=max_output_tokens), wait)
    present(reply, json, output, lambda console: show(console, reply))
    if reply.rejected is not None:
        raise typer.Exit(1)
    if reply.missing is not None:
        for line in missing(settings, reply, wait):
            typer.echo(line, err=True)
        raise typer.Exit(1)


def show(console: Console, reply: SendResult) -> None:
    """The decision and the answer, as far as they came."""
    console.print(f"query     {reply.origin.partition}-{reply.origin.offset}")
    if reply.rejected is not None:
        console.print(f"rejected  {reply.rejected}", style="red")
    if reply.attempts:
        _show_candidates(console, reply, reply.attempts[0])
    ended = {closed.dispatch_id: closed for closed in reply.closed}
    for routed in reply.attempts:
        _show_attempt(console, routed)
        if (closed := ended.get(dispatch_id(reply.origin, routed))) is not None:
            failed = "" if closed.error is None else f"; error: {closed.error}"
            console.print(f"{closed.outcome:9s} {closed.spent_micros:,} micro-dollars ({closed.basis}){failed}")
    if reply.answer is not None:
        console.print(f"answer    {answer_text(reply.answer.response)}", style="bold")


def _show_candidates(console: Console, reply: SendResult, routed: Routed) -> None:
    best = sorted(reply.candidates, key=lambda candidate: -candidate.score)
    shown = [one for place, one in enumerate(best) if place < SHOWN or one.llm == routed.llm]
    rows = [
        (one.llm, f"{one.quality:.3f}", f"{one.cost_micros:,.1f}", f"{one.paid:.3f}", f"{one.score:+.3f}")
        for one in shown
    ]
    console.print(Figures(("LLM", "quality", "cost (micro-dollars)", "price x cost", "score"), rows))
    if len(best) > len(shown):
        console.print(f"          and {len(best) - len(shown)} more")
    if routed.llm is not None and routed.reason == "best_score" and best[0].llm != routed.llm:
        console.print(f"          LLMs with a higher score could not reserve: `tollgate explain {routed.query_id}`")


def _show_attempt(console: Console, routed: Routed) -> None:
    if routed.llm is None:
        console.print(f"deferred  {routed.reason}", style="yellow")
        return
    again = "" if routed.attempt == 1 else f", attempt {routed.attempt}"
    console.print(
        f"goes to   {routed.llm} ({routed.reason}{again}); {routed.reserved_micros:,} micro-dollars reserved",
        style="bold green",
    )


def missing(settings: Settings, reply: SendResult, wait: float) -> list[str]:
    """What did not come, why, and what to do."""
    if reply.missing is None:
        return []
    cause, detail, routed = reply.missing.cause, reply.missing.detail, reply.open
    if routed is None:
        return [f"no decision came in {wait:g} s: {_undecided(settings, cause)}"]
    until = datetime.fromtimestamp(routed.deadline_ms / 1000).astimezone().isoformat(" ", "seconds")
    id_ = dispatch_id(reply.origin, routed)
    return [
        f"no answer came in {wait:g} s to dispatch {id_}: {_unanswered(settings, routed, cause, detail)}",
        f"The reservation is held until {until}. An answer that comes later is shown by "
        f"`tollgate explain {routed.query_id}`.",
    ]


def _undecided(settings: Settings, cause: str) -> str:
    if cause == "no_worker":
        return f"the consumer group {settings.kafka.group} has no worker. Start one with `tollgate run`."
    return (
        "a worker is running but has not decided yet. Wait longer with --wait; `tollgate status` shows how many "
        "queries are waiting."
    )


def _unanswered(settings: Settings, routed: Routed, cause: str, detail: str) -> str:
    topics = settings.topics
    if cause == "rejected":
        return f"the completion is a dead letter: {detail}. Correct the inference worker of {routed.llm}."
    if cause == "other_partition":
        return (
            f"the completion is in partition {detail} of {topics.completions}. The inference worker must produce it to "
            "partition `origin.partition` of the dispatch."
        )
    if cause == "not_applied":
        return f"the completion is in {topics.completions} but no worker has applied it. Start one with `tollgate run`."
    return (
        f"no inference worker has answered. Check that one reads {topics.dispatch(str(routed.llm))}, or wait longer "
        f"with --wait. `tollgate infer --llm {routed.llm}` runs one that answers from a table."
    )
