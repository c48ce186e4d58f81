"""`tollgate topics`."""

from __future__ import annotations

import typer

from worker.commands.options import ConfigOption, settings_from

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Create or check the topics.")


@app.command()
def create(config: ConfigOption = None) -> None:
    """Create every topic that is missing; what exists is left as it is. Example: `tollgate topics create -c t.toml`"""
    from worker.kafka import admin

    made = admin.create(settings_from(config))
    typer.echo(f"{len(made)} topics created" + "".join(f"\n  {name}" for name in made))


@app.command()
def check(config: ConfigOption = None) -> None:
    """Check every topic: partitions, compaction, record sizes. Exit 1 if one is not as it must be."""
    from worker.kafka import admin

    problems = admin.check(settings_from(config))
    for problem in problems:
        typer.echo(str(problem))
    if problems:
        raise typer.Exit(1)
    typer.echo("all topics are as they must be")
