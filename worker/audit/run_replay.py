"""Replays the decisions of a running or stopped system from its topics, partition by partition."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Literal

import numpy as np
from msgspec import Struct

from worker.audit.chain import Anchor
from worker.audit.divergence import Divergence
from worker.audit.evidence import Evidence
from worker.audit.input_check import Originals
from worker.audit.inputs import Stream
from worker.audit.ledger_view import LedgerView
from worker.audit.recorded_prices import Solutions
from worker.audit.replay import Replay
from worker.contract.errors import FixSetting
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.core.events import Event
from worker.core.partition_config import configuration
from worker.core.router import Prior
from worker.estimation import index
from worker.estimation.estimator import Estimator
from worker.kafka.reader import PATIENCE_SECONDS, KafkaReader, OpenReader, Place, Progress, Reader, silent
from worker.service.prepare import Preparer, event

# Showing progress for each record would take as long as deciding it again.
BLOCK_RECORDS = 1_000


class Limit(Struct, frozen=True):
    """An offset of `decisions`, or a time in milliseconds since the epoch."""

    offset: int | None = None
    at_ms: int | None = None


@dataclass(frozen=True)
class Task:
    """What to replay. Without `partitions` all; `start` begins at the first checkpoint from there on, `end` ends before
    the first event from there on."""

    partitions: tuple[int, ...] = ()
    start: Limit | None = None
    end: Limit | None = None
    estimates: Literal["recorded", "index"] = "recorded"
    anchors: Mapping[int, Anchor] = field(default_factory=dict)


class Replayed(Struct, frozen=True):
    """The result for one partition. `compared` records came out the same; `divergence` is the first that did not.

    `whole`: it began with the chain, not at a checkpoint. Prices were solved again and were the same (`prices_exact`),
    nearly the same (`prices_close`), or were taken as recorded, for want of the index that the lane had
    (`prices_taken`). Estimates were taken as recorded where index `index_missing` made them (`estimates_taken`).
    `gone_*` inputs have left their topics; `doubts` counts what only other settings than today's explain. `anchored` is
    None where there was no anchor, False where it was not passed. The lane took `live_seconds` for what took `seconds`.
    """

    partition: int
    compared: int
    skipped: int
    first_offset: int | None
    whole: bool
    prices_exact: int
    prices_close: int
    prices_taken: int
    estimates_exact: int
    estimates_close: int
    estimates_taken: int
    index_missing: str | None
    gone_queries: int
    gone_completions: int
    doubts: dict[str, int]
    anchored: bool | None
    head: Anchor | None
    divergence: Divergence | None
    seconds: float
    live_seconds: float


def replay(
    settings: Settings, task: Task, progress: Progress = silent, open_reader: OpenReader = KafkaReader
) -> Iterator[Replayed]:
    """Replay each partition of a task. Raises CheckBroker, and FixSetting where the index is asked for and missing."""
    again = task.estimates == "index"
    estimator = load_estimator(settings, again)
    if again and estimator is not None:
        configuration(settings, estimator.manifest, 0)
    partitions = task.partitions or range(settings.kafka.partitions)
    with open_reader(settings, progress) as reader:
        witnesses = read_ledger(settings, reader, partitions) if task.end is None else {}
        for partition in partitions:
            yield Rerun(settings, task, estimator, partition, reader).run(witnesses.get(partition), progress)


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


def read_ledger(settings: Settings, reader: Reader, partitions: Iterable[int]) -> dict[int, LedgerView]:
    """The ledger now, by partition: what a replay to the end must come to."""
    witnesses = {partition: LedgerView() for partition in partitions}
    oldest = reader.oldest((settings.topics.ledger, partition) for partition in witnesses)
    for record in reader.read(oldest, lambda: all(witness.is_whole for witness in witnesses.values())):
        witnesses[record.partition].add(record)
    return witnesses


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
        self._first: int | None = None

    def run(self, witness: LedgerView | None, progress: Progress) -> Replayed:
        """Replay it; the end must agree with the ledger as `witness` read it."""
        started = time.monotonic()
        solutions = Solutions(None if self._estimator is None else self._estimator.manifest.index)
        originals = self._originals()
        anchor = self._task.anchors.get(self._partition)
        evidence = Evidence(originals, anchor, None if witness is None else witness.row, witness)
        limit = self._offset(self._task.end)
        replay = Replay(self._partition, self._place[0], prior_of(self._estimator), solutions, evidence, limit)
        self._feed(replay, progress)
        self._check_beginning(replay)
        return Replayed(
            partition=self._partition,
            compared=replay.compared,
            skipped=replay.beginning.skipped,
            first_offset=replay.beginning.offset,
            whole=replay.beginning.whole,
            prices_exact=solutions.exact,
            prices_close=solutions.close,
            prices_taken=solutions.taken,
            estimates_exact=originals.exact,
            estimates_close=originals.close,
            estimates_taken=originals.elsewhere,
            index_missing=originals.missing,
            gone_queries=originals.queries.gone,
            gone_completions=originals.completions.gone,
            doubts={doubt: count for doubt, count in originals.doubts.items() if count},
            anchored=None if anchor is None else replay.anchored,
            head=replay.head(),
            divergence=replay.divergence,
            seconds=max(0.001, round(time.monotonic() - started, 3)),
            live_seconds=(replay.last_ms - replay.first_ms) / 1000,
        )

    def _feed(self, replay: Replay, progress: Progress) -> None:
        position = self._offset(self._task.start) or 0
        patience = None
        while True:
            # The last stable offset is where a transaction ends; the high watermark may be inside of one.
            stable = self._reader.ends([self._place])[self._place]
            position = self._feed_to(stable, position, replay, progress)
            # What the account row already counts may take a moment to be visible here.
            patience = patience or time.monotonic() + PATIENCE_SECONDS
            if replay.divergence is not None or replay.done or replay.router is None or time.monotonic() > patience:
                break
            if self._is_at_row(replay):
                break
        replay.finish()

    def _feed_to(self, end: int, position: int, replay: Replay, progress: Progress) -> int:
        """Feed what lies before `end`; returns where to go on."""
        records = self._reader.read_partition(*self._place, position, end)
        while block := list(islice(records, BLOCK_RECORDS)):
            if self._first is None:
                # Asked while what was read is still there: retention may remove it before the end is reached.
                self._first, self._oldest[self._place] = block[0].offset, self._look(self._place)
            for record in block:
                replay.feed(record)
            position = block[-1].offset + 1
            progress(f"partition {self._partition}", len(block))
            if replay.divergence is not None or replay.done:
                break
        return position

    def _is_at_row(self, replay: Replay) -> bool:
        """Whether all that the account row counts was read, by a row from after the replay's beginning."""
        row = replay.evidence.row
        if replay.evidence.witness is None:
            return True
        if row is not None and replay.beginning.before <= row.decisions:
            return replay.read >= row.decisions
        witness = read_ledger(self._settings, self._reader, [self._partition])[self._partition]
        if witness.row is not None and witness.row.decisions >= replay.read:
            replay.evidence = replace(replay.evidence, row=witness.row, witness=witness)
            return witness.row.decisions == replay.read
        return False

    def _offset(self, limit: Limit | None) -> int | None:
        if limit is None or limit.at_ms is None:
            return None if limit is None else limit.offset
        offset = self._reader.at([self._place], limit.at_ms)[self._place]
        return offset if offset >= 0 else self._reader.ends([self._place])[self._place]

    def _check_beginning(self, replay: Replay) -> None:
        anchor = self._task.anchors.get(self._partition)
        if replay.router is None:
            if replay.beginning.skipped or replay.evidence.row is not None:
                replay.gap("there is neither the chain's beginning nor a checkpoint to begin at")
        elif self._task.start is not None or replay.beginning.whole:
            return
        elif 0 in (self._first, self._oldest[self._place]):
            replay.gap("the topic does not begin with the chain: its beginning was removed")
        elif anchor is not None and not replay.anchored and not (replay.done and anchor.decisions > replay.read):
            what = f"the replay begins after {replay.beginning.before} decisions, as the topic does by its retention"
            replay.gap(f"{what}: the anchor at {anchor.decisions} is not proven; keep a newer one")

    def _look(self, place: Place) -> int:
        return self._reader.oldest([place])[place]

    def _originals(self) -> Originals:
        settings, topics, llms = self._settings, self._settings.topics, self._settings.llms

        def stream(topic: str) -> Stream:
            read, place = partial(self._reader.read_partition, topic, self._partition), (topic, self._partition)
            return Stream(read, self._oldest[place], partial(self._look, place))

        originals = Originals(
            settings.limits,
            stream(topics.queries),
            stream(topics.completions),
            {llm: llms[llm].price_list for llm in llms},
        )
        if self._task.estimates == "index" and self._estimator is not None:
            originals.estimate = estimates_by(settings, self._estimator)
            originals.index = self._estimator.manifest.index
        return originals


def estimates_by(settings: Settings, estimator: Estimator) -> Callable[[list[StoredRecord]], list[Event]]:
    """A function from query records to their events, estimated by this index."""
    preparer = Preparer.load(settings, estimator)
    return lambda records: [event(row, 0) for row in preparer.prepare(records)]
