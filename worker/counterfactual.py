"""Plays the topics of a running or stopped system under another configuration. Writes to no topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from worker import clients, index, wire
from worker.embedder import load_embedder
from worker.errors import CheckFailed, FixSetting
from worker.estimator import Estimator
from worker.events import Arrived, Event
from worker.intake import Intake
from worker.messages import Configured, Decision
from worker.metrics import Metrics
from worker.originals import Stream
from worker.reader import Progress, Reader
from worker.recall import Recall
from worker.record import StoredRecord
from worker.rerun import prior_of
from worker.settings import MICROS_PER_USD, Settings
from worker.tally import Served, Tally
from worker.whatif import Change, WhatIf


class Side(Struct, frozen=True):
    """What came of the queries, in all partitions: deferred by reason, and served by LLM and in total."""

    deferred: dict[str, int]
    total: Served
    llms: dict[str, Served]


class Comparison(Struct, frozen=True):
    """What really happened beside what would have. `notes` say what is known and what is estimated.

    `explored_quality` is the other side's quality per query by inverse propensity, from `explored` queries that the
    policy had drawn at random; None where it explored nothing.
    """

    queries: int
    real: Side
    other: Side
    explored: int
    explored_quality: float | None
    notes: list[str]


CAVEAT = (
    "only the chosen LLM's answer is known: where the other configuration chooses another, cost and quality are "
    "estimates, and a choice made by estimates looks better by them than it is"
)


def what_if(
    settings: Settings,
    change: Change,
    budgets_usd: Mapping[str, Decimal],
    directory: Path | None,
    progress: Progress,
) -> Comparison:
    """Play every partition under `change`, with the budgets split as the lanes split them.

    `directory` names another index to estimate by. Raises CheckBroker, FixSetting, and CheckFailed where the decisions
    have lost their beginning.
    """
    estimator = index.load(directory or settings.index.directory)
    played = [
        _play(
            settings,
            _of_partition(change, budgets_usd, settings.kafka.partitions, partition),
            partition,
            estimator,
            directory is not None,
            progress,
        )
        for partition in range(settings.kafka.partitions)
    ]
    explored = sum(one.explored for one in played)
    weighted = sum(one.weighted_quality for one in played)
    return Comparison(
        queries=sum(one.real.queries for one in played),
        real=_side([one.real for one in played]),
        other=_side([one.other for one in played]),
        explored=explored,
        explored_quality=weighted / explored if explored else None,
        notes=[CAVEAT],
    )


def _of_partition(change: Change, budgets_usd: Mapping[str, Decimal], partitions: int, partition: int) -> Change:
    """The change as one partition sees it: budgets split exactly, what does not divide to the lowest partitions."""
    budgets = {}
    for llm, usd in budgets_usd.items():
        micros = int(usd * MICROS_PER_USD)
        budgets[llm] = micros // partitions + (partition < micros % partitions)
    return msgspec.structs.replace(change, budget_micros=budgets)


def _play(
    settings: Settings, change: Change, partition: int, estimator: Estimator, again: bool, progress: Progress
) -> WhatIf:
    with Reader(settings, progress) as reader:
        places = [(settings.topics.decisions, partition), (settings.topics.queries, partition)]
        oldest, ends = reader.oldest(places), reader.ends(places)
    estimates = None
    if again:
        read = partial(clients.read_partition, settings, settings.topics.queries, partition)
        estimates = Reestimates(settings, estimator, Stream(read, oldest[places[1]]))
    played = WhatIf(partition, prior_of(estimator), change, estimates)
    played.run(_decisions(settings, partition, ends[places[0]], progress))
    return played


def _decisions(settings: Settings, partition: int, end: int, progress: Progress) -> Iterator[Decision]:
    first = True
    for record in clients.read_partition(settings, settings.topics.decisions, partition, None, end):
        decision = wire.decode_decision(record.value or b"")
        if first and not (isinstance(decision, Configured) and not decision.prev):
            raise CheckFailed(
                f"{record.topic}/{partition}: the decisions have lost their beginning; nothing to compare"
            )
        first = False
        progress(f"partition {partition}", 1)
        yield decision


class Reestimates:
    """Estimates of another index for the queries as they came in; a query that has left its topic keeps its own."""

    def __init__(self, settings: Settings, estimator: Estimator, queries: Stream) -> None:
        embedder = load_embedder(estimator.manifest.embedder)
        self._intake = Intake(settings, estimator, embedder, Recall(settings), Metrics())
        self._queries = queries

    def __call__(self, query: Arrived) -> Arrived:
        found = self._queries.at(query.offset, self._prepare)
        estimated = None if found is None else found[1]
        if not isinstance(estimated, Arrived):
            return query
        if len(estimated.quality) != len(query.quality):
            raise FixSetting("--index: it has other LLMs than those that were decided on")
        return msgspec.structs.replace(query, quality=estimated.quality, cost_micros=estimated.cost_micros)

    def _prepare(self, records: list[StoredRecord]) -> list[Event]:
        return self._intake.prepare(records, lambda _: False).events


def _side(tallies: list[Tally]) -> Side:
    deferred: Counter[str] = Counter()
    llms: dict[str, Served] = {}
    total = Served()
    for tally in tallies:
        deferred += tally.deferred
        total = total.plus(tally.total())
        for llm, served in tally.llms.items():
            llms[llm] = llms.get(llm, Served()).plus(served)
    return Side(dict(deferred.most_common()), total, llms)
