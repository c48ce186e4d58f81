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
from worker.contract.messages import Cause, Checkpoint, Closed, Configured, Decision, Ignored, Rejected, Routed
from worker.core.events import Arrived, Completed, Event, Reconfigured, Refused, Ticked

NIL = msgspec.Raw(msgspec.msgpack.encode(None))


class IgnoredCompletion(Completed, frozen=True, gc=False):
    """A completion that changed nothing, as its decision records it: without its status."""


def grouped(records: Iterable[DecisionRecord]) -> Iterator[list[DecisionRecord]]:
    """The records that one event caused, for each event in order."""
    for _, group in groupby(records, key=lambda record: record.decision.cause):
        yield list(group)


def event_of(decisions: Sequence[Decision]) -> Event:
    """The event that caused these records."""
    match decisions[0]:
        case Configured() as configured:
            return Reconfigured(configured.at_ms, configured.config)
        case Rejected() as rejected:
            return Refused(topic_of(rejected), rejected.cause.number, rejected.at_ms, rejected.rejection)
        case Ignored() as ignored:
            return _ignored(ignored)
        case Closed(cause=Cause(kind="completions", number=offset)) as closed:
            retry = decisions[1] if len(decisions) > 1 else None
            return _completed(closed, offset, retry if isinstance(retry, Routed) else None)
        case Closed() | Checkpoint():
            return Ticked(decisions[0].at_ms)
    last = decisions[-1]
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


def topic_of(rejected: Rejected) -> Literal["queries", "completions"]:
    """The input topic of a rejected record."""
    return "queries" if rejected.cause.kind == "queries" else "completions"


def _ignored(ignored: Ignored) -> Completed:
    return IgnoredCompletion(
        offset=ignored.cause.number,
        at_ms=ignored.at_ms,
        dispatch_id=ignored.dispatch_id,
        llm=ignored.llm,
        ok=True,
        cost_micros=ignored.cost_micros,
        basis=ignored.basis,
    )


def _completed(closed: Closed, offset: int, again: Routed | None) -> Completed:
    unknown = closed.basis in ("reservation", "none")
    return Completed(
        offset=offset,
        at_ms=closed.at_ms,
        dispatch_id=closed.dispatch_id,
        llm=closed.llm,
        ok=again is None and closed.outcome == "settled",
        cost_micros=None if unknown else closed.spent_micros,
        basis="none" if closed.basis == "reservation" else closed.basis,
        quality=closed.quality,
        error=closed.error,
        # Without estimates the query had left its topic when it was to be tried again.
        retry=arrived(again) if again is not None and again.quality else None,
    )
