"""From decision records back to the events that caused them. Pure.

One event can cause several records: a completion that failed closes its reservation and routes the query again, prices
are solved for before a query is routed, a tick expires many reservations. All of them carry the same cause. Whether a
completion was an error is told by the record after it: only an error is followed by another attempt of its query.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal

import msgspec

from worker.audit.chain import DecisionRecord
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
)
from worker.core.events import Arrived, Completed, Event, Reconfigured, Refused, Removed, Ticked

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
        case Rejected():
            return Refused(topic_of(first), first.cause.number, first.at_ms, first.rejection)
        case Missed():
            return Removed(topic_of(first), first.cause.number + 1, first.at_ms)
        case Closed(cause=Cause(kind="completions")) | ChargedAgain() | Ignored():
            return _completed(first, decisions[1:])
        case Closed() | Checkpoint():
            return Ticked(first.at_ms)
    return arrived(last) if isinstance(last, Routed) else Ticked(last.at_ms)


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
    )


def topic_of(record: Rejected | Missed) -> Literal["queries", "completions"]:
    """The input topic of a rejected record, or of missed ones."""
    return "queries" if record.cause.kind == "queries" else "completions"


def _completed(first: Closed | ChargedAgain | Ignored, after: Sequence[Decision]) -> Completed:
    offset = first.cause.number
    if isinstance(first, Ignored):
        return Completed(
            offset, first.at_ms, UsableCompletion(first.dispatch_id, first.llm, stated_micros=first.cost_micros)
        )
    again = after[0] if after and isinstance(after[0], Routed) else None
    # Every failed answer is followed by another attempt of its query. Without estimates the query had left its topic.
    retry = arrived(again) if again is not None and again.quality else None
    return Completed(offset, first.at_ms, _answer(first, is_ok=again is None), retry)


def _answer(record: Closed | ChargedAgain, is_ok: bool) -> UsableCompletion:
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
        ok=is_ok,
        stated_micros=stated,
        cost=cost,
        usage=record.usage,
        quality=record.quality,
        error=record.error,
        remarks=record.remarks,
    )
