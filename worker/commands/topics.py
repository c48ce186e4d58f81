"""`tollgate topics create|check`."""

from __future__ import annotations

import typer

from worker.commands.options import ConfigOption, more_help, new_app, settings_from
from worker.kafka import admin

app = new_app(no_args_is_help=True)


@app.callback(epilog=more_help("tollgate topics create", "tollgate topics check", exit_1="a topic is not correct"))
def group() -> None:
    """Create the topics, or check them.

    Every topic has `kafka.partitions` partitions; partition p of all topics belongs together.
    """


@app.command(epilog=more_help("tollgate topics create --config tollgate.toml"))
def create(config: ConfigOption = None) -> None:
    """Create each topic that does not exist. A topic that exists is not changed.

    If `ledger` or `decisions` is missing from a system that has decided something, nothing is created: a new one would
    be empty, and what was spent would be forgotten.
    """
    made = admin.create(settings_from(config))
    typer.echo(f"{len(made)} topics created" + "".join(f"\n  {name}" for name in made))


@app.command(epilog=more_help("tollgate topics check", exit_1="a topic is not correct"))
def check(config: ConfigOption = None) -> None:
    """Check the partitions, the compaction, the record sizes, the retention, the replicas and the times of each topic.

    `tollgate run` does not start on a problem that would tear or refuse records. Of the others it warns.
    """
    problems = admin.check(settings_from(config))
    for problem in problems:
        typer.echo(str(problem))
    if problems:
        raise typer.Exit(1)
    typer.echo("all topics are correct")
