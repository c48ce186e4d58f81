"""Compares replayed events with the records of the input topics that they came from.

Each topic is read forwards once, as far as the replay has come. What has left its topic is counted, not compared.
Queries can be estimated again by the index and compared too. What depends on settings that are not recorded (limits)
is not a difference where today's settings disagree: it is counted as a doubt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from worker.audit.inputs import Prepare, Stream
from worker.audit.mismatch import Mismatch
from worker.audit.rejection_check import LIMITED, can_reject_completion, can_reject_query, limits_of
from worker.contract.answers import Unavailable
from worker.contract.asks import asks_of
from worker.contract.codes import Rejection
from worker.contract.extras import tags_of
from worker.contract.messages import Configuration, Query
from worker.contract.record import StoredRecord
from worker.contract.rejections import Limits, read_completion, read_query
from worker.contract.requests import input_tokens, known_tokens
from worker.contract.settings import LimitSettings
from worker.contract.token_costs import PriceList
from worker.core.candidates import refused_model
from worker.core.events import Arrived, Completed, Event, Refused, Withdrawn

Difference = tuple[str, Any, Any]

# Other instruction sets find other neighbours now and then, and round otherwise.
QUALITY_TOLERANCE = 0.02
COST_TOLERANCE = 0.05
COST_TOLERANCE_MICROS = 1

OTHER_LIMITS = "inputs were taken or refused by other limits than today's"
OTHER_PRICES = "estimates of cost, bounded by price lists, are not what today's price lists give"


class Originals:
    """The inputs of one partition. `exact` and `close` count estimates that came out the same, or within tolerance.

    Set `estimate` to make events of query records anew, by the index of hash `index`; else estimates are taken as
    recorded. `elsewhere` counts those taken because another index made them, the last of which was `missing`. `prices`
    are today's price lists; `doubts` counts what only other settings than today's explain.
    """

    def __init__(
        self,
        limits: LimitSettings,
        queries: Stream,
        completions: Stream,
        prices: Mapping[str, PriceList] | None = None,
    ) -> None:
        self.queries = queries
        self.completions = completions
        self.exact = self.close = self.elsewhere = 0
        self.missing: str | None = None
        self.doubts: Counter[str] = Counter()
        self.estimate: Prepare | None = None
        self.index: str | None = None
        self._query_limits = Limits.of_queries(limits)
        self._completion_limits = Limits.of_completions(limits)
        self._prices = prices or {}

    def __call__(self, event: Event, config: Configuration | None = None) -> Event | Mismatch:
        """A replayed event as its input record has it, or what differs between them."""
        match event:
            case Arrived() | Refused(topic="queries"):
                stream, prepare = self.queries, self.estimate
            case Completed() | Withdrawn() | Refused():
                stream, prepare = self.completions, None
            case _:
                return event
        found = stream.at(event.offset, prepare)
        if found is None:
            gone = stream.is_gone(event.offset)
            return event if gone else Mismatch("the input record is not in the topic", "offset", event.offset, None)
        compared = self._compare(event, found, config)
        return Mismatch("the input record says otherwise", *compared) if isinstance(compared, tuple) else compared

    def _compare(
        self, event: Event, found: tuple[StoredRecord, Event | None], config: Configuration | None
    ) -> Event | Difference:
        record, estimated = found
        match event:
            case Arrived():
                return self._arrived(event, record, estimated, config)
            case Refused(topic="queries"):
                return self._refused_query(event, record, estimated, config) or event
            case Refused():
                return self._refused_completion(event, record) or event
            case Completed():
                return self._completed(event, record)
            case Withdrawn():
                return self._withdrawn(event, record)
        return event

    # Queries

    def _arrived(
        self, event: Arrived, record: StoredRecord, estimated: Event | None, config: Configuration | None
    ) -> Event | Difference:
        """The query with what its record asks of an LLM, so that the router looks for candidates again."""
        query = self._taken(read_query, record, self._query_limits)
        if isinstance(query, Rejection):
            return "query", "routed", query
        query_id = query.id or f"{record.partition}-{record.offset}"
        if event.query_id != query_id:
            return "query_id", event.query_id, query_id
        if event.deadline_ms != query.deadline_ms:
            return "query_deadline_ms", event.deadline_ms, query.deadline_ms
        differs = None if estimated is None else self._estimates(event, estimated, config)
        return differs or _asked(event, query)

    def _estimates(self, event: Arrived, estimated: Event, config: Configuration | None) -> Difference | None:
        if not self._is_here(config):
            self.elsewhere += 1
            return None
        if not isinstance(estimated, Arrived):
            return "query", "routed", estimated.rejection if isinstance(estimated, Refused) else None
        if (event.quality, event.cost_micros) == (estimated.quality, estimated.cost_micros):
            self.exact += 1
            return None
        if not _near(event.quality, estimated.quality, QUALITY_TOLERANCE, 0.0):
            return "quality", event.quality, estimated.quality
        if not _near(event.cost_micros, estimated.cost_micros, COST_TOLERANCE_MICROS, COST_TOLERANCE):
            if config is None or config.price_lists == self._prices:
                return "cost_micros", event.cost_micros, estimated.cost_micros
            self.doubts[OTHER_PRICES] += 1
        self.close += 1
        return None

    def _is_here(self, config: Configuration | None) -> bool:
        """Whether the index that estimates again is the one that the lane had."""
        if config is None or config.index == self.index:
            return True
        self.missing = config.index
        return False

    def _refused_query(
        self, event: Refused, record: StoredRecord, estimated: Event | None, config: Configuration | None
    ) -> Difference | None:
        if event.rejection.code == "unknown_model":
            query = self._taken(read_query, record, self._query_limits)
            refused = None if isinstance(query, Rejection) or config is None else refused_model(asks_of(query), config)
            return None if config is None or refused == event.rejection else ("rejection", event.rejection, refused)
        if not can_reject_query(record, event.rejection):
            return _unfounded(event, read_query(record, self._query_limits))
        doubtful = self._doubts_limits(event.rejection, self._query_limits)
        if not doubtful and isinstance(estimated, Arrived) and self._is_here(config):
            return "rejection", event.rejection, None
        return None

    # Completions

    def _completed(self, event: Completed, record: StoredRecord) -> Event | Difference:
        """The answer as it was received, so that the router decides again what it charges."""
        answer = self._taken(read_completion, record, self._completion_limits)
        if isinstance(answer, Rejection | Unavailable):
            return "completion", "used", answer
        if event.answer.dispatch_id != answer.dispatch_id:
            return "dispatch_id", event.answer.dispatch_id, answer.dispatch_id
        return msgspec.structs.replace(event, answer=answer)

    def _withdrawn(self, event: Withdrawn, record: StoredRecord) -> Event | Difference:
        """The event as the message says it."""
        told = self._taken(read_completion, record, self._completion_limits)
        if not isinstance(told, Unavailable) or told.unavailable != event.llm:
            return "unavailable", event.llm, told
        return msgspec.structs.replace(event, error_class=told.error_class, worker=told.worker)

    def _refused_completion(self, event: Refused, record: StoredRecord) -> Difference | None:
        if not can_reject_completion(record, event.rejection):
            return _unfounded(event, read_completion(record, self._completion_limits))
        self._doubts_limits(event.rejection, self._completion_limits)
        return None

    # Limits

    def _taken(self, read: Callable[[StoredRecord, Limits], Any], record: StoredRecord, limits: Limits) -> Any:
        """What a record that was taken holds, whatever its limits were, or why it can never have been taken."""
        message = read(record, limits)
        if not isinstance(message, Rejection) or message.code not in LIMITED:
            return message
        self.doubts[OTHER_LIMITS] += 1
        return read(record, Limits())

    def _doubts_limits(self, rejection: Rejection, limits: Limits) -> bool:
        """Whether a rejection carries another limit than today's."""
        named, free = limits_of(rejection), Limits()
        other = any(a not in (b, c) for a, b, c in zip(named, free, limits, strict=True))
        self.doubts[OTHER_LIMITS] += other
        return other


def _asked(event: Arrived, query: Query) -> Arrived:
    """The event with what its record asks of an LLM."""
    tokens = input_tokens(query)
    return msgspec.structs.replace(
        event, asks=asks_of(query, tokens), tags=tags_of(query), input_tokens=known_tokens(tokens)
    )


def _unfounded(event: Refused, found: object) -> Difference:
    """A rejection that cannot be true. None where the record can be used."""
    return "rejection", event.rejection, found if isinstance(found, Rejection) else None


def _near(one: list[float] | list[int], other: list[float] | list[int], absolute: float, relative: float) -> bool:
    if len(one) != len(other):
        return False
    return all(abs(a - b) <= absolute + relative * max(abs(a), abs(b)) for a, b in zip(one, other, strict=True))
