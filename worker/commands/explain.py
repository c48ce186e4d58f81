"""`tollgate explain`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.options import ConfigOption, settings_from

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from worker.audit.explain import Attempt, Explanation

QueryId = Annotated[str, typer.Argument(help="The query's id; one that had none is called <partition>-<offset>.")]
Count = Annotated[int, typer.Option("--neighbours", min=0, help="How many neighbours in history to show.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the explanation as JSON.")]

USD = 1e-6


def command(query_id: QueryId, config: ConfigOption = None, count: Count = 5, as_json: AsJson = False) -> None:
    """Tell one query's way: its neighbours in history, the estimates, prices and scores, who could reserve, the end.

    A score is quality - price x cost; the best one above 0 whose LLM can reserve is chosen. Costs are in micro-dollars,
    prices in quality per dollar; an LLM is affordable if it has left what it would have to hold. Exit 1 if nothing was
    ever decided about it. Example: `tollgate explain my-query-17`
    """
    import msgspec
    from rich.console import Console

    from worker.audit.run_explain import find, with_neighbours
    from worker.commands.verify import watching
    from worker.contract.errors import CheckFailed

    settings, console = settings_from(config), Console()
    with watching(console) as progress:
        explanations = find(settings, query_id, progress)
    if not explanations:
        raise CheckFailed(f"{query_id}: nothing was decided about it; is it still waiting? `tollgate status` tells")
    if count:
        explanations = with_neighbours(settings, explanations, count)
    if as_json:
        typer.echo(msgspec.json.encode(explanations))
        return
    for explanation in explanations:
        show(console, explanation)


def show(console: Console, explanation: Explanation) -> None:
    """The explanation of one query, attempt by attempt."""
    place = f"partition {explanation.partition}, offset {explanation.query_offset}"
    _say(console, f"query {explanation.query_id}, {place}")
    if explanation.refused is not None:
        _say(console, f"it is a dead letter: {explanation.refused}")
        return
    if explanation.neighbours_unknown is not None:
        _say(console, f"neighbours unknown: {explanation.neighbours_unknown}")
    elif explanation.neighbours:
        told = ", ".join(f"{row} ({similarity:.3f})" for row, similarity in explanation.neighbours)
        _say(console, f"nearest in history: {told}")
    for attempt in explanation.attempts:
        _show_attempt(console, attempt)


def _show_attempt(console: Console, attempt: Attempt) -> None:
    routed = attempt.decision
    when = datetime.fromtimestamp(routed.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    console.print()
    _say(console, f"attempt {routed.attempt} at {when}, decisions offset {attempt.offset}: {attempt.why}")
    if attempt.note is not None:
        _say(console, f"note: {attempt.note}")
    if attempt.candidates:
        console.print(_candidates(attempt))
    if routed.llm is not None:
        _say(console, _ending(attempt))


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)


def _candidates(attempt: Attempt) -> Table:
    from worker.commands.tables import figures

    rows = [
        (
            candidate.llm,
            f"{candidate.quality:.3f}",
            f"{candidate.cost_micros:,}",
            f"{candidate.price / USD:,.0f}",
            f"{candidate.score:.3f}",
            f"{candidate.reserve_micros:,}",
            "?" if candidate.available_micros is None else f"{candidate.available_micros:,}",
            "?" if candidate.affordable is None else "yes" if candidate.affordable else "no",
            candidate.verdict,
        )
        for candidate in attempt.candidates
    ]
    headers = ("LLM", "quality", "cost", "price", "score", "to hold", "left", "enough", "verdict")
    return figures(headers, rows)


def _ending(attempt: Attempt) -> str:
    reserved, closed = attempt.decision.reserved_micros * USD, attempt.closed
    if closed is None:
        return f"reserved ${reserved:.6f}; not answered yet"
    told = f"reserved ${reserved:.6f}, {closed.outcome} at ${closed.spent_micros * USD:.6f} (basis: {closed.basis})"
    if closed.quality is not None:
        told += f", quality {closed.quality:.3f}"
    return f"{told}, error: {closed.error}" if closed.error else told
