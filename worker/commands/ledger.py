"""`tollgate ledger rebuild|accept`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import typer

from worker.audit.rehome import Rehomed, accept, rebuild
from worker.audit.run_replay import load_estimator, prior_of
from worker.commands.options import ConfigOption, more_help, new_app, settings_from
from worker.contract.settings import Settings
from worker.core.router import Prior
from worker.kafka.reader import KafkaReader
from worker.kafka.refill import KafkaRefill
from worker.service.committer import Kafka

SAID = {
    "rebuilt": "rebuilt from {decisions:,} decisions",
    "accepted": "goes on in its new home after {decisions:,} decisions",
    "has_rows": "has its rows: nothing to rebuild",
    "no_decisions": "has decided nothing",
    "at_home": "is at home: nothing to accept",
}


class Part(StrEnum):
    """What of a home can be accepted."""

    QUERIES = "queries"
    COMPLETIONS = "completions"
    DECISIONS = "decisions"
    GROUP = "group"


Parts = Annotated[list[Part], typer.Argument(metavar="PART...", help="queries, completions, decisions or group.")]

app = new_app(no_args_is_help=True)


@app.callback(epilog=more_help("tollgate ledger rebuild", "tollgate ledger accept queries"))
def group() -> None:
    """Mend the ledger when a topic was lost or changed.

    Stop all workers first. docs/how-to/lost-topics.md says which command helps when.
    """


@app.command("rebuild", epilog=more_help("tollgate ledger rebuild", exit_1="a chain of decisions is broken"))
def rebuild_command(config: ConfigOption = None) -> None:
    """Make the ledger from `decisions`, if it was lost.

    Each partition is decided again from its newest checkpoint. A partition that has rows is not changed.
    """
    settings = settings_from(config)
    _show(rebuild(settings, _prior(settings), _kafka(settings), KafkaRefill(settings)))


@app.command("accept", epilog=more_help("tollgate ledger accept queries", "tollgate ledger accept group"))
def accept_command(parts: Parts, config: ConfigOption = None) -> None:
    """Let the lanes go on with a topic that was made anew, or with another consumer group.

    Only the parts that you name are accepted; a missing topic of them is created. Stop the producers of `queries` and
    the inference workers of `completions` too: records that came in meanwhile are moved behind the applied offset.
    """
    settings = settings_from(config)
    names = [part.value for part in parts]
    _show(accept(settings, _prior(settings), _kafka(settings), KafkaRefill(settings), names))


def _kafka(settings: Settings) -> Kafka:
    return Kafka(KafkaReader(settings))


def _prior(settings: Settings) -> Prior:
    return prior_of(load_estimator(settings, required=True))


def _show(partitions: Iterable[Rehomed]) -> None:
    for done in partitions:
        copied = f"; {done.copied:,} records were moved" if done.copied else ""
        typer.echo(f"partition {done.partition} {SAID[done.what].format(decisions=done.decisions)}{copied}")
