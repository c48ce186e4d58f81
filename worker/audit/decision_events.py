"""From decision records back to the events that caused them. Pure.

One event can cause several records: a completion that failed closes its reservation and routes the query again, prices
are solved for before a query is routed, a tick expires many reservations. What a record does not say itself, the one
after it does: only a failed answer is followed by another attempt of its query.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from worker.audit.chain import DecisionRecord
from worker.contract.messages import Checkpoint, Closed, Configured, Decision, Ignored, Priced, Rejected, Routed
from worker.core.events import Arrived, Completed, Event, Reconfigured, Refused, Ticked

NIL = msgspec.Raw(msgspec.msgpack.encode(None))


def grouped(records: Iterable[DecisionRecord]) -> Iterator[list[DecisionRecord]]:
    """The records that one event caused, for each event in order."""
    group: list[DecisionRecord] = []
    for record in records:
        if group and not _goes_on([one.decision for one in group[-2:]], record.decision):
            yield group
            group = []
        group.append(record)
    if group:
        yield group


def _goes_on(decisions: Sequence[Decision], after: Decision) -> bool:
    """Whether the event that caused the last of these records caused `after` too."""
    match decisions[-1], after:
        case Configured(), Priced():
            return True
        case Priced(), Routed(attempt=1):
            return not isinstance(decisions[0], Configured)
        case ((Checkpoint() as decision), Checkpoint()):
            return after.part == decision.part + 1
        case ((Closed(offset=None) as decision), Closed(offset=None)):
            return decision.at_ms == after.at_ms
        case ((Closed(offset=int()) as decision), Routed()):
            return decision.dispatch_id.split("-")[1:] == [str(after.offset), str(after.attempt - 1)]
    return False


def event_of(decisions: Sequence[Decision]) -> Event:
    """The event that caused these records."""
    match decisions[0]:
        case Configured() as configured:
            return Reconfigured(configured.at_ms, configured.config)
        case Rejected() as rejected:
            return Refused(rejected.topic, rejected.offset, rejected.at_ms, rejected.reason, "")
        case Ignored() as ignored:
            return _nobody_waited(ignored)
        case Closed(offset=int(offset)) as closed:
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


def _nobody_waited(ignored: Ignored) -> Completed:
    # Which LLM it named is not recorded; an unnamed one is ignored just so.
    return Completed(ignored.offset, ignored.at_ms, ignored.dispatch_id, "", ok=True, cost_micros=None, basis="none")


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
