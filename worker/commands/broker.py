"""`tollgate broker start|stop|status`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import platformdirs
import typer

from worker.commands.options import more_help, new_app, writable_directory
from worker.commands.output import working
from worker.contract.errors import FixSetting
from worker.local.broker import Broker, running, stop_standing

Directory = Annotated[
    Path | None,
    typer.Option(
        metavar="DIRECTORY", help="The broker's directory. Without it: a directory in your cache.", show_default=False
    ),
]
NewDirectory = Annotated[
    Path | None,
    typer.Option(
        metavar="DIRECTORY",
        help="The broker's directory, for its data and its log. Without it: a directory in your cache.",
        callback=writable_directory,
        show_default=False,
    ),
]
Port = Annotated[int, typer.Option(metavar="N", min=0, max=65_535, help="The port on 127.0.0.1; 0 takes a free one.")]

app = new_app(no_args_is_help=True)


@app.callback(
    epilog=more_help(
        "tollgate broker start", "tollgate broker start --port 0 --directory ./kafka", exit_1="no broker is running"
    )
)
def group() -> None:
    """Start and stop a Kafka broker for development.

    The broker is a real Apache Kafka with one node, on 127.0.0.1. It needs no Docker and no Java. Its data stays in its
    directory when it is stopped.
    """


@app.command(epilog=more_help("tollgate broker start", "tollgate broker start --port 0 --directory ./kafka"))
def start(directory: NewDirectory = None, port: Port = 9092) -> None:
    """Start a broker, and leave it running.

    The first start downloads Kafka.
    """
    place = _place(directory)
    if (found := running(place)) is not None:
        raise FixSetting(f"a broker is already running: process {found[0]}, 127.0.0.1:{found[1]}")
    broker = Broker(place, port, outlives_parent=True)
    with working("starting Kafka") as progress:
        broker.start(progress)
    typer.echo(f"Kafka is process {broker.pid}, listening on {broker.bootstrap_servers}; its data is in {place}")
    typer.echo(f"stop it with `tollgate broker stop{_same(directory)}`")


@app.command(epilog=more_help("tollgate broker stop", exit_1="no broker is running"))
def stop(directory: Directory = None) -> None:
    """Stop the broker. Its data stays."""
    if not stop_standing(_place(directory)):
        raise _not_running(directory)
    typer.echo("stopped")


@app.command(epilog=more_help("tollgate broker status", exit_1="no broker is running"))
def status(directory: Directory = None) -> None:
    """Show whether the broker is running, and its address."""
    found = running(_place(directory))
    if found is None:
        raise _not_running(directory)
    typer.echo(f"Kafka is process {found[0]}, listening on 127.0.0.1:{found[1]}")


def _not_running(directory: Path | None) -> typer.Exit:
    typer.echo(f"no broker is running in {_place(directory)}; start one with `tollgate broker start{_same(directory)}`")
    return typer.Exit(1)


def _same(directory: Path | None) -> str:
    """The option that names the same broker again."""
    return "" if directory is None else f" --directory {shlex.quote(str(directory))}"


def _place(directory: Path | None) -> Path:
    return directory or platformdirs.user_cache_path("tollgate") / "broker"
