"""`tollgate infer`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from worker.commands.options import ConfigOption, settings_from

Llms = Annotated[list[str] | None, typer.Option("--llm", help="Answer for this LLM only; may be given several times.")]
Table = Annotated[Path | None, typer.Option(help="Recorded answers: a table as for `index build`; else the demo's.")]
LatencyMs = Annotated[float, typer.Option(min=0, help="Mean time of an answer.")]
ErrorRate = Annotated[float, typer.Option(min=0, max=1, help="Share of dispatches that fail.")]
Seed = Annotated[int, typer.Option(help="Seed of latencies and errors.")]


def command(
    config: ConfigOption = None,
    llm: Llms = None,
    history: Table = None,
    latency_ms: LatencyMs = 50.0,
    error_rate: ErrorRate = 0.0,
    seed: Seed = 0,
) -> None:
    """Answer dispatches with recorded costs and scores: an inference worker for trying things out.

    A real one calls its LLM instead; the rest is the same. Safe to kill. Example:
    `tollgate infer --llm gpt-4o --latency-ms 200 --error-rate 0.02`
    """
    from worker.contract.errors import FixSetting
    from worker.estimation import demo_data
    from worker.estimation.history import no_embeddings, read_table
    from worker.inference.worker import InferenceWorker, Recorded, Rules
    from worker.service import log

    settings = settings_from(config)
    log.configure(settings.log)
    llms = llm or list(settings.llms)
    if unknown := [name for name in llms if name not in settings.llms]:
        raise FixSetting(f"--llm: {', '.join(unknown)} not among the configured: {', '.join(settings.llms)}")
    recorded = Recorded.of(demo_data.load() if history is None else read_table(history, embed=no_embeddings))
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopped.append(received))
    InferenceWorker(settings, llms, recorded, Rules(latency_ms, error_rate, seed)).run(lambda: bool(stopped))
