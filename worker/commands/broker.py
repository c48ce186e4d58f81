"""`tollgate broker start|stop|status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="A real single-node Kafka on 127.0.0.1, for development.")

Directory = Annotated[Path | None, typer.Option(help="Where its data is; default in the user's cache.")]
Port = Annotated[int, typer.Option(min=0, max=65_535, help="Where it listens; 0 takes a free port.")]


@app.command()
def start(directory: Directory = None, port: Port = 9092) -> None:
    """Start it and leave it running; its data stays. Example: `tollgate broker start --port 9092`"""
    from rich.console import Console

    from worker.contract.errors import FixSetting
    from worker.local.broker import Broker, running

    console, place = Console(), _place(directory)
    if (found := running(place)) is not None:
        raise FixSetting(f"it runs already: process {found[0]}, 127.0.0.1:{found[1]}")
    broker = Broker(place, port, outlives_parent=True)
    with console.status("starting") as status:
        broker.start(status.update)
    console.print(f"Kafka is process {broker.pid}, listening on {broker.bootstrap_servers}; data in {place}")
    console.print("stop it with `tollgate broker stop`")


@app.command()
def stop(directory: Directory = None) -> None:
    """Stop it by its process id. Exit 1 if none runs."""
    from worker.local.broker import stop_standing

    if not stop_standing(_place(directory)):
        typer.echo("none is running")
        raise typer.Exit(1)
    typer.echo("stopped")


@app.command()
def status(directory: Directory = None) -> None:
    """Say whether it runs, and where. Exit 1 if not."""
    from worker.local.broker import running

    found = running(_place(directory))
    if found is None:
        typer.echo("none is running")
        raise typer.Exit(1)
    typer.echo(f"Kafka is process {found[0]}, listening on 127.0.0.1:{found[1]}")


def _place(directory: Path | None) -> Path:
    import platformdirs

    return directory or platformdirs.user_cache_path("tollgate") / "broker"
