"""`tollgate infer`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import structlog
import typer

from worker.commands.options import ConfigOption, finite, logging_settings_from, more_help, new_app
from worker.contract.errors import FixSetting
from worker.contract.settings import Settings
from worker.estimation import demo_data
from worker.estimation.history import no_embeddings, read_table
from worker.inference.answerers import Answerer, LlmAnswerer
from worker.inference.names import claimed_name
from worker.inference.recorded import RecordedAnswers, Rules, TableAnswerer
from worker.inference.worker import InferenceWorker
from worker.kafka import clients
from worker.service.leaving import leave

logger = structlog.get_logger()

Llms = Annotated[
    list[str] | None,
    typer.Option(
        "--llm", metavar="LLM", help="Answer for this LLM only; may be repeated. Without it: all.", show_default=False
    ),
]
Table = Annotated[
    Path | None,
    typer.Option(
        metavar="TABLE",
        help="Call no LLM, and answer from this table, as for `tollgate index build`. Without it: the LLMs that have a "
        "base_url are called; if none has one, the package's data answer.",
        show_default=False,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The worker's own name, the same after a restart. Without it: the host's name and a number.",
        show_default=False,
    ),
]
CallsOnly = Annotated[
    bool,
    typer.Option(
        "--calls-only",
        help="Answer nothing from recorded data: an LLM without a base_url is left to other workers.",
    ),
]
LatencyMs = Annotated[
    float, typer.Option(metavar="N", callback=finite, min=0, help="Table: mean latency of an answer in milliseconds.")
]
ErrorRate = Annotated[
    float, typer.Option(metavar="N", callback=finite, min=0, max=1, help="Table: share of dispatches that fail.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Table: seed of the latencies and errors.")]

app = new_app()


@app.command(
    epilog=more_help(
        "tollgate infer",
        "tollgate infer --llm gpt-4o",
        "tollgate infer --history past.csv --latency-ms 200 --error-rate 0.02",
    )
)
def command(
    config: ConfigOption = None,
    llm: Llms = None,
    history: Table = None,
    calls_only: CallsOnly = False,
    name: Name = None,
    latency_ms: LatencyMs = 50.0,
    error_rate: ErrorRate = 0.0,
    seed: Seed = 0,
) -> None:
    """Run an inference worker: it calls LLMs and publishes their answers.

    It reads the dispatches of its LLMs, sends each to its LLM, and publishes the answer and a completion with the cost.
    It runs until SIGTERM or Ctrl-C, and may be killed at any time: no LLM is called twice for one dispatch.
    """
    if calls_only and history is not None:
        raise typer.BadParameter(
            "--calls-only answers nothing from a table; omit one of the two", param_hint="--history"
        )
    settings = logging_settings_from(config)
    llms = llm or list(settings.llms)
    if unknown := [one for one in llms if one not in settings.llms]:
        raise FixSetting(
            f"--llm: {', '.join(unknown)} is not configured; the LLMs in [llms] are {', '.join(settings.llms)}"
        )
    called = [one for one in llms if settings.llms[one].base_url]
    if calls_only and not called:
        _wait(llms)
        return
    answerer: Answerer
    if calls_only or (history is None and called):
        answerer, llms = _calling(settings, called, llms), called
    else:
        recorded = RecordedAnswers.of(demo_data.load() if history is None else read_table(history, embed=no_embeddings))
        answerer = TableAnswerer(recorded, Rules(latency_ms, error_rate, seed))
    clients.give_way()
    # librdkafka would wait for the broker without a word.
    clients.admin_client(settings)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopped.append(received))
    with nullcontext(name) if name is not None else claimed_name(settings.kafka.group) as own_name:
        asyncio.run(InferenceWorker(settings, llms, answerer, own_name).run(lambda: bool(stopped), leave))


def _wait(llms: Sequence[str]) -> None:
    """There is nothing to call: say so, and wait for SIGTERM or SIGINT."""
    logger.warning("nothing_to_call", llms=llms, remedy="set llms.<name>.base_url, and start again")
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    signal.sigwait(ends)


def _calling(settings: Settings, called: Sequence[str], llms: Sequence[str]) -> LlmAnswerer:
    """The LLMs that are called, said in the log with their addresses and proxies; keys are not."""
    for one in called:
        llm = settings.llms[one]
        logger.info("llm_called", llm=one, base_url=llm.base_url, proxy=llm.proxy, dialects=llm.dialects)
    if left := [one for one in llms if one not in called]:
        logger.warning("llms_not_called", llms=left, remedy="set llms.<name>.base_url, or leave them to other workers")
    return LlmAnswerer(settings, {one: settings.llms[one] for one in called})
