"""`tollgate batch`."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worker.batch.outputs import Outputs
from worker.batch.plan import Plan, Refusal, check
from worker.batch.run import Batch, Options, Silence, Standing, Summary
from worker.batch.source import Source
from worker.batch.state import locked, state_path
from worker.batch.wire import KafkaWire
from worker.commands.options import (
    ConfigOption,
    JsonOption,
    OutputOption,
    more_help,
    new_app,
    settings_from,
    writable_file,
)
from worker.commands.output import errors, present, working
from worker.commands.tables import Figures, usd
from worker.contract import extras, sentences
from worker.contract.asks import AUTO
from worker.contract.codes import Rejection
from worker.contract.messages import Query
from worker.contract.rejections import Limits
from worker.contract.settings import Settings

FEWEST_OPEN, MOST_OPEN = 200, 5_000
TOLD_SECONDS = 10.0
SHOWN_PROBLEMS = 100
UNITS_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Requests = Annotated[
    Path,
    typer.Argument(metavar="REQUESTS", exists=True, dir_okay=False, readable=True, help="The file of requests."),
]
Results = Annotated[Path, typer.Argument(metavar="RESULTS", callback=writable_file, help="The file of results.")]
Errors = Annotated[
    Path | None,
    typer.Option(
        "--errors",
        metavar="FILE",
        callback=writable_file,
        help="The file of lines without an answer. Without it: RESULTS with `.errors` before its last suffix.",
        show_default=False,
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="LLM",
        help="Let this LLM answer, whatever `model` says; may be repeated. `auto`: any LLM.",
        show_default=False,
    ),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Lines without an answer this long after the start fail: 90s, 30m, 24h or 7d.",
        show_default=False,
    ),
]
Open = Annotated[
    int | None,
    typer.Option(
        "--open",
        metavar="N",
        min=1,
        max=100_000,
        help="Lines that may be open at the same time. Without it: twice the sum of max_open of all LLMs, from "
        f"{FEWEST_OPEN} to {MOST_OPEN}.",
        show_default=False,
    ),
]
Tags = Annotated[
    list[str] | None,
    typer.Option(
        "--tags",
        metavar="NAME=VALUE,...",
        help="Tags of every query: `tollgate status` sums what they cost. May be repeated.",
        show_default=False,
    ),
]
Retry = Annotated[bool, typer.Option("--retry", help="Ask the lines in the file of errors again.")]

app = new_app()


@app.command(
    epilog=more_help(
        "tollgate batch requests.jsonl results.jsonl",
        "tollgate batch requests.jsonl results.jsonl --model gpt-4o --deadline 24h",
        exit_0="every line has a result",
        exit_1="some lines have none: see the file of errors",
        exit_2="wrong usage, or the file of requests was refused and nothing was sent",
    )
)
def command(
    requests: Requests,
    results: Results,
    errors_file: Errors = None,
    config: ConfigOption = None,
    model: Model = None,
    deadline: Deadline = None,
    tags: Tags = None,
    most_open: Open = None,
    retry: Retry = False,
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Answer a file of requests in OpenAI's batch format.

    First it checks the whole file. If two lines have the same custom_id, or a line names an LLM that is not
    configured, it sends nothing. Then it sends the requests, and writes each result when it comes. A line that cannot
    be understood, or has no answer, is in the file of errors.

    You may stop it at any time. The same command goes on where it was: nothing is sent or paid twice.

    Without --config it uses ./tollgate.toml or the running demo (`tollgate demo --keep` in another terminal).
    """
    _check_files(requests, results)
    failed = errors_file or results.with_name(f"{results.stem}.errors{results.suffix}")
    if len({path.absolute().resolve() for path in (requests, results, failed)}) < 3:
        raise typer.BadParameter("the files of requests, results and errors must be three files")
    # Both signals stop the batch alike. Python ignores SIGINT in a process that a script started in the background.
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, signal.default_int_handler)
    seconds = None if deadline is None else _seconds(deadline)
    settings = settings_from(config)
    wished, headers = _wished(settings, model or []), _headers(tags or [])
    with working("checking the file") as told:
        plan = check(
            Source(requests),
            Limits.of_queries(settings.limits),
            {*settings.llms},
            wished,
            lambda count: told(f"checking the file: {count:,} lines"),
        )
    if isinstance(plan, Refusal):
        for line in refused(requests, plan, list(settings.llms)):
            typer.echo(line, err=True)
        if json or output is not None:
            present(plan, json, output, lambda _: None)
        raise typer.Exit(2)
    options = Options(
        most_open=most_open or _most_open(settings),
        deadline_ms=None if seconds is None else time.time_ns() // 1_000_000 + seconds * 1000,
        headers=headers,
        retry=retry,
    )
    summary = _run(settings, plan, Outputs(plan, results, failed), options)
    present(summary, json, output, lambda console: show(console, summary))
    if summary.failed:
        raise typer.Exit(1)


def _wished(settings: Settings, models: list[str]) -> tuple[str, ...]:
    if unknown := [name for name in models if name not in (*settings.llms, AUTO)]:
        raise typer.BadParameter(f"--model: there is no LLM {unknown[0]!r}; the LLMs are {', '.join(settings.llms)}")
    return tuple(models)


def _headers(tags: list[str]) -> tuple[tuple[str, bytes], ...]:
    """The headers of every query: its tags."""
    headers = (("tollgate-tags", ",".join(tags).encode()),) if tags else ()
    read = extras.completed(Query(text="-"), headers)
    if isinstance(read, Rejection):
        raise typer.BadParameter(f"--tags: {sentences.reason(read)}")
    return headers


def _check_files(requests: Path, results: Path) -> None:
    """A batch reads its file twice, and goes on in it: a pipe is neither of them."""
    for path in (requests, results):
        if path.exists() and not path.is_file():
            raise typer.BadParameter(f"{path} is not a file on a disk: save it to a file first")


def _run(settings: Settings, plan: Plan, outputs: Outputs, options: Options) -> Summary:
    state_file = state_path(outputs.results.path)
    with locked(state_file):
        outputs.load(options.retry)
        for file in (outputs.results, outputs.errors):
            if file.unreadable:
                typer.echo(f"{file.path}: {file.unreadable} cut line(s) moved to {file.aside.name}", err=True)
        if plan.streams:
            typer.echo(f"stream: true is in {_lines(plan.streams)}; all answers are whole", err=True)
        try:
            with KafkaWire(settings, plan.name) as wire, _progress(len(plan)) as told:
                batch = Batch(plan, outputs, wire, settings.topics, options, told, lambda *what: _warn(settings, *what))
                return batch.run(state_file)
        except KeyboardInterrupt:
            done = sum(outputs.has_ended)
            typer.echo(
                f"stopped: {done:,} of {len(plan):,} lines are done; the same command goes on from here", err=True
            )
            raise


def _seconds(text: str) -> int:
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None or int(found[1]) == 0:
        raise typer.BadParameter("--deadline: write a number and s, m, h or d: 90s, 30m, 24h, 7d")
    return int(found[1]) * UNITS_SECONDS[found[2]]


def _most_open(settings: Settings) -> int:
    """More lines than inference workers call at the same time, so that they never wait for lines."""
    return min(max(FEWEST_OPEN, 2 * sum(llm.max_open for llm in settings.llms.values())), MOST_OPEN)


def refused(requests: Path, refusal: Refusal, llms: Sequence[str]) -> list[str]:
    """Why a file was refused, with every faulty line by its number, and what to do."""
    if refusal.problem is not None:
        return [f"{requests}: the file {refusal.problem}. Nothing was sent."]
    told = [
        (one.lines, f"lines {ranges(one.lines)} have the same custom_id {one.custom_id[:60]!r}")
        for one in refusal.repeated
    ]
    told += [
        (one.lines, f"{_line_word(one.lines)} {ranges(one.lines)}: there is no LLM {one.model[:60]!r}")
        for one in refusal.unknown
    ]
    problems = [f"{requests}: {problem}" for _, problem in told[:SHOWN_PROBLEMS]]
    if rest := sorted(number for numbers, _ in told[SHOWN_PROBLEMS:] for number in numbers):
        problems.append(f"{requests}: the same is wrong with the lines {ranges(rest)}")
    if refusal.repeated:
        problems.append("Give each line its own custom_id.")
    if refusal.unknown:
        problems.append(f"The LLMs are {', '.join(llms) or 'none'}. --model LLM, or --model auto, overrides `model`.")
    return [*problems, "Nothing was sent."]


def _line_word(numbers: Sequence[int]) -> str:
    return "line" if len(numbers) == 1 else "lines"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in ascending order, runs as ranges: 1-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


class Told:
    """Shows where a batch stands: a bar on a terminal, else a line now and then."""

    def __init__(self, bar: Progress, lines: int) -> None:
        self._bar = bar
        self._task = bar.add_task("connecting", total=lines)
        self._told_at = time.monotonic()

    def __call__(self, standing: Standing) -> None:
        done = standing.answered + standing.failed
        failed = f", {standing.failed:,} failed" if standing.failed else ""
        described = f"{standing.open:,} open{failed}, ${usd(standing.spent_micros)}"
        self._bar.update(self._task, description=described, completed=done, total=standing.lines)
        if self._bar.disable and time.monotonic() - self._told_at >= TOLD_SECONDS:
            self._told_at = time.monotonic()
            typer.echo(f"{done:,} of {standing.lines:,} lines: {described}", err=True)


@contextmanager
def _progress(lines: int) -> Iterator[Told]:
    console = errors()
    columns = (BarColumn(30), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield Told(bar, lines)


def _warn(settings: Settings, silence: Silence, count: int) -> None:
    """Say that nothing ends, and what to do."""
    meanings = {
        "worker": f"the consumer group {settings.kafka.group} has no worker: start one with `tollgate run`",
        "decision": "a worker is running and decides nothing: see `tollgate status`",
        "answer": "no inference worker answers: start one with `tollgate infer`, or look at its log",
        "both": "some lines wait for a worker and some for an inference worker: see `tollgate status`",
    }
    typer.echo(f"{count:,} lines are open, and nothing has ended for a while: {meanings[silence]}", err=True)


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count:,} lines"


def show(console: Console, summary: Summary) -> None:
    """Where the lines are, and what they cost."""
    console.print(f"answered  {summary.answered:,} of {summary.lines:,} lines, in {summary.results}")
    if summary.failed:
        codes = ", ".join(f"{count:,} {code}" for code, count in sorted(summary.failed.items()))
        console.print(
            f"failed    {_lines(sum(summary.failed.values()))} ({codes}), in {summary.errors}", style="yellow"
        )
    if summary.earlier:
        console.print(f"earlier   {summary.earlier:,} of these lines had ended before this run")
    if summary.spent:
        rows = [
            (llm, f"{one.answers:,}", usd(one.spent_micros), usd(one.as_reserved_micros))
            for llm, one in sorted(summary.spent.items(), key=lambda item: -item[1].spent_micros)
        ]
        console.print(Figures(("LLM", "answers", "spent (USD)", "of it as reserved"), rows))
    console.print(f"spent     {usd(summary.spent_micros)} USD in {summary.seconds:,} s")
    if summary.unbooked:
        console.print(f"          {summary.unbooked:,} answered lines are not in the books yet: `tollgate status`")
