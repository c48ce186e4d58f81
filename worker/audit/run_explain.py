"""What an explanation needs beside the decisions: the query as it came in, and its nearest neighbours in history."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from worker.audit.explain import Explanation, Search
from worker.contract import codec
from worker.contract.errors import CheckFailed, FixSetting
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.estimation import index
from worker.estimation.estimator import Estimator
from worker.kafka import clients
from worker.kafka.reader import Progress, Reader
from worker.service.prepare import Preparer

Neighbours = list[tuple[str, float]]


def find(settings: Settings, query_id: str, progress: Progress) -> list[Explanation]:
    """What every partition decided about a query id. Reads all decisions. Raises CheckBroker, and CheckFailed
    for a record that is no decision."""
    searches = [Search(query_id, partition) for partition in range(settings.kafka.partitions)]

    def take(record: StoredRecord) -> None:
        try:
            decision = codec.decode_decision(record.value or b"")
        except codec.UNREADABLE as error:
            raise CheckFailed(f"{record.topic}/{record.partition} offset {record.offset}: {error}") from None
        searches[record.partition].feed(record.offset, decision)

    with Reader(settings, progress) as reader:
        reader.read(reader.oldest((settings.topics.decisions, search.partition) for search in searches), take)
    return [found for search in searches for found in search.found()]


def with_neighbours(settings: Settings, explanations: Iterable[Explanation], count: int) -> list[Explanation]:
    """The explanations with up to `count` rows of history nearest to each query, or why they cannot be told.

    Raises CheckBroker.
    """
    try:
        estimator = index.load(settings.index.directory)
    except FixSetting as error:
        return [msgspec.structs.replace(explanation, neighbours_unknown=str(error)) for explanation in explanations]
    return [_with(explanation, _nearest(settings, estimator, explanation, count)) for explanation in explanations]


def _with(explanation: Explanation, near: Neighbours | str) -> Explanation:
    if isinstance(near, str):
        return msgspec.structs.replace(explanation, neighbours_unknown=near)
    return msgspec.structs.replace(explanation, neighbours=near)


def _nearest(settings: Settings, estimator: Estimator, explanation: Explanation, count: int) -> Neighbours | str:
    if not explanation.attempts:
        return "a dead letter is not estimated"
    asked = explanation.attempts[0].index
    if asked is None:
        return "which index was asked then is not known"
    if estimator.manifest.index != asked:
        return f"the index in {settings.index.directory} is not the one that was asked then ({asked[:12]})"
    record = _query_record(settings, explanation)
    return "the query has left its topic" if record is None else _near(settings, estimator, record, count)


def _query_record(settings: Settings, explanation: Explanation) -> StoredRecord | None:
    offset = explanation.query_offset
    records = clients.read_partition(settings, settings.topics.queries, explanation.partition, offset, offset + 1)
    return next((record for record in records if record.offset == offset), None)


def _near(settings: Settings, estimator: Estimator, record: StoredRecord, count: int) -> Neighbours | str:
    (row,) = Preparer.load(settings, estimator).embed([record])
    if row.problem is not None or row.embedding is None:
        return str(row.problem)
    return estimator.neighbours(row.embedding, count)
