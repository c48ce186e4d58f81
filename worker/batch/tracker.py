"""What became of the queries of a batch, and what they cost, from the decisions and answers of their partitions. Pure.

A query ends with the answer of a dispatch, with a deferral, or as a dead letter. Two ends are seen only after a while:
a dispatch that expired, after which nothing else was decided, and one that settled without its answer on `answers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, cast

from msgspec import Struct

from worker.batch.faults import ERROR_CLASSES, FailureCode
from worker.contract.answers import Answer
from worker.contract.codes import DeferReason, ErrorClass, Remedy
from worker.contract.decisions import ChargedAgain, Closed, Decision, Rejected, Routed
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import Origin
from worker.core.attempts import NO_TIME
from worker.core.deferral import remedy

# A dispatch that closed without an answer or a next attempt is given so long. Both are in its transaction.
PATIENCE_SECONDS = 5.0


class Followed(Struct):
    """A query that was sent. `turn` counts how often its line was asked.

    `spent_micros` is over all its dispatches. `failure` is why the last of them failed. `closed_at` is when it closed
    without an answer, in monotonic seconds; `expired` says how its time ran out. `is_closed`: no dispatch is open.
    `answer_of` is the dispatch whose answer came, `charged` the last that was charged: a lane's records may be read
    long after the answer, or before it.
    """

    index: int
    turn: int
    spent_micros: int = 0
    dispatch_id: str | None = None
    llm: str | None = None
    failure: str | None = None
    deadline_ms: int | None = None
    expired: Literal["", "unanswered", "batch_expired"] = ""
    closed_at: float | None = None
    answer_of: str | None = None
    charged: str | None = None
    is_closed: bool = False
    has_ended: bool = False

    @property
    def is_done(self) -> bool:
        """Whether the line has ended, and all that it cost is known."""
        return self.has_ended and self.is_closed and self.answer_of in (None, self.charged)


class Answered(Struct, frozen=True):
    """A line has its answer."""

    index: int
    turn: int
    answer: Answer


class Failed(Struct, frozen=True):
    """A line has none. `remedy` is that of a deferral, `rejection` the reason of a dead letter.

    `llm` is the LLM whose call failed last, None if none was called. `spent_micros` is what its calls cost.
    """

    index: int
    turn: int
    code: FailureCode
    spent_micros: int = 0
    dispatch_id: str | None = None
    llm: str | None = None
    reason: DeferReason | None = None
    remedy: Remedy | None = None
    rejection: Rejected | None = None


End = Answered | Failed


class Spent(Struct):
    """What one LLM got: answers, and micro-dollars. `as_reserved_micros` is the part whose cost nobody told."""

    answers: int = 0
    spent_micros: int = 0
    as_reserved_micros: int = 0


class Tracker:
    """The queries of a batch that have not ended, or are not booked yet.

    `open` is how many have not ended. `spent` is by LLM, over all that were ever followed.
    """

    def __init__(self) -> None:
        self.open = 0
        self.spent: dict[str, Spent] = {}
        self._followed: dict[Origin, Followed] = {}
        self._silent: dict[Origin, Followed] = {}

    def __len__(self) -> int:
        """How many queries have not ended or are not booked."""
        return len(self._followed)

    def follow(self, index: int, turn: int, origin: Origin) -> None:
        """A line was sent."""
        if origin not in self._followed:
            self._followed[origin] = Followed(index, turn)
            self.open += 1

    @property
    def waiting(self) -> Literal["decision", "answer", "both"]:
        """What the queries that have not ended wait for: `decision`, `answer`, or `both`."""
        has_dispatch = {one.dispatch_id is not None for one in self._followed.values() if not one.has_ended}
        return "both" if len(has_dispatch) > 1 else ("answer" if True in has_dispatch else "decision")

    def answered(self, answer: Answer) -> End | None:
        """A record of `answers`."""
        one = self._followed.get(answer.origin)
        if one is None or one.has_ended:
            return None
        self._silent.pop(answer.origin, None)
        self._of(answer.llm).answers += 1
        one.answer_of = answer.dispatch_id
        return self._end(answer.origin, one, Answered(one.index, one.turn, answer))

    def decided(self, partition: int, decision: Decision, now: float) -> End | None:
        """A record of `decisions`, read at `now` (monotonic seconds)."""
        if isinstance(decision, Routed):
            return self._routed(Origin(partition, decision.offset), decision)
        if isinstance(decision, Closed | ChargedAgain):
            self._charged(decision, now)
        elif isinstance(decision, Rejected) and decision.cause.kind == "queries":
            origin = Origin(partition, decision.cause.number)
            if (one := self._followed.get(origin)) is not None:
                one.is_closed = True
                return self._end(origin, one, Failed(one.index, one.turn, "dead_letter", rejection=decision))
        return None

    def overdue(self, now: float, partitions: set[int]) -> Iterator[End]:
        """The ends of dispatches that closed a while ago without an answer. `partitions` were read to their end."""
        late = [
            origin
            for origin, one in self._silent.items()
            if origin.partition in partitions and now - (one.closed_at or now) > PATIENCE_SECONDS
        ]
        for origin in late:
            one = self._silent.pop(origin)
            yield self._end(origin, one, self._failed(one, one.expired or "answer_lost"))

    def _routed(self, origin: Origin, routed: Routed) -> End | None:
        one = self._followed.get(origin)
        if one is None:
            return None
        self._silent.pop(origin, None)
        if routed.llm is not None:
            one.is_closed, one.expired, one.llm, one.deadline_ms = False, "", routed.llm, routed.query_deadline_ms
            one.dispatch_id = str(DispatchId(origin.partition, origin.offset, routed.attempt))
            return None
        one.is_closed = True
        if one.has_ended:
            self._forget(origin, one)
            return None
        reason = cast(DeferReason, routed.reason)
        is_late = reason == "expired" or one.expired == "batch_expired"
        code: FailureCode = "batch_expired" if is_late else reason
        if one.failure in ERROR_CLASSES and not is_late:
            code = cast(ErrorClass, one.failure)
        return self._end(origin, one, self._failed(one, code, reason, remedy(routed)))

    def _charged(self, closed: Closed | ChargedAgain, now: float) -> None:
        parsed = DispatchId.parse(closed.dispatch_id)
        origin = None if parsed is None else Origin(parsed.partition, parsed.offset)
        one = None if origin is None else self._followed.get(origin)
        if origin is None or one is None:
            return
        replaced = closed.replaced_micros if isinstance(closed, ChargedAgain) else 0
        one.spent_micros += closed.spent_micros - replaced
        booked = self._of(closed.llm)
        booked.spent_micros += closed.spent_micros - replaced
        booked.as_reserved_micros += closed.spent_micros if closed.basis == "reservation" else 0
        is_expiry = isinstance(closed, Closed) and closed.outcome == "expired"
        if not is_expiry:
            one.charged = closed.dispatch_id
        if closed.dispatch_id == one.dispatch_id:
            one.is_closed = True
            if isinstance(closed, Closed) and not one.has_ended:
                is_late = one.deadline_ms is not None and one.deadline_ms <= closed.at_ms
                if is_expiry:
                    one.expired = "batch_expired" if is_late else "unanswered"
                elif NO_TIME in closed.remarks:
                    one.expired = "batch_expired"
                one.failure, one.closed_at = closed.error_class or closed.error, now
                self._silent[origin] = one
        self._forget(origin, one)

    def _failed(
        self, one: Followed, code: FailureCode, reason: DeferReason | None = None, what: Remedy | None = None
    ) -> Failed:
        return Failed(one.index, one.turn, code, one.spent_micros, one.dispatch_id, one.llm, reason, what)

    def _end(self, origin: Origin, one: Followed, end: End) -> End:
        one.has_ended = True
        self.open -= 1
        self._forget(origin, one)
        return end

    def _forget(self, origin: Origin, one: Followed) -> None:
        if one.is_done:
            self._followed.pop(origin, None)

    def _of(self, llm: str) -> Spent:
        return self.spent.setdefault(llm, Spent())
