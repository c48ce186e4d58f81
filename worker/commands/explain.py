"""`tollgate explain`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from worker.audit.explain import Attempt, Explanation
from worker.audit.run_explain import find, with_neighbours
from worker.commands.options import ConfigOption, JsonOption, OutputOption, more_help, new_app, settings_from
from worker.commands.output import present, reading
from worker.commands.tables import USD_PER_MICRO, Figures, amount
from worker.contract.errors import CheckFailed

QueryId = Annotated[
    str,
    typer.Argument(
        metavar="QUERY_ID",
        help="The query's id. A query without an id, or one that could not be read, is called <partition>-<offset>.",
    ),
]
Count = Annotated[int, typer.Option("--neighbours", metavar="N", min=0, help="Number of past queries to show.")]

app = new_app()


@app.command(
    epilog=more_help(
        "tollgate explain my-query-17", "tollgate explain 3-1042 --json", exit_1="nothing was decided about this query"
    )
)
def command(
    query_id: QueryId,
    config: ConfigOption = None,
    count: Count = 5,
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Explain the decisions about one query.

    The command shows the nearest past queries, and for each attempt the quality, cost, charge and score of each LLM,
    what each LLM pays to each budget, which budgets had too little left, and the outcome.

    A score is quality - charge, and the charge is what the LLM would use of each budget, times the budget's price. The
    LLM with the best score above 0 that can reserve is chosen. Costs are in micro-dollars. A price is in quality per
    dollar, token or request.
    """
    settings = settings_from(config)
    with reading() as progress:
        explanations = find(settings, query_id, progress)
    if not explanations:
        raise CheckFailed(
            f"{query_id}: nothing was decided about this query. Check the id; a query that could not be read (a dead "
            "letter) is called <partition>-<offset>. `tollgate status` shows how many queries are waiting"
        )
    if count:
        explanations = with_neighbours(settings, explanations, count)

    def tables(console: Console) -> None:
        for explanation in explanations:
            show(console, explanation)

    present(explanations, json, output, tables)


def show(console: Console, explanation: Explanation) -> None:
    """The explanation of one query, attempt by attempt."""
    place = f"partition {explanation.partition}, offset {explanation.query_offset}"
    console.print(f"query {explanation.query_id}, {place}")
    if explanation.refused is not None:
        console.print(f"it is a dead letter: {explanation.refused}")
        return
    if explanation.neighbours_unknown is not None:
        console.print(f"neighbours unknown: {explanation.neighbours_unknown}")
    elif explanation.neighbours:
        told = ", ".join(f"{row} ({similarity:.3f})" for row, similarity in explanation.neighbours)
        console.print(f"nearest past queries (similarity): {told}")
    for attempt in explanation.attempts:
        _show_attempt(console, attempt)


def _show_attempt(console: Console, attempt: Attempt) -> None:
    routed = attempt.decision
    when = datetime.fromtimestamp(routed.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    console.print(f"\nattempt {routed.attempt} at {when}, decisions offset {attempt.offset}: {attempt.why}")
    if attempt.note is not None:
        console.print(f"note: {attempt.note}")
    if attempt.candidates:
        console.print(_candidates(attempt))
        console.print(_draws(attempt))
    if routed.llm is not None:
        console.print(_ending(attempt))


def _candidates(attempt: Attempt) -> Figures:
    rows = [
        (
            candidate.llm,
            f"{candidate.quality:.3f}",
            f"{candidate.cost_micros:,.1f}",
            f"{candidate.charge:.3f}",
            f"{candidate.score:.3f}",
            "?" if candidate.affordable is None else "yes" if candidate.affordable else "no",
            candidate.verdict,
        )
        for candidate in attempt.candidates
    ]
    return Figures(("LLM", "quality", "cost", "charge", "score", "enough", "verdict"), rows)


def _draws(attempt: Attempt) -> Figures:
    rows = [
        (
            candidate.llm,
            draw.budget,
            "?" if draw.price is None else f"{draw.price / (USD_PER_MICRO if draw.resource == 'usd' else 1):,.4g}",
            "?" if draw.paid is None else f"{draw.paid:.3f}",
            amount(draw.resource, draw.reserve),
            "?" if draw.left is None else amount(draw.resource, draw.left),
            "refused" if draw.lacks else "",
        )
        for candidate in attempt.candidates
        for draw in candidate.draws
    ]
    return Figures(("LLM", "budget", "price", "pays", "reserve", "left", ""), rows, texts=2)


def _ending(attempt: Attempt) -> str:
    reserved, closed = attempt.decision.reserved_micros * USD_PER_MICRO, attempt.closed
    if closed is None:
        return f"reserved ${reserved:.6f}; not answered yet"
    spent = closed.spent_micros * USD_PER_MICRO
    told = f"reserved ${reserved:.6f}, {closed.outcome} at ${spent:.6f} (basis: {closed.basis})"
    if closed.quality is not None:
        told += f", quality {closed.quality:.3f}"
    told += "".join(f", {remark}" for remark in closed.remarks)
    told += f", error: {closed.error}" if closed.error else ""
    for charged in attempt.again:
        told += f"\nanswered again ({charged.reason}): ${charged.spent_micros * USD_PER_MICRO:.6f} more"
        told += f", which replaces ${charged.replaced_micros * USD_PER_MICRO:.6f}" if charged.replaced_micros else ""
    return told
