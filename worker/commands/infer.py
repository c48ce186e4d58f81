"""`tollgate infer`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from worker.commands.options import ConfigOption, finite, more_help, new_app, settings_from
from worker.contract.errors import FixSetting
from worker.estimation import demo_data
from worker.estimation.history import no_embeddings, read_table
from worker.inference.answers import RecordedAnswers, Rules, TableAnswerer
from worker.inference.worker import InferenceWorker
from worker.kafka import clients
from worker.service import log

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
        help="The recorded answers: a table as for `tollgate index build`. Without it: the package's data.",
        show_default=False,
    ),
]
LatencyMs = Annotated[
    float, typer.Option(metavar="N", callback=finite, min=0, help="Mean latency of an answer in milliseconds.")
]
ErrorRate = Annotated[
    float, typer.Option(metavar="N", callback=finite, min=0, max=1, help="Share of dispatches that fail.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the latencies and errors.")]

app = new_app()


@app.command(epilog=more_help("tollgate infer", "tollgate infer --llm gpt-4o --latency-ms 200 --error-rate 0.02"))
def command(
    config: ConfigOption = None,
    llm: Llms = None,
    history: Table = None,
    latency_ms: LatencyMs = 50.0,
    error_rate: ErrorRate = 0.0,
    seed: Seed = 0,
) -> None:
    """Run an inference worker that answers from a table.

    It reads the dispatches of its LLMs, and answers each with the cost and score that the table records. A real
    inference worker calls its LLM instead. It runs until SIGTERM or Ctrl-C, and may be killed at any time: a dispatch
    that was not answered is answered by another inference worker, or after a restart.
    """
    settings = settings_from(config)
    log.configure(settings.log)
    llms = llm or list(settings.llms)
    if unknown := [name for name in llms if name not in settings.llms]:
        raise FixSetting(
            f"--llm: {', '.join(unknown)} is not configured; the LLMs in [llms] are {', '.join(settings.llms)}"
        )
    recorded = RecordedAnswers.of(demo_data.load() if history is None else read_table(history, embed=no_embeddings))
    # librdkafka would wait for the broker without a word.
    clients.admin_client(settings)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopped.append(received))
    answerer = TableAnswerer(recorded, Rules(latency_ms, error_rate, seed))
    InferenceWorker(settings, llms, answerer).run(lambda: bool(stopped))
