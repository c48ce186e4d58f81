"""What becomes of a query after a dispatch of it has failed, or nobody has answered it. Pure.

| class of the error | what follows |
|---|---|
| `context_length` | an LLM with more context |
| `content_filter` | a deferral, or the next LLM if `routing.after_content_filter` says so |
| `overloaded`, `timeout`, `unreachable` | the next LLM; without one, the same LLM once more if it had time for a call |
| any other class, or none | the next LLM |
| no answer | the next LLM, never one that has not answered |

Each dispatch counts for `routing.max_attempts`, and reserves money of its own. What was refused free of charge is
repeated by the inference worker, inside the dispatch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Raw, Struct, msgpack
from msgspec.structs import replace

from worker.contract.codes import DeferReason, ErrorClass
from worker.contract.completions import UsableCompletion
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import Configuration, Reservation
from worker.core.draws import Draws
from worker.core.events import Arrived

# Nothing is wrong with the request or with the LLM's settings: the same call may succeed.
MAY_PASS: tuple[ErrorClass, ...] = ("overloaded", "timeout", "unreachable")
# A remark of the inference worker: the deadline left this LLM no time for a call.
NO_TIME = "deadline"


class Attempt(Struct, frozen=True):
    """A dispatch that is to be made. LLMs that were `tried`, and those with no more than `above_context_tokens` of
    context, are no candidates. If no candidate is left, `again` is asked once more.

    `deferred` is the reason of a deferral in its place. `otherwise` is the reason of the deferral that follows if no
    LLM can be asked; None: the reason is what is lacking.
    """

    number: int = 1
    tried: tuple[str, ...] = ()
    above_context_tokens: int = 0
    again: str | None = None
    deferred: DeferReason | None = None
    otherwise: DeferReason | None = None

    def candidates(self, ranked: Sequence[int], config: Configuration) -> list[int]:
        """The LLMs worth trying, best first, and last the one that may be asked once more. `ranked` are all that are
        worth their price."""
        if not self.tried:
            return list(ranked)
        able = [i for i in ranked if self._has_context(config.llms[i], config)]
        untried = [i for i in able if config.llms[i] not in self.tried]
        return untried + [i for i in able if config.llms[i] == self.again]

    def ends(self, query: Arrived | None, config: Configuration, now_ms: int) -> DeferReason | None:
        """Why the query is deferred before any LLM is looked at; None: it goes on. `query` is None if it has left its
        topic."""
        if query is None:
            return self.otherwise or "failed"
        if self.deferred is not None:
            return self.deferred
        if self.number > config.max_attempts:
            return self.otherwise or "failed"
        is_late = query.deadline_ms is not None and query.deadline_ms <= now_ms
        return (self.otherwise or "expired") if is_late else None

    def reason(self, config: Configuration, left: Collection[str], is_lacking: bool, is_out: bool) -> DeferReason:
        """Why no LLM could be asked: which are `left` as candidates, whether one lacked money, and whether one was
        taken out."""
        if self.otherwise is not None:
            return self.otherwise
        if is_lacking or is_out:
            return "exhausted" if is_lacking else "unavailable"
        if not left:
            return "no_candidate"
        able = {llm for llm in left if self._has_context(llm, config)}
        return "failed" if able <= set(self.tried) else "priced_out"

    def _has_context(self, llm: str, config: Configuration) -> bool:
        """Whether the LLM has enough context, for all that is known of it."""
        known = config.context_tokens.get(llm)
        return known is None or known > self.above_context_tokens


FIRST = Attempt()


def acted_by(answer: UsableCompletion, config: Configuration) -> UsableCompletion:
    """The answer as a lane of this configuration acts by it. One of an older version did not see classes of errors."""
    return answer if config.probe_ms else replace(answer, error_class=None, retry_after_ms=None)


def after_silence(reservation: Reservation) -> Attempt:
    """What follows a dispatch that nobody has answered."""
    return _next(reservation, otherwise="unanswered")


def after_failure(reservation: Reservation, answer: UsableCompletion, config: Configuration) -> Attempt:
    """What follows a dispatch that has failed."""
    named = answer.error_class
    if named == "content_filter" and config.defers_filtered:
        return _next(reservation, deferred="filtered")
    if named == "context_length":
        return _next(reservation, above_context_tokens=config.context_tokens.get(reservation.llm, 0))
    may_pass = named in MAY_PASS and NO_TIME not in answer.remarks
    return _next(reservation, again=reservation.llm if may_pass else None)


def _next(
    reservation: Reservation,
    above_context_tokens: int = 0,
    again: str | None = None,
    deferred: DeferReason | None = None,
    otherwise: DeferReason | None = None,
) -> Attempt:
    return Attempt(
        number=reservation.attempt + 1,
        tried=tuple(dict.fromkeys((*reservation.tried, reservation.llm))),
        above_context_tokens=max(above_context_tokens, reservation.above_context_tokens),
        again=again,
        deferred=deferred,
        otherwise=otherwise,
    )


def reservation_for(
    query: Arrived, i: int, attempt: Attempt, config: Configuration, draws: Draws, partition: int, now_ms: int
) -> Reservation:
    """What a dispatch of the query to LLM number `i` holds of each budget."""
    held = draws.held(query.tags, i, query.cost_micros[i], query.input_tokens)
    deadline_ms = now_ms + config.reservation_ms
    if query.deadline_ms is not None:
        deadline_ms = min(deadline_ms, query.deadline_ms)
    return Reservation(
        dispatch_id=str(DispatchId(partition, query.offset, attempt.number)),
        query_id=query.query_id,
        llm=config.llms[i],
        offset=query.offset,
        attempt=attempt.number,
        reserved_micros=held.micros,
        at_ms=now_ms,
        deadline_ms=deadline_ms,
        tried=attempt.tried,
        unanswered_at_ms=_unanswered_at_ms(query, i, config, now_ms, deadline_ms),
        above_context_tokens=attempt.above_context_tokens,
        tags=query.tags,
        holds=held.holds,
        reserved_tokens=held.tokens,
    )


def _unanswered_at_ms(query: Arrived, i: int, config: Configuration, now_ms: int, deadline_ms: int) -> int:
    """When the dispatch is unanswered: early enough that another LLM can answer in time."""
    if not config.unanswered_ms:
        return 0
    wait_ms = config.unanswered_ms[i]
    if query.deadline_ms is not None:
        wait_ms = min(wait_ms, (query.deadline_ms - now_ms) // 2)
    return min(now_ms + wait_ms, deadline_ms)


def gone(reservation: Reservation) -> Arrived:
    """What is left of a query that has left its topic."""
    nil = Raw(msgpack.encode(None))
    return Arrived(reservation.offset, 0, reservation.query_id, [], [], None, nil, tags=reservation.tags)
