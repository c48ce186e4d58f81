"""What a lane does about dispatches that nobody answers: the query goes on, and in the end the reservation expires.

Only the topics know whether an answer waits and whether a call has begun. The lane looks there when something is due,
and hands what it found to the router as events, so that the decisions hold what they depend on. It reads `begun` only
then: as a third input, `begun` would be two more records to read and to record for each query.

1. What has a completion in `completions` that the lane has not read yet stays as it is: that answer wins.
2. An unanswered dispatch: its query is read again and goes on.
3. A reservation past its deadline expires, as reserved if its call has begun. Its query has gone on before.
"""

from __future__ import annotations

from worker.contract.completions import UsableCompletion
from worker.contract.messages import Reservation
from worker.contract.rejections import Limits, read_completion
from worker.core.events import Expiry, Ticked
from worker.core.lane_view import LaneView
from worker.service.intake import Input, Intake

# What one look expires at most, so that a mass expiry is many transactions and none outlasts its timeout. A lane looks
# every second and dispatches less than this in one.
EXPIRIES = 10_000
# Their queries are read and estimated again.
UNANSWERED = 1_000
# A lane that is so far behind reads its completions first.
MOST_UNREAD = 10_000


class Overdue:
    """Looks at the dispatches of one lane. It reads `begun` from where it has read to."""

    def __init__(self, partition: int, intake: Intake) -> None:
        self._partition = partition
        self._intake = intake
        self._begun: set[str] = set()
        self._next_offset = 0

    def look(self, lane: LaneView, now_ms: int) -> list[Input]:
        """What is due, as inputs for the router. Raises CheckBroker."""
        unanswered, expired = lane.unanswered(now_ms, UNANSWERED), lane.expired(now_ms, EXPIRIES)
        # First `begun`: the completion of a call that has ended there is in `completions` by then.
        ended = self._read_begun(lane) if expired else set()
        answered = self._unread_answers(lane.offsets.completions)
        if answered is None:
            return []
        unanswered = [one for one in unanswered if one.dispatch_id not in answered]
        gone_on, stays = {one.dispatch_id for one in unanswered}, answered | ended
        closing = [
            Expiry(one.dispatch_id, one.dispatch_id in self._begun)
            for one in expired
            if one.dispatch_id not in stays and (one.dispatch_id in gone_on or not _is_waited_for(one))
        ]
        inputs = self._intake.unanswered(self._partition, unanswered, now_ms)
        return [*inputs, Input(Ticked(now_ms, tuple(closing)))] if closing else inputs

    def _read_begun(self, lane: LaneView) -> set[str]:
        """Read on in `begun`; returns the calls that have ended since the last look.

        Their end and their completion are one transaction, but Kafka shows its partitions one after the other. At the
        next look, a call that has ended without a completion has cost nothing: its worker left the LLM.
        """
        ended = set()
        topic = self._intake.settings.topics.begun
        for record in self._intake.reader.read_partition(topic, self._partition, self._next_offset):
            self._next_offset = record.offset + 1
            dispatch_id = (record.key or b"").decode(errors="replace")
            if record.value is None:
                self._begun.discard(dispatch_id)
                ended.add(dispatch_id)
            else:
                self._begun.add(dispatch_id)
        self._begun &= lane.open.keys()
        return ended

    def _unread_answers(self, applied: int) -> set[str] | None:
        """The dispatches that records of `completions` answer which the lane has not applied; None for too many."""
        settings, reader = self._intake.settings, self._intake.reader
        place = settings.topics.completions, self._partition
        first, end = max(applied + 1, reader.oldest([place])[place]), reader.ends([place])[place]
        if end - first > MOST_UNREAD:
            return None
        limits = Limits.of_completions(settings.limits)
        read = [read_completion(record, limits) for record in reader.read_partition(*place, first, end)]
        return {answer.dispatch_id for answer in read if isinstance(answer, UsableCompletion)}


def _is_waited_for(reservation: Reservation) -> bool:
    """Whether its query has to go on before it expires."""
    return reservation.unanswered_at_ms > 0 and reservation.may_retry
