"""`tollgate explain`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.options import ConfigOption, settings_from

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from worker.explanation import Attempt, Explanation

QueryId = Annotated[str, typer.Argument(help="The query's id; one that had none is called <partition>-<offset>.")]
Count = Annotated[int, typer.Option("--neighbours", min=0, help="How many neighbours in history to show.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the explanation as JSON.")]

USD = 1e-6


def command(query_id: QueryId, config: ConfigOption = None, count: Count = 5, as_json: AsJson = False) -> None:
    """Tell one query's way: its neighbours in history, the estimates, prices and scores, who could reserve, the end.

    A score is quality - price x cost; the best one above 0 whose LLM can reserve is chosen. Costs are in micro-dollars,
    prices in quality per dollar. Exit 1 if nothing was ever decided about it. Example: `tollgate explain my-query-17`
    """
    import msgspec
    from rich.console import Console

    from worker.commands.verify import watching
    from worker.errors import CheckFailed
    from worker.neighbourhood import find, neighbours

    settings, console = settings_from(config), Console()
    with watching(console) as progress:
        explanations = find(settings, query_id, progress)
    if not explanations:
        raise CheckFailed(f"{query_id}: nothing was decided about it; is it still waiting? `tollgate status` tells")
    if as_json:
        typer.echo(msgspec.json.encode(explanations))
        return
    for explanation in explanations:
        near = neighbours(settings, explanation, count) if count else []
        show(console, explanation, near)


def show(console: Console, explanation: Explanation, near: list[tuple[str, float]] | str) -> None:
    """One partition's explanation, attempt by attempt."""
    console.print(f"query {explanation.query_id}, partition {explanation.partition}", markup=False, highlight=False)
    if isinstance(near, str):
        console.print(f"neighbours unknown: {near}", markup=False)
    elif near:
        told = ", ".join(f"{row} ({similarity:.3f})" for row, similarity in near)
        console.print(f"nearest in history: {told}", markup=False, highlight=False)
    for attempt in explanation.attempts:
        _show_attempt(console, attempt)


def _show_attempt(console: Console, attempt: Attempt) -> None:
    routed = attempt.decision
    when = datetime.fromtimestamp(routed.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    console.print()
    console.print(
        f"attempt {routed.attempt} at {when}, decisions offset {attempt.offset}: {attempt.why}",
        markup=False,
        highlight=False,
    )
    console.print(_candidates(attempt))
    if routed.llm is not None:
        console.print(_ending(attempt), markup=False, highlight=False)


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
            candidate.verdict,
        )
        for candidate in attempt.candidates
    ]
    return figures(("LLM", "quality", "cost", "price", "score", "to hold", "verdict"), rows)


def _ending(attempt: Attempt) -> str:
    reserved, closed = attempt.decision.reserved_micros * USD, attempt.closed
    if closed is None:
        return f"reserved ${reserved:.6f}; not answered yet"
    told = f"reserved ${reserved:.6f}, {closed.outcome} at ${closed.spent_micros * USD:.6f} (basis: {closed.basis})"
    if closed.quality is not None:
        told += f", quality {closed.quality:.3f}"
    return f"{told}, error: {closed.error}" if closed.error else told
