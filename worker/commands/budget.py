"""`tollgate budget suggest`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from worker.commands.evaluate import Data, Embeddings, Plot, Seeds, Test, followed, history_of, plots
from worker.commands.options import JsonOption, OutputOption, finite, more_help, new_app
from worker.commands.output import present
from worker.commands.tables import Figures
from worker.evaluation.scenario import Plan
from worker.evaluation.study import Study
from worker.evaluation.suggest import MULTIPLES, Bought, Suggestion, picture, suggest

COLUMNS = ("routing", "mean quality", "served", "spent USD")

app = new_app(no_args_is_help=True)


@app.callback(epilog=more_help("tollgate budget suggest history.parquet --usd 1000 --queries 200000", exit_3=""))
def group() -> None:
    """Say what a budget would buy.

    docs/how-to/budgets.md says how budgets are set.
    """


@app.command(
    "suggest",
    epilog=more_help(
        "tollgate budget suggest --usd 5 --queries 10000",
        "tollgate budget suggest history.parquet --usd 1000 --queries 200000 --plot pictures/",
        exit_3="",
    ),
)
def suggest_command(
    usd: Annotated[float, typer.Option(metavar="N", min=0.000001, callback=finite, help="The money, in dollars.")],
    queries: Annotated[int, typer.Option(metavar="N", min=1, help="The number of queries that it is for.")],
    data: Data = None,
    test: Test = None,
    seeds: Seeds = 1,
    embeddings: Embeddings = None,
    json: JsonOption = False,
    output: OutputOption = None,
    plot: Plot = None,
) -> None:
    """Show what money buys: one budget, a budget for each LLM, or all to one LLM.

    DATA is a table as for `tollgate evaluate`, in which every LLM answered most rows. A part of it is learnt from, and
    the rest is routed. The queries to come are taken to be like those of the table.

    The command shows the mean quality of a query (0 for a query that no LLM serves), the best division of the money
    over the LLMs, and the quality of less money and of more.
    """
    study = Study(history_of(data, embeddings), Plan(test=test), seeds)
    found = followed(study, seeds + len(MULTIPLES) + 1, lambda: suggest(study, usd, queries))
    present(found, json, output, lambda screen: _show(screen, found))
    if plot:
        plots().draw_finding("budget", picture(found), plot)


def _show(screen: Console, found: Suggestion) -> None:
    screen.print(f"{found.usd:,.2f} USD for {found.queries:,} queries like those of the table")
    screen.print(Figures(COLUMNS, [_cells(each) for each in (found.total, found.divided, *found.alone)]))
    screen.print("one budget for all LLMs, by its money")
    screen.print(Figures(("USD", *COLUMNS[1:]), [_cells(each) for each in found.by_money]))
    screen.print("the settings of one budget:\n")
    screen.print(f"    [budgets.company]\n    usd = {found.usd:g}\n", markup=False)
    screen.print("or of a budget for each LLM, without the LLMs that get none:\n")
    for share in found.split:
        screen.print(f'    [llms."{share.llm}"]\n    budget_usd = {_dollars(share.usd)}', markup=False)


def _dollars(usd: float) -> str:
    return f"{usd:.6f}".rstrip("0").rstrip(".")


def _cells(bought: Bought) -> tuple[str, ...]:
    return bought.routing, f"{bought.quality:.3f}", f"{bought.served:.1%}", f"{bought.usd:,.2f}"
