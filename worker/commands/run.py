"""`tollgate run`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from worker.commands.options import ConfigOption, logging_settings_from, more_help, new_app
from worker.service import app as service

WebPort = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        max=65_535,
        help="Port of /metrics, /healthz and /readyz; 0 takes a free one. Without it: web.port.",
        show_default=False,
    ),
]

app = new_app()


@app.command(
    epilog=more_help(
        "tollgate run --config tollgate.toml",
        "tollgate run --web-port 0",
        exit_0="ended by SIGTERM or Ctrl-C",
        exit_3="the broker cannot be reached, or a transaction failed: start the worker again",
    )
)
def command(config: ConfigOption = None, web_port: WebPort = None) -> None:
    """Run a worker that routes queries.

    It runs until SIGTERM or Ctrl-C. Start as many workers as there are partitions, with the same settings: they share
    the partitions as one consumer group. When a worker ends, the others take over its partitions.
    """
    flags: dict[str, Any] = {} if web_port is None else {"web": {"port": web_port}}
    service.run(logging_settings_from(config, flags))
