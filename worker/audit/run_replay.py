"""Replays the decisions of a running or stopped system from its topics, partition by partition."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import numpy as np
from msgspec import Struct

from worker.audit.chain import Anchor
from worker.audit.input_check import Originals
from worker.audit.inputs import Stream
from worker.audit.ledger_view import read_ledger
from worker.audit.mismatch import Mismatch
from worker.audit.recorded_prices import Solutions
from worker.audit.replay import Checks, Replay
from worker.audit.replay import replay as replay_partition
from worker.audit.topics import PartitionTopics, Topics
from worker.contract.accounts import Account
from worker.contract.errors import FixSetting
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.contract.token_costs import PriceList
from worker.core.events import Event
from worker.core.partition_config import configuration
from worker.core.router import Prior
from worker.estimation.estimator import Estimator
from worker.kafka.reader import KafkaReader, OpenReader, Place, Progress, Reader, silent
from worker.service import index_in_use
from worker.service.prepare import Preparer, event


class Limit(Struct, frozen=True):
    """An offset of `decisions`, or a time in milliseconds since the epoch."""

    offset: int | None = None
    at_ms: int | None = None


@dataclass(frozen=True)
class Task:
    """What to replay: these partitions, or all if there are none.

    `start` begins at the first checkpoint from there on; `end` ends before the first event from there on.
    """

    partitions: tuple[int, ...] = ()
    start: Limit | None = None
    end: Limit | None = None
    estimates: Literal["recorded", "index"] = "recorded"
    anchors: Mapping[int, Anchor] = field(default_factory=dict)


class Replayed(Struct, frozen=True):
    """The result of one partition. `compared` records came out the same; `divergence` is the first that did not.

    `accounts_before` are the accounts before the event of that record. `whole` says that the replay began with the
    chain, and not at a checkpoint. Prices were solved again and were the same (`prices_exact`) or nearly the same
    (`prices_close`), or were taken as recorded because the index of the lane is not here (`prices_taken`). Estimates
    were taken as recorded (`estimates_taken`) where index `index_missing` made them. `gone_*` inputs have left their
    topics. `doubts` counts differences that other settings than today's explain. `anchored` is None if there was no
    anchor, False if the chain did not pass it. `anchor` is the one that was checked, `head` the new one. The lane took
    `live_seconds` for what took `seconds`.
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
    anchor: Anchor | None
    head: Anchor | None
    divergence: Mismatch | None
    accounts_before: list[Account]
    seconds: float
    live_seconds: float


def replay(
    settings: Settings, task: Task, progress: Progress = silent, open_reader: OpenReader = KafkaReader
) -> Iterator[Replayed]:
    """Replay each partition of a task. Raises CheckBroker, and FixSetting if the index is asked for and missing."""
    again = task.estimates == "index"
    estimator = load_estimator(settings, again)
    if again and estimator is not None:
        configuration(settings, estimator.manifest, 0, {})
    with open_reader(settings, progress) as reader:
        for partition in task.partitions or range(settings.kafka.partitions):
            yield replay_one(settings, task, estimator, reader, partition)


def load_estimator(settings: Settings, required: bool) -> Estimator | None:
    """The configured index; None if it cannot be loaded and is not required. Raises FixSetting."""
    try:
        return index_in_use.load(settings)
    except FixSetting:
        if required:
            raise
        return None


def prior_of(estimator: Estimator | None) -> Prior:
    """What prices are solved on before there are queries; empty without an index."""
    if estimator is None:
        return Prior(np.empty((0, 0)), np.empty((0, 0)))
    return Prior(estimator.prior.quality, estimator.prior.cost_micros.astype(float))


def replay_one(settings: Settings, task: Task, estimator: Estimator | None, reader: Reader, partition: int) -> Replayed:
    """Replay one partition of a task."""
    started = time.monotonic()
    names, topics, anchor = settings.topics, PartitionTopics(reader, partition), task.anchors.get(partition)
    originals = _originals(settings, task, estimator, topics)
    solutions = Solutions(None if estimator is None else estimator.manifest.index)
    ledger = partial(read_ledger, topics, names.ledger) if task.end is None else lambda: None
    result, place = Replay(partition, names.decisions), (names.decisions, partition)
    records = topics.read([names.decisions], lambda: result.is_at_row, _offset(reader, place, task.start))
    checks = Checks(originals, anchor, ledger)
    replay_partition(result, records, prior_of(estimator), solutions, checks, _offset(reader, place, task.end))
    if result.start is None and (result.skipped or (result.ledger is not None and result.ledger.row is not None)):
        what = "there is neither the beginning of the chain nor a whole checkpoint to begin at"
        result.find(None, Mismatch(what))
    elif task.start is None:
        _check_start(result, topics.oldest(names.decisions), anchor)
    return _replayed(result, originals, solutions, anchor, time.monotonic() - started)


def _replayed(
    result: Replay, originals: Originals, solutions: Solutions, anchor: Anchor | None, seconds: float
) -> Replayed:
    return Replayed(
        partition=result.partition,
        compared=result.compared,
        skipped=result.skipped,
        first_offset=None if result.start is None else result.start.offset,
        whole=result.start is not None and result.start.is_chain,
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
        anchored=None if anchor is None else result.anchored,
        anchor=anchor,
        head=result.head,
        divergence=result.mismatch,
        accounts_before=result.accounts if result.mismatch is not None else [],
        seconds=max(0.001, round(seconds, 3)),
        live_seconds=(result.last_ms - result.first_ms) / 1000,
    )


def _check_start(result: Replay, oldest: int, anchor: Anchor | None) -> None:
    """Only retention may have removed the beginning of the chain."""
    start = result.start
    if start is None or start.is_chain:
        return
    if 0 in (result.first_offset, oldest):
        result.find(start.offset, Mismatch("the topic does not begin with the chain: its beginning was removed"))
    elif anchor is not None and not result.anchored and not (result.limited and anchor.decisions > result.count):
        began = f"the replay begins after {start.before} decisions, as the topic does by its retention"
        what = f"{began}: the anchor at {anchor.decisions} is not proven; keep a newer one"
        result.find(start.offset, Mismatch(what))


def _offset(reader: Reader, place: Place, limit: Limit | None) -> int | None:
    """The offset of a limit; a time after the last record is the end."""
    if limit is None or limit.at_ms is None:
        return None if limit is None else limit.offset
    offset = reader.at([place], limit.at_ms)[place]
    return offset if offset >= 0 else reader.ends([place])[place]


def _originals(settings: Settings, task: Task, estimator: Estimator | None, topics: Topics) -> Originals:
    names, prices = settings.topics, settings.price_lists(datetime.now(UTC))
    queries, completions = (stream(topics, name) for name in (names.queries, names.completions))
    originals = Originals(settings.limits, queries, completions, prices)
    if task.estimates == "index" and estimator is not None:
        originals.estimate = estimates_by(settings, estimator, prices)
        originals.index = estimator.manifest.index
    return originals


def stream(topics: Topics, topic: str) -> Stream:
    """The records of an input topic, looked up by offset."""
    return Stream(
        lambda offset: topics.read([topic], start=offset), topics.oldest(topic), partial(topics.oldest, topic)
    )


def estimates_by(
    settings: Settings, estimator: Estimator, prices: Mapping[str, PriceList]
) -> Callable[[list[StoredRecord]], list[Event]]:
    """A function from query records to their events, estimated by this index."""
    preparer = Preparer.load(settings, estimator, prices)
    return lambda records: [event(row, 0) for row in preparer.prepare(records)]
