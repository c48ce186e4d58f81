"""`tollgate produce`."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from worker.commands.options import ConfigOption, settings_from

Count = Annotated[int, typer.Option(min=1, max=10_000_000, help="How many queries.")]
Rate = Annotated[float, typer.Option(min=0, help="Queries a second; 0: as fast as it goes.")]
Table = Annotated[Path | None, typer.Option(help="Queries: a table as for `index build`, with embeddings beside it.")]
POLL_SECONDS = 0.2


def command(config: ConfigOption = None, count: Count = 10_000, rate: Rate = 50.0, history: Table = None) -> None:
    """Produce recorded queries at a steady rate, for trying things out.

    Without a table, the questions that `tollgate index build demo` leaves out; past the last one it begins again.
    Ends early on SIGTERM or Ctrl-C. Example: `tollgate produce --count 2000 --rate 100`
    """
    from rich.console import Console

    from worker.estimation import demo_data
    from worker.estimation.history import read_table
    from worker.local.load import Feeder

    settings = settings_from(config)
    live = demo_data.split(demo_data.load())[1] if history is None else read_table(history)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopped.append(received))
    feeder, console = Feeder(settings, live, count, rate), Console()
    feeder.start()
    with console.status("producing") as status:
        while feeder.running and not stopped:
            status.update(f"{len(feeder.sent):,} of {count:,} queries")
            time.sleep(POLL_SECONDS)
        feeder.stop()
    console.print(f"{feeder.finish():,} queries on {settings.topics.queries}")
