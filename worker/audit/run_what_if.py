"""Plays the topics of a running or stopped system under another configuration. Writes to no topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
from msgspec import Struct

from worker.audit.chain import DecisionRecord, decoded
from worker.audit.inputs import Stream
from worker.audit.mismatch import Mismatch
from worker.audit.outcomes import Served, Tally
from worker.audit.propensity import Explored
from worker.audit.run_replay import estimates_by, prior_of, stream
from worker.audit.topics import PartitionTopics
from worker.audit.what_if import Change, WhatIf
from worker.contract.decisions import Checkpoint, Configured
from worker.contract.errors import CheckFailed, FixSetting
from worker.contract.record import Record
from worker.contract.settings import Settings
from worker.contract.usage import MICROS_PER_USD
from worker.core.events import Arrived
from worker.core.partition_config import share
from worker.estimation.estimator import Estimator
from worker.kafka.reader import KafkaReader, OpenReader, Progress, Reader, silent
from worker.service import index_in_use


class Side(Struct, frozen=True):
    """What came of the queries, in all partitions: deferred by reason, and served by LLM and in total."""

    deferred: dict[str, int]
    total: Served
    llms: dict[str, Served]


class Comparison(Struct, frozen=True):
    """What really happened beside what would have. `notes` say what is known and what is estimated.

    `explored_quality` is the other side's true quality per query by inverse propensity, from the queries that the
    policy had drawn at random (`explored`); None where no answer to a draw was judged.
    """

    queries: int
    real: Side
    other: Side
    explored: Explored
    explored_quality: float | None
    notes: list[str]


CAVEAT = (
    "only the chosen LLM's answer is known: where the other configuration chooses another, cost and quality are "
    "estimates, and a choice made by estimates looks better by them than it is"
)


def what_if(
    settings: Settings,
    change: Change,
    amounts: Mapping[str, Decimal],
    directory: Path | None,
    progress: Progress,
    open_reader: OpenReader = KafkaReader,
) -> Comparison:
    """Play every partition under `change`, with the budgets split as the lanes split them.

    `amounts` are other amounts of budgets, by name: US dollars, tokens, requests or open dispatches. `directory` names
    another index to estimate by. Raises CheckBroker, FixSetting, and CheckFailed where the decisions have lost their
    beginning and hold no checkpoint.
    """
    estimator = index_in_use.load(settings, directory)
    partitions = settings.kafka.partitions
    with open_reader(settings, silent) as reader:
        scene = Scene(settings, reader, estimator, directory is not None, progress)
        played = [
            scene.play(partition, msgspec.structs.replace(change, amounts=_shares(settings, amounts, partition)))
            for partition in range(partitions)
        ]
    explored = Explored()
    for one in played:
        explored = explored.plus(one.exploration.explored)
    return Comparison(
        queries=sum(one.real.queries for one in played),
        real=_side([one.real for one in played]),
        other=_side([one.other for one in played]),
        explored=explored,
        explored_quality=explored.quality,
        notes=[CAVEAT, *scene.notes()],
    )


def _shares(settings: Settings, amounts: Mapping[str, Decimal], partition: int) -> dict[str, int]:
    """The amounts of one partition, in whole units. A budget that is not in [budgets] is that of an LLM."""
    counted = {name for name, budget in settings.budgets.items() if budget.resource != "usd"}
    units = {name: int(amount * (1 if name in counted else MICROS_PER_USD)) for name, amount in amounts.items()}
    return {name: share(total, settings.kafka.partitions, partition) for name, total in units.items()}


class Scene:
    """The topics and the index that partitions are played with; `again` estimates every query by that index."""

    def __init__(
        self, settings: Settings, reader: Reader, estimator: Estimator, again: bool, progress: Progress
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._estimator = estimator
        self._again = again
        self._progress = progress
        self._gone = 0
        self._indexes: set[str] = set()
        self._late: list[str] = []
        self._other_llms: list[str] = []

    def play(self, partition: int, change: Change) -> WhatIf:
        """One partition, from the first decision that a beginning can be made at to its end as it is now."""
        topics = self._settings.topics
        read = PartitionTopics(self._reader, partition)
        queries = stream(read, topics.queries)
        estimates = Reestimates(self._settings, self._estimator, queries) if self._again else None
        llms = self._estimator.manifest.llms
        played = WhatIf(partition, prior_of(self._estimator), change, estimates, llms)
        played.run(self._decisions(partition, read.read([topics.decisions])))
        self._gone += queries.gone
        self._check_beginning(played)
        return played

    def _check_beginning(self, played: WhatIf) -> None:
        name = f"{self._settings.topics.decisions}/{played.partition}"
        if played.begins == "nowhere" and played.other_llms:
            raise CheckFailed(
                f"{name}: all decisions were made with other LLMs than those of the index, or no checkpoint was "
                "written since they changed; prices cannot be reproduced. Try again after routing.checkpoint_every "
                "transactions"
            )
        if played.other_llms:
            self._other_llms.append(name)
        elif played.begins == "nowhere" and played.skipped:
            raise CheckFailed(f"{name}: has lost its beginning and holds no checkpoint; nothing can be compared")
        elif played.begins == "checkpoint":
            self._late.append(name)

    def notes(self) -> list[str]:
        """What about the index and the topics the reader should know."""
        notes = []
        if self._late:
            notes.append(
                f"{', '.join(self._late)}: the beginning has left the topic; both sides begin at the first checkpoint "
                "kept, with the accounts of then, and what was dispatched before it is in neither"
            )
        if self._other_llms:
            notes.append(
                f"{', '.join(self._other_llms)}: earlier decisions were made with other LLMs than those of the index; "
                "both sides begin at the first checkpoint after them, with the accounts of then"
            )
        if self._gone:
            notes.append(f"{self._gone:,} queries have left their topic and keep the estimates that they had")
        if not self._again and self._indexes - {self._estimator.manifest.index}:
            notes.append("the decisions were made on another index: the first prices come from this one's history")
        return notes

    def _decisions(self, partition: int, records: Iterable[Record]) -> Iterator[DecisionRecord]:
        for record in records:
            found = decoded(record)
            if isinstance(found, Mismatch):
                raise CheckFailed(str(found))
            if isinstance(found.decision, Configured | Checkpoint) and found.decision.config is not None:
                self._indexes.add(found.decision.config.index)
            self._progress(f"partition {partition}", 1)
            yield found


class Reestimates:
    """Estimates of another index for the queries as they came in; a query that has left its topic keeps its own."""

    def __init__(self, settings: Settings, estimator: Estimator, queries: Stream) -> None:
        self._estimate = estimates_by(settings, estimator, settings.price_lists(datetime.now(UTC)))
        self._queries = queries

    def __call__(self, query: Arrived) -> Arrived:
        found = self._queries.at(query.offset, self._estimate)
        estimated = None if found is None else found[1]
        if not isinstance(estimated, Arrived):
            return query
        if len(estimated.quality) != len(query.quality):
            raise FixSetting("--index: it has other LLMs than those that were decided on")
        return msgspec.structs.replace(query, quality=estimated.quality, cost_micros=estimated.cost_micros)


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
