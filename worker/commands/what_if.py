"""`tollgate what-if`."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from worker.audit.outcomes import Served
from worker.audit.propensity import Explored
from worker.audit.run_what_if import Comparison, Side, what_if
from worker.audit.what_if import Change
from worker.commands.options import ConfigOption, JsonOption, OutputOption, finite, more_help, new_app, settings_from
from worker.commands.output import present, reading
from worker.commands.tables import USD_PER_MICRO, Figures, usd


@dataclass(frozen=True)
class NamedNumber:
    """A number for one budget."""

    name: str
    number: Decimal


def named_number(text: str) -> NamedNumber:
    """`NAME=NUMBER`, a number of at least 0. Raises typer.BadParameter."""
    name, _, number = text.rpartition("=")
    if not name:
        raise typer.BadParameter(f"{text!r} names no budget; write NAME=NUMBER")
    if not number.replace(".", "", 1).isdecimal():
        raise typer.BadParameter(f"{number!r} is not a number of at least 0")
    return NamedNumber(name, Decimal(number))


Budgets = Annotated[
    list[NamedNumber] | None,
    typer.Option(
        "--budget",
        metavar="NAME=AMOUNT",
        parser=named_number,
        help="Another amount of this budget, or of this LLM's own budget: dollars, tokens, requests or open "
        "dispatches; may be repeated.",
        show_default=False,
    ),
]
Factor = Annotated[
    float,
    typer.Option(
        "--budget-factor", metavar="N", callback=finite, min=0.0, help="Multiply the recorded budgets by this."
    ),
]
PolicyName = Annotated[
    Literal["priced", "port"] | None, typer.Option("--policy", help="Another routing policy.", show_default=False)
]
Without = Annotated[
    list[str] | None,
    typer.Option(metavar="LLM", help="Route without this LLM; may be repeated.", show_default=False),
]
Prices = Annotated[
    list[NamedNumber] | None,
    typer.Option(
        "--price",
        metavar="NAME=PRICE",
        parser=named_number,
        help="A fixed price of this budget, or of this LLM's own budget, in quality per dollar, token or request; may "
        "be repeated. Each other budget then has price 0.",
        show_default=False,
    ),
]
IndexDirectory = Annotated[
    Path | None,
    typer.Option(
        "--index",
        metavar="DIRECTORY",
        help="Estimate each query again, with the index in this directory.",
        show_default=False,
    ),
]

app = new_app()


@app.command(
    epilog=more_help(
        "tollgate what-if --budget-factor 0.5",
        "tollgate what-if --budget gpt-4o=100 --budget small=5",
        "tollgate what-if --without gpt-4o --json",
        exit_1="the decisions have lost their beginning and hold no checkpoint",
    )
)
def command(
    config: ConfigOption = None,
    budget: Budgets = None,
    budget_factor: Factor = 1.0,
    policy: PolicyName = None,
    without: Without = None,
    price: Prices = None,
    index: IndexDirectory = None,
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Route the same queries with other budgets or LLMs.

    The command shows two sides: the recorded decisions, and the decisions under your changes. It writes to no topic.

    Only the chosen LLM's answer is known, so the quality of both sides is compared by estimates. True quality is
    counted for judged answers. On the changed side it is counted only if the changed decision chooses the same LLM.
    """
    settings = settings_from(config)
    amounts = {one.name: one.number for one in budget or ()}
    counted = {name for name, one in settings.budgets.items() if one.resource != "usd"}
    prices = {one.name: float(one.number) * (1 if one.name in counted else USD_PER_MICRO) for one in price or ()}
    own = {llm for llm, one in settings.llms.items() if one.budget_usd is not None}
    _check("--without", without or (), settings.llms, "configured in [llms]")
    for option, names in (("--budget", amounts), ("--price", prices)):
        _check(option, names, own | settings.budgets.keys(), "a budget: neither in [budgets], nor an LLM's budget_usd")
    if set(without or ()) >= set(settings.llms):
        raise typer.BadParameter("no LLM is left", param_hint="--without")
    change = Change(
        budget_factor=budget_factor, policy=policy, without=tuple(without or ()), prices=prices if price else None
    )
    with reading() as progress:
        comparison = what_if(settings, change, amounts, index, progress)
    present(comparison, json, output, lambda console: show(console, comparison))


def _check(option: str, names: Iterable[str], known: Container[str], what: str) -> None:
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)} is not {what}", param_hint=option)


def show(console: Console, comparison: Comparison) -> None:
    """Both sides in total and by LLM, and what is known of them."""
    nothing = Served()
    real, other = comparison.real, comparison.other
    console.print(Figures(("", "real", "what if"), _totals(comparison)))
    rows = [
        (name, said, *_figures(side.llms.get(llm, nothing)))
        for llm in dict.fromkeys((*real.llms, *other.llms))
        for name, said, side in ((llm, "real", real), ("", "what if", other))
    ]
    console.print(Figures(("LLM", "", "sent", "served", "cost $", "est. q", "judged", "true q"), rows))
    if comparison.explored != Explored():
        console.print(_explored(comparison))
    for note in comparison.notes:
        console.print(Text.assemble(("note", "yellow"), " ", note))


def _totals(comparison: Comparison) -> list[tuple[str, str, str]]:
    sides = (comparison.real, comparison.other)

    def row(name: str, figures: list[str]) -> tuple[str, str, str]:
        return name, figures[0], figures[1]

    reasons = dict.fromkeys(reason for side in sides for reason in side.deferred)
    return [
        row("queries", [f"{comparison.queries:,}"] * 2),
        row("dispatched", [f"{side.total.dispatched:,}" for side in sides]),
        row("  served", [f"{side.total.served:,}" for side in sides]),
        *(row(f"deferred: {reason}", [f"{side.deferred.get(reason, 0):,}" for side in sides]) for reason in reasons),
        row("cost $", [usd(side.total.cost_micros) for side in sides]),
        row("estimated quality", [f"{side.total.estimated_quality:,.1f}" for side in sides]),
        row("  per dollar", [_per_dollar(side) for side in sides]),
        row("true quality of judged answers", [f"{side.total.true_quality:,.1f}" for side in sides]),
        row("  judged answers", [f"{side.total.judged:,}" for side in sides]),
    ]


def _per_dollar(side: Side) -> str:
    cost = side.total.cost_micros * USD_PER_MICRO
    return f"{side.total.estimated_quality / cost:,.0f}" if cost else ""


def _figures(served: Served) -> tuple[str, ...]:
    return (
        f"{served.dispatched:,}",
        f"{served.served:,}",
        usd(served.cost_micros),
        _mean(served.estimated_quality, served.served),
        f"{served.judged:,}",
        _mean(served.true_quality, served.judged),
    )


def _mean(total: float, count: int) -> str:
    return f"{total / count:.3f}" if count else "-"


def _explored(comparison: Comparison) -> str:
    explored, quality = comparison.explored, comparison.explored_quality
    counts = {
        "not judged": explored.drawn - explored.judged,
        "not affordable": explored.unaffordable,
        "left out, because what-if would also have drawn": explored.shared,
    }
    others = "".join(f"; {count:,} {name}" for name, count in counts.items() if count)
    return (
        f"by inverse propensity: {'-' if quality is None else f'{quality:.3f}'} true quality per query under what-if, "
        f"from {explored.judged:,} judged answers of LLMs drawn at random{others}"
    )
