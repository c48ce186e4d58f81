"""From records to events: everything about a batch that does not depend on the lane's state.

Runs in the search threads, off the event loop, while the batch before it commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from worker.contract.answers import Unavailable
from worker.contract.codes import Rejection
from worker.contract.completions import UsableCompletion
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import Reservation
from worker.contract.record import Record, headers_bytes
from worker.contract.rejections import Limits, read_completion
from worker.contract.settings import Settings
from worker.core.events import Arrived, Completed, Event, Refused, Unanswered, Withdrawn
from worker.kafka.clock import SYSTEM_CLOCK, Clock
from worker.kafka.reader import Reader
from worker.service.metrics import Metrics
from worker.service.prepare import Preparer, Row, event

# Whether the dispatch of this id may be tried again if it has failed.
MayRetry = Callable[[str], bool]


class Input(NamedTuple):
    """An event and the record that it was made from; None for an event that the lane made itself.

    `retried` is the record of the query that a failed dispatch brings back. With `is_bare`, a dead letter of the record
    carries none of its bytes, because Kafka did not take them.
    """

    event: Event
    record: Record | None = None
    retried: Record | None = None
    is_bare: bool = False

    @property
    def bytes(self) -> int:
        """About what its effects publish."""
        records = [record for record in (self.record, self.retried) if record is not None]
        return sum(len(record.value or b"") + headers_bytes(record) for record in records)


@dataclass(slots=True)
class CompletionRow:
    """One completion record. `problem` says why it cannot be used; `retried` is the query that it brings back."""

    record: Record
    answer: UsableCompletion | Unavailable | None = None
    problem: Rejection | None = None
    retried: Row | None = None


@dataclass(frozen=True)
class Intake:
    """Makes the events of all lanes of a process. It keeps nothing between batches."""

    settings: Settings
    preparer: Preparer
    reader: Reader
    metrics: Metrics
    clock: Clock = SYSTEM_CLOCK

    def prepare(self, records: Sequence[Record], may_retry: MayRetry) -> list[Input]:
        """One input for each record of one topic and partition, in order.

        `may_retry` is asked for each failed dispatch, because only the ledger knows whether its reservation is open:
        without it, every forged or repeated completion would cost a read of Kafka. Raises CheckBroker if a query
        cannot be read again.
        """
        started = self.clock.monotonic()
        is_query = records[0].topic == self.settings.topics.queries
        inputs = self._arrivals(records) if is_query else self._completions(records, may_retry)
        self.metrics.searched(self.clock.monotonic() - started)
        return inputs

    # Queries

    def _arrivals(self, records: Iterable[Record]) -> list[Input]:
        at_ms = self.clock.now_ms()
        return [Input(event(row, at_ms), row.record) for row in self._prepared(records)]

    def _prepared(self, records: Iterable[Record]) -> list[Row]:
        rows = self.preparer.prepare(records)
        similar = [row.estimate.similarity for row in rows if row.estimate is not None]
        if similar:
            self.metrics.similar(np.array(similar, np.float32))
        return rows

    def unanswered(self, partition: int, reservations: Sequence[Reservation], at_ms: int) -> list[Input]:
        """One input for each of these dispatches, which nobody has answered. Raises CheckBroker."""
        rows = self._again(partition, [reservation.offset for reservation in reservations])
        inputs = []
        for reservation in reservations:
            row = rows.get(reservation.offset)
            silent = Unanswered(at_ms, reservation.offset, reservation.attempt, _arrival(row, at_ms))
            inputs.append(Input(silent, retried=None if row is None else row.record))
        return inputs

    def _again(self, partition: int, offsets: Sequence[int]) -> dict[int, Row]:
        """Queries that were dispatched before, prepared again; those that have left their topic are missing."""
        if not offsets:
            return {}
        found = self.reader.fetch_offsets(self.settings.topics.queries, partition, offsets)
        return {row.record.offset: row for row in self._prepared(found.values())}

    # Completions

    def _completions(self, records: Sequence[Record], may_retry: MayRetry) -> list[Input]:
        at_ms = self.clock.now_ms()
        rows = [CompletionRow(record) for record in records]
        for row in rows:
            self._decode(row)
        self._bring_back([row for row in rows if _has_failed(row, may_retry)])
        return [
            Input(self._event(row, at_ms), row.record, None if row.retried is None else row.retried.record)
            for row in rows
        ]

    def _decode(self, row: CompletionRow) -> None:
        read = read_completion(row.record, Limits.of_completions(self.settings.limits))
        if isinstance(read, Rejection):
            row.problem = read
        else:
            row.answer = read

    def _bring_back(self, failed: Sequence[CompletionRow]) -> None:
        """Read and prepare again the queries of failed dispatches."""
        prepared = self._again(failed[0].record.partition, [_origin(row) for row in failed]) if failed else {}
        for row in failed:
            row.retried = prepared.get(_origin(row))

    def _event(self, row: CompletionRow, at_ms: int) -> Completed | Withdrawn | Refused:
        if isinstance(row.answer, Unavailable):
            told = row.answer
            return Withdrawn(row.record.offset, at_ms, told.unavailable, told.error_class, told.worker)
        if row.answer is None:
            assert row.problem is not None, "a row is decoded or has a problem"
            return Refused("completions", row.record.offset, at_ms, row.problem)
        return Completed(row.record.offset, at_ms, row.answer, _arrival(row.retried, at_ms))


def _arrival(row: Row | None, at_ms: int) -> Arrived | None:
    """The query of a further attempt; None where it cannot be read any more."""
    again = None if row is None else event(row, at_ms)
    return again if isinstance(again, Arrived) else None


def _has_failed(row: CompletionRow, may_retry: MayRetry) -> bool:
    answer = row.answer
    return isinstance(answer, UsableCompletion) and not answer.ok and may_retry(answer.dispatch_id)


def _origin(row: CompletionRow) -> int:
    """The offset of the query that was dispatched. The dispatch is open, so a lane made its id."""
    assert isinstance(row.answer, UsableCompletion), "only a completion brings a query back"
    dispatch = DispatchId.parse(row.answer.dispatch_id)
    assert dispatch is not None, "a lane makes ids that can be parsed"
    return dispatch.offset
