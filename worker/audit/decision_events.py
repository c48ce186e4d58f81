"""From decision records back to the events that caused them. Pure.

One event can cause several records: a completion that failed closes its reservation and routes the query again, prices
are solved for before a query is routed, a tick expires many reservations. All of them carry the same cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal

import msgspec

from worker.audit.chain import DecisionRecord
from worker.contract.asks import NOTHING
from worker.contract.codes import CostWord
from worker.contract.completions import UsableCompletion
from worker.contract.decisions import (
    Cause,
    ChargedAgain,
    Checkpoint,
    Closed,
    Configured,
    Decision,
    Ignored,
    Missed,
    Rejected,
    Routed,
    Switched,
)
from worker.core.events import (
    Arrived,
    Completed,
    Event,
    Expiry,
    Reconfigured,
    Refused,
    Removed,
    Ticked,
    Unanswered,
    Withdrawn,
)

NIL = msgspec.Raw(msgspec.msgpack.encode(None))


def grouped(records: Iterable[DecisionRecord]) -> Iterator[list[DecisionRecord]]:
    """The records that one event caused, for each event in order."""
    for _, group in groupby(records, key=lambda record: record.decision.cause):
        yield list(group)


def event_of(decisions: Sequence[Decision]) -> Event:
    """The event that caused these records."""
    first, last = decisions[0], decisions[-1]
    match first:
        case Configured():
            return Reconfigured(first.at_ms, first.config)
        case Rejected() | Missed():
            return _left_out(first)
        case Closed(cause=Cause(kind="completions")) | ChargedAgain() | Ignored():
            return _completed(first, decisions[1:])
        case Closed() | Checkpoint():
            expired = (decision for decision in decisions if isinstance(decision, Closed))
            return Ticked(first.at_ms, tuple(Expiry(one.dispatch_id, one.basis == "unanswered") for one in expired))
        case Switched(worker=str(worker)):
            named = first.error_class or "misconfigured"
            return Withdrawn(first.cause.number, first.at_ms, first.llm, named, worker)
    return _of_query(last) if isinstance(last, Routed) else Ticked(last.at_ms)


def _left_out(record: Rejected | Missed) -> Refused | Removed:
    """Input records that could not be used, or that were gone."""
    if isinstance(record, Missed):
        return Removed(topic_of(record), record.cause.number + 1, record.at_ms)
    return Refused(topic_of(record), record.cause.number, record.at_ms, record.rejection)


def _of_query(routed: Routed) -> Arrived | Unanswered:
    """A query that arrived, or that goes on without an answer."""
    if routed.cause.kind == "unanswered":
        return Unanswered(routed.at_ms, routed.offset, routed.attempt - 1, _again(routed))
    return arrived(routed)


def arrived(routed: Routed) -> Arrived:
    """The query of a decision, with the estimates that it was decided on."""
    return Arrived(
        offset=routed.offset,
        at_ms=routed.at_ms,
        query_id=routed.query_id,
        quality=routed.quality,
        cost_micros=routed.cost_micros,
        deadline_ms=routed.query_deadline_ms,
        query=NIL,
        asks=routed.asks or NOTHING,
        tags=routed.tags,
        input_tokens=routed.input_tokens,
    )


def topic_of(record: Rejected | Missed) -> Literal["queries", "completions"]:
    """The input topic of a rejected record, or of missed ones."""
    return "queries" if record.cause.kind == "queries" else "completions"


def _completed(first: Closed | ChargedAgain | Ignored, after: Sequence[Decision]) -> Completed | Withdrawn:
    offset = first.cause.number
    if isinstance(first, Ignored) and first.code == "unknown_llm":
        return Withdrawn(offset, first.at_ms, first.llm, "misconfigured", "")
    if isinstance(first, Ignored):
        return Completed(
            offset, first.at_ms, UsableCompletion(first.dispatch_id, first.llm, stated_micros=first.cost_micros)
        )
    again = after[-1] if after and isinstance(after[-1], Routed) else None
    return Completed(offset, first.at_ms, _answer(first), None if again is None else _again(again))


def _again(routed: Routed) -> Arrived | None:
    """The query of a further attempt. Without estimates it had left its topic."""
    return arrived(routed) if routed.quality else None


def _answer(record: Closed | ChargedAgain) -> UsableCompletion:
    """An answer that charges what the record says, on the same basis."""
    cost: CostWord | None = None
    stated = None
    match record.basis:
        case "cost":
            stated = record.spent_micros
        case "limit":
            stated = record.spent_micros + 1
        case "none":
            cost = "zero"
        case "usage" | "reservation":
            pass
    return UsableCompletion(
        dispatch_id=record.dispatch_id,
        ok=not record.failed,
        stated_micros=stated,
        cost=cost,
        usage=record.usage,
        quality=record.quality,
        error=record.error,
        remarks=record.remarks,
        error_class=record.error_class if isinstance(record, Closed) else None,
        retry_after_ms=record.retry_after_ms if isinstance(record, Closed) else None,
    )
