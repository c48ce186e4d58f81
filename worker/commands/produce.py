"""`tollgate produce`."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from worker.commands.options import ConfigOption, finite, more_help, new_app, settings_from
from worker.commands.output import working
from worker.estimation import demo_data
from worker.estimation.history import read_queries
from worker.kafka import clients
from worker.local.load import LoadGenerator

Count = Annotated[int, typer.Option(metavar="N", min=1, max=10_000_000, help="Number of queries.")]
Rate = Annotated[
    float, typer.Option(metavar="N", min=0, callback=finite, help="Queries per second; 0: as fast as possible.")
]
Table = Annotated[
    Path | None,
    typer.Option(
        metavar="TABLE",
        help="The queries: a table as for `tollgate index build`. Its embeddings are sent: the column `embedding`, or "
        "embeddings*.npy in its directory. If it has none, the texts of its column `prompt` are sent. Without "
        "--history: the questions that `tollgate index build demo` "
        "leaves out.",
        show_default=False,
    ),
]
POLL_SECONDS = 0.2

app = new_app()


@app.command(
    epilog=more_help("tollgate produce --count 2000 --rate 100", "tollgate produce --history history.parquet --rate 0")
)
def command(config: ConfigOption = None, count: Count = 10_000, rate: Rate = 50.0, history: Table = None) -> None:
    """Produce the queries of a table at a steady rate.

    After the last row it begins again at the first. It ends early on SIGTERM or Ctrl-C.
    """
    settings = settings_from(config)
    live = demo_data.split(demo_data.load())[1] if history is None else read_queries(history)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopped.append(received))
    # librdkafka would wait for the broker without a word.
    clients.admin_client(settings)
    load = LoadGenerator(settings, live, count, rate)
    load.start()
    with working("producing") as progress:
        while load.running and not stopped:
            progress(f"{len(load.sent):,} of {count:,} queries")
            time.sleep(POLL_SECONDS)
        load.stop()
    typer.echo(f"{load.finish():,} queries on {settings.topics.queries}")
