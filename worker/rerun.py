"""Replays the decisions of a running or stopped system from its topics, partition by partition."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
from msgspec import Struct

from worker import clients, index
from worker.embedder import load_embedder
from worker.errors import FixSetting
from worker.estimator import Estimator
from worker.events import Event
from worker.intake import Intake
from worker.messages import AccountRow
from worker.metrics import Metrics
from worker.originals import Originals, Stream
from worker.reader import PATIENCE_SECONDS, Progress, Reader, silent
from worker.recall import Recall
from worker.record import StoredRecord
from worker.replay import Anchor, Divergence, Evidence, Replay
from worker.router import Prior
from worker.settings import Settings
from worker.solutions import Solutions
from worker.witness import Witness


class Limit(Struct, frozen=True):
    """An offset of `decisions`, or a time in milliseconds since the epoch."""

    offset: int | None = None
    at_ms: int | None = None


@dataclass(frozen=True)
class Task:
    """What to replay. Without `partitions` all; `start` begins at the first checkpoint from there on."""

    partitions: tuple[int, ...] = ()
    start: Limit | None = None
    end: Limit | None = None
    estimates: Literal["recorded", "index"] = "recorded"
    anchors: Mapping[int, Anchor] = field(default_factory=dict)


class Replayed(Struct, frozen=True):
    """The result for one partition. `compared` records came out the same; `divergence` is the first that did not.

    Prices were solved again and were the same (`prices_exact`), nearly the same (`prices_close`), or were taken as
    recorded, for want of the index that the lane had (`prices_taken`). `gone_*` inputs have left their topics.
    `anchored` is None where there was no anchor, False where the replay began after it.
    """

    partition: int
    compared: int
    skipped: int
    first_offset: int | None
    prices_exact: int
    prices_close: int
    prices_taken: int
    estimates_exact: int
    estimates_close: int
    gone_queries: int
    gone_completions: int
    anchored: bool | None
    head: Anchor | None
    divergence: Divergence | None
    seconds: float


def replay(settings: Settings, task: Task, progress: Progress = silent) -> Iterator[Replayed]:
    """Replay each partition of a task. Raises CheckBroker, and FixSetting where the index is asked for and missing."""
    estimator = load_estimator(settings, task.estimates == "index")
    partitions = task.partitions or range(settings.kafka.partitions)
    with Reader(settings, progress) as reader:
        rows = _rows(settings, reader) if task.end is None else {}
        for partition in partitions:
            yield Rerun(settings, task, estimator, partition, reader).run(rows.get(partition), progress)


def load_estimator(settings: Settings, required: bool) -> Estimator | None:
    """The configured index; None if it cannot be loaded and is not required. Raises FixSetting."""
    try:
        return index.load(settings.index.directory)
    except FixSetting:
        if required:
            raise
        return None


def prior_of(estimator: Estimator | None) -> Prior:
    """What prices are solved on before there are queries; empty without an index."""
    if estimator is None:
        return Prior(np.empty((0, 0)), np.empty((0, 0)))
    return Prior(estimator.prior.quality, estimator.prior.cost_micros.astype(float))


def _rows(settings: Settings, reader: Reader) -> dict[int, AccountRow | None]:
    """The account rows now: what a replay to the end must come to."""
    witnesses = [Witness(partition) for partition in range(settings.kafka.partitions)]

    def take(record: StoredRecord) -> None:
        witnesses[record.partition].read(record)

    reader.read(reader.oldest((settings.topics.ledger, witness.partition) for witness in witnesses), take)
    return {witness.partition: witness.row for witness in witnesses}


class Rerun:
    """One partition's replay with the topics that it reads."""

    def __init__(
        self, settings: Settings, task: Task, estimator: Estimator | None, partition: int, reader: Reader
    ) -> None:
        self._settings = settings
        self._task = task
        self._partition = partition
        self._reader = reader
        self._estimator = estimator
        topics = settings.topics
        self._place = (topics.decisions, partition)
        read = (topics.queries, topics.completions, topics.decisions)
        self._oldest = reader.oldest((topic, partition) for topic in read)

    def run(self, row: AccountRow | None, progress: Progress) -> Replayed:
        """Replay it; `row` is the account row that the end must agree with."""
        started = time.monotonic()
        solutions = Solutions(None if self._estimator is None else self._estimator.manifest.index)
        originals = self._originals()
        anchor = self._task.anchors.get(self._partition)
        replay = Replay(
            self._partition, self._place[0], prior_of(self._estimator), solutions, Evidence(originals, anchor, row)
        )
        self._feed(replay, row, progress)
        self._check_beginning(replay, row)
        return Replayed(
            partition=self._partition,
            compared=replay.compared,
            skipped=replay.skipped,
            first_offset=replay.first_offset,
            prices_exact=solutions.exact,
            prices_close=solutions.close,
            prices_taken=solutions.taken,
            estimates_exact=originals.exact,
            estimates_close=originals.close,
            gone_queries=originals.queries.gone,
            gone_completions=originals.completions.gone,
            anchored=None if anchor is None else replay.anchored,
            head=replay.head(),
            divergence=replay.divergence,
            seconds=round(time.monotonic() - started, 3),
        )

    def _feed(self, replay: Replay, row: AccountRow | None, progress: Progress) -> None:
        position, end = self._offset(self._task.start) or 0, self._offset(self._task.end)
        patience = None
        while True:
            # The last stable offset is where a transaction ends; the high watermark may be inside of one.
            stable = self._reader.ends([self._place])[self._place]
            until = stable if end is None else min(stable, end)
            for record in clients.read_partition(self._settings, *self._place, position, until):
                replay.feed(record)
                position = record.offset + 1
                progress(f"partition {self._partition}", 1)
                if replay.divergence is not None:
                    return
            # What the account row already counts may take a moment to be visible here.
            patience = patience or time.monotonic() + PATIENCE_SECONDS
            if row is None or replay.arrived or replay.router is None or time.monotonic() > patience:
                break
        if end is None:
            replay.finish()

    def _offset(self, limit: Limit | None) -> int | None:
        if limit is None or limit.at_ms is None:
            return None if limit is None else limit.offset
        offset = self._reader.at([self._place], limit.at_ms)[self._place]
        return offset if offset >= 0 else self._reader.ends([self._place])[self._place]

    def _check_beginning(self, replay: Replay, row: AccountRow | None) -> None:
        if self._task.start is None and replay.skipped and self._oldest[self._place] == 0:
            replay.gap("the records before the first checkpoint do not begin the chain: its beginning was removed")
        elif replay.router is None and (replay.skipped or row is not None):
            replay.gap("there is neither the chain's beginning nor a checkpoint to begin at")

    def _originals(self) -> Originals:
        settings, topics = self._settings, self._settings.topics

        def stream(topic: str) -> Stream:
            read = partial(clients.read_partition, settings, topic, self._partition)
            return Stream(read, self._oldest[topic, self._partition])

        estimator = self._estimator if self._task.estimates == "index" else None
        estimate = None if estimator is None else estimates_by(settings, estimator)
        return Originals(settings.limits, stream(topics.queries), stream(topics.completions), estimate)


def estimates_by(settings: Settings, estimator: Estimator) -> Callable[[list[StoredRecord]], list[Event]]:
    """A function from query records to their events, estimated by this index."""
    intake = Intake(settings, estimator, load_embedder(estimator.manifest.embedder), Recall(settings), Metrics())
    return lambda records: intake.prepare(records, lambda _: False).events
