"""`tollgate history convert|ask|from-topics`; the last is in `history_topics`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from worker.commands import history_topics
from worker.commands.options import (
    ConfigOption,
    JsonOption,
    OutputOption,
    finite,
    more_help,
    new_app,
    settings_from,
    writable_file,
)
from worker.commands.output import present, working
from worker.commands.tables import Figures
from worker.contract.errors import FixSetting
from worker.contract.usage import usd
from worker.exports import ask as asking
from worker.exports.collect import FORMATS
from worker.exports.convert import Choices, Converted, convert
from worker.exports.files import files_of
from worker.exports.format import Wishes
from worker.exports.judge import ScoreWishes
from worker.exports.names import Names, read_aliases
from worker.exports.prices import PUBLISHED, PriceOf, no_prices, published_prices, read_prices
from worker.exports.report import OfLlm, Report, report_of
from worker.exports.scores import Scale, read_labels, read_scale, short
from worker.exports.write import write_left_out, write_table

FORMAT_NAMES = ", ".join(one.name for one in FORMATS)
LEFT_OUT_EXIT = 1
TOLD = {"stated": "stated by the source", "computed": "from prices", "given": "given by --cost", "unknown": "unknown"}

Exports = Annotated[
    list[Path],
    typer.Argument(metavar="EXPORT...", help="Files of one export, or directories of them. Also gzipped."),
]
To = Annotated[
    Path,
    typer.Option(
        "--to", metavar="FILE", help="The table to write: .csv or .parquet.", callback=writable_file, show_default=False
    ),
]
Long = Annotated[bool, typer.Option("--long", help="Write one row for each answer, with tokens and times, to look at.")]
LeftOut = Annotated[
    Path | None,
    typer.Option(
        "--left-out",
        metavar="FILE",
        help="Write the id of each row that is left out, and the reason, as CSV.",
        callback=writable_file,
        show_default=False,
    ),
]
Scores = Annotated[
    list[Path] | None,
    typer.Option(
        "--scores",
        metavar="FILE",
        help="A table of judgements by the id of an answer, a span or a trace. Also recognised among EXPORT.",
        show_default=False,
    ),
]
Score = Annotated[
    list[str] | None,
    typer.Option(
        "--score", metavar="NAME", help="The score to take, where there are several. Repeat it: the first counts."
    ),
]
ScaleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--scale",
        metavar="[NAME=]A..B",
        help="The worst and the best number of a score's scale, or `percent`. 0..1, thumbs, pass and fail need none.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--labels", metavar="LABEL=SCORE,...", help="Scores of labels, from 0 to 1: good=1,bad=0."),
]
Aliases = Annotated[
    Path | None,
    typer.Option(
        "--aliases",
        metavar="FILE",
        help="A table with the columns `seen` and `llm`: which names are one LLM.",
        show_default=False,
    ),
]
Alias = Annotated[
    list[str] | None, typer.Option("--alias", metavar="SEEN=LLM", help="One such name. Repeat it for more.")
]
Prices = Annotated[
    str | None,
    typer.Option(
        "--prices",
        metavar="FILE|published",
        help="Prices for answers with tokens and no cost: a table with the columns llm, input_usd_per_mtok, "
        "cached_input_usd_per_mtok, output_usd_per_mtok; or `published`: what providers publish, at that time.",
        show_default=False,
    ),
]
CostOption = Annotated[
    list[str] | None,
    typer.Option("--cost", metavar="LLM=USD", help="What an answer of an LLM costs, where nothing else says it."),
]
FillCosts = Annotated[
    bool,
    typer.Option(
        "--fill-costs", help="Use the prices also where the source knows prices itself and left a cost empty."
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help=f"Read only this format: {FORMAT_NAMES}.", show_default=False),
]
Filter = Annotated[
    str | None,
    typer.Option("--filter", metavar="NAME", help="The filter of lm-eval whose score counts.", show_default=False),
]
Split = Annotated[str, typer.Option("--split", metavar="NAME", help="The split of HELM that is read.")]

Count = Annotated[int, typer.Argument(metavar="N", min=1, help="How many past prompts are asked.", show_default=False)]
Table = Annotated[Path, typer.Argument(metavar="TABLE", help="A table of history, or any export that `convert` reads.")]
Answers = Annotated[
    Path,
    typer.Option(
        "--to",
        metavar="FILE",
        help="The file of answers, as JSON lines. It is continued if it exists.",
        callback=writable_file,
        show_default=False,
    ),
]
MaxUsd = Annotated[
    float,
    typer.Option(
        metavar="USD",
        min=0,
        callback=finite,
        help="The most that is spent on the answers of the file.",
        show_default=False,
    ),
]
Llms = Annotated[
    list[str] | None, typer.Option("--llm", metavar="LLM", help="Ask only this LLM; may be repeated. Without it: all.")
]
MostOutput = Annotated[int, typer.Option(metavar="N", min=1, help="The most tokens of an answer.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="The seed by which prompts are drawn.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask whether to go on.")]

app = new_app(no_args_is_help=True)


@app.callback(epilog=more_help("tollgate history convert spend_logs.csv --to history.csv", exit_3=""))
def group() -> None:
    """Make history out of what other tools recorded.

    History is the table of past queries that `tollgate index build` and `tollgate evaluate` read.
    """


@app.command(
    "convert",
    epilog=more_help(
        "tollgate history convert spend_logs.csv judgements.csv --to history.csv --aliases names.csv",
        "tollgate history convert observations.csv scores.csv --score helpful --to history.parquet",
        "tollgate history convert judged.csv --scale 1..10 --prices published --to history.csv --left-out left.csv",
        exit_1="more than half of the rows are left out",
        exit_3="",
    ),
)
def convert_export(
    exports: Exports,
    to: To,
    long: Long = False,
    left_out: LeftOut = None,
    scores: Scores = None,
    score: Score = None,
    scale: ScaleOption = None,
    labels: Labels = None,
    aliases: Aliases = None,
    alias: Alias = None,
    prices: Prices = None,
    fill_costs: FillCosts = False,
    cost: CostOption = None,
    format_name: FormatOption = None,
    filter_name: Filter = None,
    split: Split = "test",
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Convert an export of another tool, of a benchmark or of your own into history.

    The format is recognised by its fields. One answer becomes one cell: errors, answers from a cache, spans that repeat
    the calls inside, and rows without a prompt are left out and counted. A score becomes a number from 0 to 1. What is
    unknown stays empty and never becomes 0. What cannot be known, such as a scale, is asked for.
    """
    names, price_of = Names(read_aliases(aliases, alias or ())), _prices(prices)
    choices = Choices(
        Wishes(names, [short(name) for name in score or ()], filter_name, split),
        ScoreWishes(score or (), _scales(scale or ()), read_labels(labels or ())),
        price_of,
        fill_costs,
        _costs(cost or ()),
        _known(format_name),
    )
    with working("reading") as tell:
        converted = convert(files_of(exports), files_of(scores or []), choices, tell)
        if left_out is not None:
            write_left_out(left_out, converted.left)
        rows = write_table(to, converted.results, long) if converted.results else None
    report = report_of(converted, names, price_of)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    present(report, json, output, lambda console: show(console, report, to, rows))
    _end(converted)


@app.command(
    epilog=more_help(
        "tollgate history ask 100 history.csv --to answers.jsonl --max-usd 2",
        "tollgate history ask 100 history.csv --to answers.jsonl --max-usd 2 --yes --llm small --llm gpt-4o",
        exit_1="a question was not answered",
        exit_3="",
    )
)
def ask(
    count: Count,
    table: Table,
    to: Answers,
    max_usd: MaxUsd,
    config: ConfigOption = None,
    llm: Llms = None,
    max_output_tokens: MostOutput = 1_024,
    seed: Seed = 0,
    yes: Yes = False,
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Ask every LLM some past prompts that it has not answered.

    A log with one answer a query says little about the LLMs that were not asked. Some hundred answers of every LLM help
    most. The LLMs are those of the settings that have a base_url. The most that it may cost is shown first. No more
    than --max-usd is spent on one file. Each answer is written as it comes: after Ctrl-C, the same command goes on.

    Judge the answers by their `id`, and convert all together: `tollgate history convert history.csv answers.jsonl
    judged.csv --to new.csv`.
    """
    settings = settings_from(config)
    llms = {name: one for name, one in settings.llms.items() if one.base_url and (llm is None or name in llm)}
    if not llms or (missing := [name for name in llm or () if name not in llms]):
        raise FixSetting(f"no LLM to ask: {', '.join(missing) if llms else 'none'} has a base_url in [llms]")
    prices = settings.price_lists(datetime.now(UTC))
    done, booked = asking.answered_in(to)
    questions = asking.questions_of(table, llms, prices, count, seed, max_output_tokens)
    questions = [one for one in questions if (one.query_id, one.llm) not in done]
    most = sum((one.most_usd for one in questions), Decimal(0))
    typer.echo(_plan(questions, llms, most, max_usd), err=True)
    if questions and not yes:
        typer.confirm("Ask them?", abort=True, err=True)
    purse = asking.Purse(Decimal(str(max_usd)), booked)
    with working("asking") as tell, to.open("a", encoding="utf-8") as file:
        asked = asyncio.run(asking.ask(questions, llms, prices, purse, max_output_tokens, file, tell))
    told = {
        "answered": asked.answered,
        "failed": dict(asked.failed),
        "not_asked": asked.not_asked,
        "spent_usd": float(purse.spent_usd),
    }
    present(told, json, output, lambda console: console.print(_asked(asked, purse, to)))
    if asked.failed or asked.not_asked:
        raise typer.Exit(LEFT_OUT_EXIT)


def _plan(questions: Sequence[asking.Question], llms: Iterable[str], most: Decimal, max_usd: float) -> str:
    counted = Counter(one.llm for one in questions)
    by_llm = ", ".join(f"{name} {counted[name]:,}" for name in llms)
    told = f"{len(questions):,} questions ({by_llm}) cost at most {most:.4f} US dollars"
    return f"{told}; the limit of the file is {max_usd:g}"


def _asked(asked: asking.Asked, purse: asking.Purse, to: Path) -> str:
    failed = "".join(f", {count:,} failed as {name}" for name, count in asked.failed.items())
    left = f", {asked.not_asked:,} not asked" if asked.not_asked else ""
    return f"{asked.answered:,} answers in {to}{failed}{left}; {purse.spent_usd:.4f} US dollars are booked"


def _known(name: str | None) -> str | None:
    if name is not None and name not in {one.name for one in FORMATS}:
        raise typer.BadParameter(f"{name!r} is not one of {FORMAT_NAMES}", param_hint="--format")
    return name


def _prices(prices: str | None) -> PriceOf:
    if prices is None:
        return no_prices
    return published_prices() if prices == PUBLISHED else read_prices(Path(prices))


def _costs(pairs: Sequence[str]) -> dict[str, Decimal]:
    found = [(pair.rpartition("=")[0].strip(), usd(pair.rpartition("=")[2])) for pair in pairs]
    costs = {llm: amount for llm, amount in found if llm and amount is not None}
    if len(costs) < len(pairs):
        raise typer.BadParameter("write an LLM, =, and US dollars: gpt-4o=0.002", param_hint="--cost")
    return costs


def _scales(scales: Sequence[str]) -> dict[str, Scale]:
    """Scales by the short name of their score; `""` is any."""
    pairs = [text.rpartition("=") for text in scales]
    return {short(name): read_scale(scale) for name, _, scale in pairs}


def _end(converted: Converted) -> None:
    rows = len(converted.results) + converted.rows_left_out
    if converted.rows_left_out * 2 > rows:
        typer.echo(
            f"tollgate: {converted.rows_left_out:,} of {rows:,} rows are left out; --left-out FILE lists them with the "
            "reasons",
            err=True,
        )
        raise typer.Exit(LEFT_OUT_EXIT)


def show(console: Console, report: Report, to: Path, rows: int | None) -> None:
    """What was read, what was left out, and what the table has."""
    console.print(f"read {report.rows_read:,} rows of {', '.join(report.formats) or 'no format that is known'}")
    times = "" if report.first_at is None else f", from {report.first_at} to {report.last_at}"
    if rows is None:
        console.print("no row is left; no table is written")
    else:
        console.print(f"wrote {to}: {rows:,} rows of {report.answers:,} answers to {report.queries:,} queries{times}")
    if report.left_out:
        console.print(Figures(["left out", "rows"], [(name, f"{n:,}") for name, n in report.left_out.items()]))
    if report.llms:
        console.print(Figures(["LLM", "answers", "scores", "costs", "mean score", "USD"], map(_row, report.llms)))
        console.print(f"answers with a score and a cost: {report.usable:,}")
    for name, scale in report.scores.items():
        console.print(f"score: {name}, of {scale}")
    if report.answers:
        console.print("costs: " + ", ".join(f"{count:,} {TOLD[name]}" for name, count in report.costs.items() if count))
    for seen, llm in report.aliases.items():
        console.print(f"joined: {seen} is {llm}")
    for group in report.alike:
        console.print(f"alike, not joined: {', '.join(group)} (--alias {group[0]}={group[-1]})")
    for note in report.notes:
        console.print(f"note: {note}")
    if report.files_not_read:
        console.print(f"not read: {', '.join(report.files_not_read)}")


def _row(one: OfLlm) -> tuple[str, ...]:
    mean = "" if one.mean_score is None else f"{one.mean_score:.3f}"
    return one.llm, f"{one.answers:,}", f"{one.scored:,}", f"{one.priced:,}", mean, f"{one.cost_usd:.6f}"


@app.command("from-topics", epilog=history_topics.EPILOG)
def from_topics(
    to: history_topics.To,
    config: ConfigOption = None,
    by: history_topics.By = None,
    left_out: history_topics.LeftOut = None,
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Make history out of what a running system answered, so that history grows with use.

    Prompts come from `queries`, LLMs and costs from `decisions`, and scores from the topic `judgements` or from the
    completions. An answer without a score keeps its cost. A cost that nobody told is empty.
    """
    history_topics.run(settings_from(config), to, by, left_out, json, output)
