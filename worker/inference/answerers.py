"""What answers a dispatch: a real LLM over HTTP, or a table of recorded answers."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from worker.contract import codec
from worker.contract.messages import Completion, Dispatch, Query
from worker.contract.settings import LlmSettings, Settings
from worker.inference import outcomes
from worker.inference.calls import Caller, Ended
from worker.inference.outcomes import Outcome
from worker.inference.published import Answered

MOST_REMARKS, MOST_CHARACTERS = 10, 200

_query_msgpack = msgspec.msgpack.Decoder(Query)
_query_json = msgspec.json.Decoder(Query)


class Answerer(Protocol):
    """Answers dispatches. If it `costs_money`, a lost call may have cost something, so calls are recorded as begun."""

    @property
    def costs_money(self) -> bool: ...

    async def __aenter__(self) -> Answerer: ...
    async def __aexit__(self, *error: Any) -> None: ...
    async def answer(self, dispatch: Dispatch) -> Answered:
        """What came of a dispatch. Raises nothing but its own cancellation."""

    def max_open(self, llm: str) -> int:
        """How many calls of an LLM may be open at the same time."""

    @property
    def held_bytes(self) -> int:
        """The bytes of answers that are being read."""


class LlmAnswerer:
    """Calls the LLMs of the settings that have a `base_url`."""

    costs_money = True

    def __init__(self, settings: Settings, llms: dict[str, LlmSettings]) -> None:
        """Raises FixSetting for a key that cannot be used."""
        self._llms = llms
        self._caller = Caller(llms, idempotency_prefix=settings.kafka.group)

    async def __aenter__(self) -> LlmAnswerer:
        await self._caller.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._caller.__aexit__(None, None, None)

    async def answer(self, dispatch: Dispatch) -> Answered:
        query = _query_of(dispatch)
        if query is None:
            return answered_by(dispatch, Ended(outcomes.unsendable("query"), 0, 0))
        return answered_by(dispatch, await self._caller.call(dispatch.llm, query, dispatch.id, dispatch.deadline_ms))

    def max_open(self, llm: str) -> int:
        return self._llms[llm].max_open

    @property
    def held_bytes(self) -> int:
        return self._caller.held_bytes


def answered_by(dispatch: Dispatch, ended: Ended) -> Answered:
    """The completion of a call."""
    outcome = ended.outcome
    completion = completion_of(dispatch, outcome)
    leaves = outcome.error_class if outcomes.next_step(outcome) == "leave" else None
    return Answered(completion, outcome.answer, ended.latency_ms, leaves)


def completion_of(dispatch: Dispatch, outcome: Outcome) -> Completion:
    """The completion that says how a call ended."""
    return Completion(
        dispatch_id=dispatch.id,
        origin_partition=dispatch.origin.partition,
        llm=dispatch.llm,
        status="ok" if outcome.ok else "error",
        usage=outcome.usage,
        error=None if outcome.error is None else outcome.error[:MOST_CHARACTERS],
        cost=outcome.cost,
        error_class=outcome.error_class,
        retry_after_ms=outcome.retry_after_ms,
        model=None if outcome.model is None else outcome.model[:MOST_CHARACTERS],
        remarks=tuple(remark[:MOST_CHARACTERS] for remark in outcome.remarks[:MOST_REMARKS]),
    )


def _query_of(dispatch: Dispatch) -> Query | None:
    """The query of a dispatch; None for bytes that are none."""
    value = bytes(dispatch.query)
    try:
        return (_query_json if codec.format_of(value) == "json" else _query_msgpack).decode(value)
    except codec.UNREADABLE:
        return None
