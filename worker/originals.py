"""Compares replayed events with the records of the input topics that they came from.

Each topic is read forwards once, as far as the replay has come. What has left its topic is counted, not compared.
Queries can be estimated again by the index and compared too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from worker import wire
from worker.errors import RejectRecord
from worker.events import Arrived, Completed, Event, Refused
from worker.messages import Completion, Query
from worker.record import StoredRecord
from worker.settings import LimitSettings

Difference = tuple[str, Any, Any]
Read = Callable[[int], Iterator[StoredRecord]]
Prepare = Callable[[list[StoredRecord]], list[Event]]

BLOCK_RECORDS = 256
# Other instruction sets find other neighbours now and then, and round otherwise.
QUALITY_TOLERANCE = 0.02
COST_TOLERANCE = 0.05


class Stream:
    """One input partition, read forwards; `read` opens it at an offset, `oldest` is its first one."""

    def __init__(self, read: Read, oldest: int) -> None:
        self.gone = 0
        self._read = read
        self._oldest = oldest
        self._records: Iterator[StoredRecord] | None = None
        self._ahead: deque[tuple[StoredRecord, Event | None]] = deque()

    def at(self, offset: int, prepare: Prepare | None = None) -> Found:
        """The record at an offset, with its event if `prepare` makes events; None where there is none."""
        if offset < self._oldest:
            self.gone += 1
            return None
        if self._records is None:
            self._records = self._read(offset)
        while not self._ahead or self._ahead[0][0].offset < offset:
            if self._ahead:
                self._ahead.popleft()
            elif not self._fill(self._records, prepare):
                return None
        return self._ahead[0] if self._ahead[0][0].offset == offset else None

    def is_gone(self, offset: int) -> bool:
        """Whether the record at this offset has left the topic."""
        return offset < self._oldest

    def _fill(self, records: Iterator[StoredRecord], prepare: Prepare | None) -> bool:
        block = list(islice(records, BLOCK_RECORDS))
        events: list[Event] | list[None] = [None] * len(block)
        if prepare is not None and block:
            events = prepare(block)
        self._ahead.extend(zip(block, events, strict=True))
        return bool(block)


Found = tuple[StoredRecord, Event | None] | None


class Originals:
    """The inputs of one partition. `exact` and `close` count estimates that came out the same, or within tolerance.

    `estimate` makes events of query records by the index anew; None: estimates are taken as recorded.
    """

    def __init__(
        self, limits: LimitSettings, queries: Stream, completions: Stream, estimate: Prepare | None = None
    ) -> None:
        self.queries = queries
        self.completions = completions
        self.exact = self.close = 0
        self.estimate = estimate
        self._limits = limits

    def __call__(self, event: Event) -> Difference | None:
        """What a replayed event says otherwise than its record: (field, recorded, found)."""
        match event:
            case Arrived():
                return self._look_up(self.queries, event.offset, event, self._arrived)
            case Completed():
                return self._look_up(self.completions, event.offset, event, self._completed)
            case Refused(topic="queries"):
                return self._look_up(self.queries, event.offset, event, self._refused_query)
            case Refused():
                return self._look_up(self.completions, event.offset, event, self._refused_completion)
        return None

    def _look_up(
        self, stream: Stream, offset: int, event: Any, compare: Callable[..., Difference | None]
    ) -> Difference | None:
        found = stream.at(offset, self.estimate if stream is self.queries else None)
        if found is not None:
            return compare(event, *found)
        return None if stream.is_gone(offset) else ("offset", offset, "no such record in the topic")

    # Queries

    def _arrived(self, event: Arrived, record: StoredRecord, estimated: Event | None) -> Difference | None:
        query = self._query(record)
        if isinstance(query, RejectRecord):
            return "query", "routed", f"a dead letter: {query}"
        query_id = query.id or f"{record.partition}-{record.offset}"
        if event.query_id != query_id:
            return "query_id", event.query_id, query_id
        if event.deadline_ms != query.deadline_ms:
            return "query_deadline_ms", event.deadline_ms, query.deadline_ms
        return None if estimated is None else self._estimates(event, estimated)

    def _estimates(self, event: Arrived, estimated: Event) -> Difference | None:
        if not isinstance(estimated, Arrived):
            return "query", "routed", "a dead letter"
        if (event.quality, event.cost_micros) == (estimated.quality, estimated.cost_micros):
            self.exact += 1
            return None
        if not _near(event.quality, estimated.quality, QUALITY_TOLERANCE, 0.0):
            return "quality", event.quality, estimated.quality
        if not _near(event.cost_micros, estimated.cost_micros, 1.0, COST_TOLERANCE):
            return "cost_micros", event.cost_micros, estimated.cost_micros
        self.close += 1
        return None

    def _refused_query(self, event: Refused, record: StoredRecord, estimated: Event | None) -> Difference | None:
        query = self._query(record)
        found = str(query) if isinstance(query, RejectRecord) else None
        if isinstance(estimated, Arrived):
            return "reason", event.reason, "a query that can be routed"
        # Without an estimate, an embedding that cannot be used is not seen.
        return ("reason", event.reason, found) if found is not None and found != event.reason else None

    def _query(self, record: StoredRecord) -> Query | RejectRecord:
        try:
            return wire.decode_query(record.value, self._limits.max_query_bytes, self._limits.max_nesting)
        except RejectRecord as problem:
            return problem

    # Completions

    def _completed(self, event: Completed, record: StoredRecord, _: Event | None) -> Difference | None:
        completion = self._completion(record)
        if isinstance(completion, RejectRecord):
            return "completion", "used", f"a dead letter: {completion}"
        pairs: list[Difference] = [("dispatch_id", event.dispatch_id, completion.dispatch_id)]
        # An ignored completion is recorded without what it says.
        if event.llm:
            said = "ok" if event.ok else "error"
            pairs += [("llm", event.llm, completion.llm), ("status", said, completion.status)]
            pairs += [("quality", event.quality, completion.quality), ("error", event.error, completion.error)]
            if completion.cost_micros is not None:
                pairs.append(("spent_micros", event.cost_micros or 0, completion.cost_micros))
        return next((pair for pair in pairs if pair[1] != pair[2]), None)

    def _refused_completion(self, event: Refused, record: StoredRecord, _: Event | None) -> Difference | None:
        completion = self._completion(record)
        found = str(completion) if isinstance(completion, RejectRecord) else None
        return ("reason", event.reason, found) if found is not None and found != event.reason else None

    def _completion(self, record: StoredRecord) -> Completion | RejectRecord:
        limits = self._limits
        try:
            return wire.decode_completion(
                record.value, limits.max_completion_bytes, limits.max_nesting, limits.max_cost_micros
            )
        except RejectRecord as problem:
            return problem


def _near(one: list[float] | list[int], other: list[float] | list[int], absolute: float, relative: float) -> bool:
    if len(one) != len(other):
        return False
    return all(abs(a - b) <= absolute + relative * max(abs(a), abs(b)) for a, b in zip(one, other, strict=True))
