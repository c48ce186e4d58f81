"""Reads what explains a query: the decisions, the query as it came in, and its nearest neighbours in history."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from worker.audit.chain import decoded
from worker.audit.explain import Explanation, Search
from worker.audit.mismatch import Mismatch
from worker.contract import sentences
from worker.contract.errors import CheckFailed, FixSetting
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.estimation.estimator import Estimator
from worker.kafka.reader import KafkaReader, OpenReader, Progress, Reader, silent
from worker.service import index_in_use
from worker.service.prepare import Preparer

Neighbours = list[tuple[str, float]]


def find(
    settings: Settings, query_id: str, progress: Progress, open_reader: OpenReader = KafkaReader
) -> list[Explanation]:
    """What every partition decided about a query id. Reads all decisions.

    Raises CheckBroker, and CheckFailed for a record that is not a decision.
    """
    searches = [Search(query_id, partition) for partition in range(settings.kafka.partitions)]
    with open_reader(settings, progress) as reader:
        for record in reader.read(reader.oldest((settings.topics.decisions, one.partition) for one in searches)):
            found = decoded(record)
            if isinstance(found, Mismatch):
                raise CheckFailed(str(found))
            searches[record.partition].feed(found)
    return [explanation for search in searches for explanation in search.found()]


def with_neighbours(
    settings: Settings, explanations: Iterable[Explanation], count: int, open_reader: OpenReader = KafkaReader
) -> list[Explanation]:
    """The explanations with up to `count` rows of history nearest to each query, or with the reason why there are none.

    Raises CheckBroker.
    """
    try:
        estimator = index_in_use.load(settings)
    except FixSetting as error:
        return [msgspec.structs.replace(explanation, neighbours_unknown=str(error)) for explanation in explanations]
    with open_reader(settings, silent) as reader:
        return [_with(each, _nearest(settings, estimator, reader, each, count)) for each in explanations]


def _with(explanation: Explanation, near: Neighbours | str) -> Explanation:
    if isinstance(near, str):
        return msgspec.structs.replace(explanation, neighbours_unknown=near)
    return msgspec.structs.replace(explanation, neighbours=near)


def _nearest(
    settings: Settings, estimator: Estimator, reader: Reader, explanation: Explanation, count: int
) -> Neighbours | str:
    if not explanation.attempts:
        return "a dead letter is not estimated"
    asked = explanation.attempts[0].index
    if asked is None:
        return "which index was asked then is not known"
    if estimator.manifest.index != asked:
        return f"the index in {settings.index.directory} is not the one that was asked then ({asked[:12]})"
    offset = explanation.query_offset
    found = reader.fetch_offsets(settings.topics.queries, explanation.partition, [offset])
    record = found.get(offset)
    return "the query has left its topic" if record is None else _near(settings, estimator, record, count)


def _near(settings: Settings, estimator: Estimator, record: StoredRecord, count: int) -> Neighbours | str:
    (row,) = Preparer.load(settings, estimator, {}).embed([record])
    if row.problem is not None:
        return sentences.reason(row.problem)
    assert row.embedding is not None, "a row without a problem is embedded"
    return estimator.neighbours(row.embedding, count)
