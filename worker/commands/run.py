"""`tollgate run`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from worker.commands.options import ConfigOption, settings_from


def command(
    config: ConfigOption = None,
    web_port: Annotated[
        int | None, typer.Option(help="Port of /metrics, /healthz and /readyz; 0 takes a free one.")
    ] = None,
) -> None:
    """Run a worker: route the queries of its partitions until SIGTERM or Ctrl-C.

    Start as many as you like with the same settings: they share the partitions as one consumer group, and take over
    from each other when one ends. Example: `tollgate run --config tollgate.toml`
    """
    from worker.service import app, log

    flags: dict[str, Any] = {} if web_port is None else {"web": {"port": web_port}}
    settings = settings_from(config, flags)
    log.configure(settings.log)
    app.run(settings)
