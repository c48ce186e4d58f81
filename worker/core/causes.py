"""What the records of an event name as their cause. Pure."""

from __future__ import annotations

from worker.contract.decisions import Cause
from worker.core.events import Arrived, Completed, Event, Reconfigured, Refused, Removed, Unanswered, Withdrawn


def cause_of(event: Event, decisions: int) -> Cause:
    """The cause of an event before which the partition has so many decision records."""
    if isinstance(event, Arrived):
        return Cause("queries", event.offset)
    if isinstance(event, Completed | Withdrawn):
        return Cause("completions", event.offset)
    if isinstance(event, Refused | Removed):
        return Cause(event.topic, event.offset if isinstance(event, Refused) else event.before - 1)
    if isinstance(event, Reconfigured):
        return Cause("settings", decisions)
    return Cause("unanswered" if isinstance(event, Unanswered) else "tick", decisions)
