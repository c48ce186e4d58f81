"""`tollgate send`."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace
from rich.console import Console

from worker.commands.options import ConfigOption, JsonOption, OutputOption, finite, more_help, new_app, settings_from
from worker.commands.output import present, working
from worker.commands.tables import Figures
from worker.contract import codec, extras, sentences
from worker.contract.codes import Rejection
from worker.contract.decisions import Routed
from worker.contract.messages import Query
from worker.contract.settings import Settings
from worker.inference.replies import answer_text
from worker.local.send import SendResult, dispatch_id
from worker.local.send import send as send_query

# The best by score, and the chosen one.
SHOWN = 8

Text = Annotated[str | None, typer.Argument(metavar="TEXT", help="The query's text. It is never logged.")]
Request = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file instead of a text, or - for standard input: a query, a request of a provider's API, a line of a "
        "batch file or a CloudEvent.",
        show_default=False,
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="LLM", help="An LLM that may answer. Repeat it for more.", show_default=False),
]
Deny = Annotated[
    list[str] | None,
    typer.Option("--deny", metavar="LLM", help="An LLM that must not answer. Repeat it for more.", show_default=False),
]
Tag = Annotated[
    list[str] | None,
    typer.Option(
        "--tag", metavar="NAME=VALUE", help="A tag of the query. Repeat it for more, up to 16.", show_default=False
    ),
]
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
        'tollgate send --deny gpt-4o --tag team=search "What is the capital of France?"',
        "tollgate send --request request.json",
        exit_0="the query was answered or deferred",
        exit_1="it was rejected, or no decision or no answer came in time",
    )
)
def command(
    text: Text = None,
    config: ConfigOption = None,
    wait: Wait = 10.0,
    max_output_tokens: MaxOutputTokens = None,
    request: Request = None,
    allow: Allow = None,
    deny: Deny = None,
    tag: Tag = None,
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Send one query, and show its decision and its answer.

    The command shows each LLM's estimates, price and score, the chosen LLM, its answer, and what the answer cost. If no
    decision or no answer comes in time, it says why and what to do.

    Without --config it uses ./tollgate.toml or the running demo (`tollgate demo --keep` in another terminal).
    """
    settings = settings_from(config)
    query = query_of(settings, text, request)
    named: dict[str, Any] = {"max_output_tokens": max_output_tokens, "tags": tag}
    named |= {"allow": _llms(settings, "--allow", allow), "deny": _llms(settings, "--deny", deny)}
    query = _checked(replace(query, **{name: value for name, value in named.items() if value}))
    with working("waiting for the decision and the answer"):
        reply = send_query(settings, query, wait)
    present(reply, json, output, lambda console: show(console, reply))
    if reply.rejected is not None:
        raise typer.Exit(1)
    if reply.missing is not None:
        for line in missing(settings, reply, wait):
            typer.echo(line, err=True)
        raise typer.Exit(1)


def query_of(settings: Settings, text: str | None, request: Path | None) -> Query:
    """The query of a text or of a file. Raises BadParameter."""
    if (text is None) == (request is None):
        raise typer.BadParameter("give a TEXT, or a file with --request, and not both", param_hint="TEXT")
    if request is None:
        return Query(text=text)
    try:
        content = sys.stdin.buffer.read() if str(request) == "-" else request.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{request} cannot be read: {error.strerror}", param_hint="--request") from None
    read = codec.decode_query(content, settings.limits.max_query_bytes, settings.limits.max_nesting)
    if isinstance(read, Rejection):
        raise typer.BadParameter(sentences.reason(read), param_hint="--request")
    return read


def _llms(settings: Settings, option: str, names: list[str] | None) -> tuple[str, ...]:
    if unknown := [name for name in names or () if name not in settings.llms]:
        known = ", ".join(settings.llms)
        raise typer.BadParameter(f"{unknown[0]} is no LLM of the settings; they are {known}", param_hint=option)
    return tuple(names or ())


def _checked(query: Query) -> Query:
    """The query as a worker will read it. Raises BadParameter."""
    read = extras.completed(query, ())
    if isinstance(read, Rejection):
        raise typer.BadParameter(sentences.reason(read), param_hint="--tag" if read.code == "tags" else "--request")
    return read


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
    if "unknown_model" in routed.remarks and routed.asks is not None:
        console.print(f"remark    the request's model is no LLM of the settings: {', '.join(routed.asks.wish)}")
    if routed.llm is None:
        console.print(f"deferred  {routed.reason}", style="yellow")
        for llm, why in routed.excluded.items():
            console.print(f"          {llm}: {sentences.EXCLUSIONS[why]}")
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
