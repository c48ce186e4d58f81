"""`tollgate what-if`."""

from __future__ import annotations

from collections.abc import Container, Iterable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.options import ConfigOption, JsonOption, settings_from, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from worker.audit.outcomes import Served
    from worker.audit.run_what_if import Comparison, Side

Budgets = Annotated[
    str | None, typer.Option(metavar="LLM=USD,...|xFACTOR", help="Other budgets in dollars, or all times a factor.")
]
PolicyName = Annotated[str | None, typer.Option("--policy", help="Another policy: priced or port.")]
Without = Annotated[list[str] | None, typer.Option(help="Without this LLM; may be repeated.")]
WithPrices = Annotated[
    str | None, typer.Option(metavar="LLM=PRICE,...", help="Fixed prices in quality per dollar; others are free.")
]
IndexDirectory = Annotated[Path | None, typer.Option("--index", help="Estimate by this index instead.")]

USD = 1e-6


def command(
    config: ConfigOption = None,
    budgets: Budgets = None,
    policy: PolicyName = None,
    without: Without = None,
    with_prices: WithPrices = None,
    index: IndexDirectory = None,
    json: JsonOption = None,
) -> None:
    """Route the same queries under another configuration, beside what really happened. Writes to no topic.

    Quality is compared by the estimates of both sides; true quality is known for the answers that somebody judged, and
    for the other side only where it chooses the LLM that was really asked. Example: `tollgate what-if --budgets x0.5`
    """
    from rich.console import Console

    from worker.audit.run_what_if import what_if
    from worker.audit.what_if import Change
    from worker.commands.verify import watching

    settings, console = settings_from(config), Console()
    factor, amounts = _budgets(budgets)
    prices = None if with_prices is None else {k: float(v) * USD for k, v in _pairs("--with-prices", with_prices)}
    _check("--budgets", amounts, settings.llms)
    _check("--without", without or (), settings.llms)
    if set(without or ()) >= set(settings.llms):
        raise typer.BadParameter("no LLM is left", param_hint="--without")
    _check("--with-prices", prices or (), settings.llms)
    if policy not in (None, "priced", "port"):
        raise typer.BadParameter("one of: priced, port", param_hint="--policy")
    change = Change(budget_factor=factor, policy=policy, without=tuple(without or ()), prices=prices)
    with watching(console) as progress:
        comparison = what_if(settings, change, amounts, index, progress)
    write_json(json, comparison)
    show(console, comparison)


def _budgets(text: str | None) -> tuple[float, dict[str, Decimal]]:
    if text is None:
        return 1.0, {}
    if text.startswith("x"):
        return float(_number("--budgets", text[1:])), {}
    return 1.0, dict(_pairs("--budgets", text))


def _pairs(option: str, text: str) -> list[tuple[str, Decimal]]:
    pairs = [part.rpartition("=") for part in text.split(",")]
    if bare := [value for name, _, value in pairs if not name]:
        raise typer.BadParameter(f"{bare[0]!r} names no LLM; write LLM=NUMBER (see --help)", param_hint=option)
    return [(name, _number(option, value)) for name, _, value in pairs]


def _number(option: str, text: str) -> Decimal:
    if not text.replace(".", "", 1).isdecimal():
        raise typer.BadParameter(f"{text!r} is not a number of at least 0", param_hint=option)
    return Decimal(text)


def _check(option: str, names: Iterable[str], llms: Container[str]) -> None:
    if unknown := [name for name in names if name not in llms]:
        raise typer.BadParameter(f"no such LLM: {', '.join(unknown)}", param_hint=option)


def show(console: Console, comparison: Comparison) -> None:
    """Both sides in total and by LLM, then what is known and what is estimated."""
    from worker.audit.outcomes import Served
    from worker.audit.propensity import Explored
    from worker.commands.tables import figures

    nothing = Served()
    real, other = comparison.real, comparison.other
    console.print(figures(("", "real", "what if"), _totals(comparison)))
    rows = [
        (name, said, *_figures(side.llms.get(llm, nothing)))
        for llm in dict.fromkeys((*real.llms, *other.llms))
        for name, said, side in ((llm, "real", real), ("", "what if", other))
    ]
    console.print(figures(("LLM", "", "sent", "served", "cost $", "est. q", "judged", "true q"), rows))
    if comparison.explored != Explored():
        console.print(_explored(comparison), markup=False, highlight=False)
    for note in comparison.notes:
        console.print(f"[yellow]note[/] {note}")


def _totals(comparison: Comparison) -> list[tuple[str, str, str]]:
    sides = (comparison.real, comparison.other)

    def row(name: str, figures: list[str]) -> tuple[str, str, str]:
        return name, figures[0], figures[1]

    reasons = dict.fromkeys(reason for side in sides for reason in side.deferred)
    return [
        row("queries", [f"{comparison.queries:,}"] * 2),
        row("dispatched", [f"{side.total.dispatched:,}" for side in sides]),
        row("  of them served", [f"{side.total.served:,}" for side in sides]),
        *(row(f"deferred: {reason}", [f"{side.deferred.get(reason, 0):,}" for side in sides]) for reason in reasons),
        row("cost $", [f"{side.total.cost_micros * USD:.4f}" for side in sides]),
        row("estimated quality", [f"{side.total.estimated_quality:,.1f}" for side in sides]),
        row("  per dollar", [_per_dollar(side) for side in sides]),
        row("true quality, where judged", [f"{side.total.true_quality:,.1f}" for side in sides]),
        row("  of so many answers", [f"{side.total.judged:,}" for side in sides]),
    ]


def _per_dollar(side: Side) -> str:
    cost = side.total.cost_micros * USD
    return f"{side.total.estimated_quality / cost:,.0f}" if cost else ""


def _figures(served: Served) -> tuple[str, ...]:
    return (
        f"{served.dispatched:,}",
        f"{served.served:,}",
        f"{served.cost_micros * USD:.4f}",
        _mean(served.estimated_quality, served.served),
        f"{served.judged:,}",
        _mean(served.true_quality, served.judged),
    )


def _mean(total: float, count: int) -> str:
    return f"{total / count:.3f}" if count else "-"


def _explored(comparison: Comparison) -> str:
    explored, quality = comparison.explored, comparison.explored_quality
    counts = {
        "unjudged": explored.drawn - explored.judged,
        "unaffordable": explored.unaffordable,
        "left out, for what if would have drawn too": explored.shared,
    }
    others = "".join(f"; {count:,} {name}" for name, count in counts.items() if count)
    return (
        f"by inverse propensity: {'-' if quality is None else f'{quality:.3f}'} true quality per query under what if, "
        f"from {explored.judged:,} judged answers of LLMs drawn at random{others}"
    )
