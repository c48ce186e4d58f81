"""What inference workers write about calls of LLMs, besides completions."""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct

from worker.contract.codes import CostWord, ErrorClass
from worker.contract.messages import Origin


class Answer(Struct, frozen=True, omit_defaults=True):
    """An LLM's answer to a query, on `answers`, as JSON; the key is the query's id. It always comes with a completion.

    `response` is the provider's answer as it came. `cost_micros` is null where the cost is unknown. `at_ms` is when
    the answer was there, `latency_ms` how long the LLM took, waits for its provider's limits included.
    """

    query_id: str
    dispatch_id: str
    origin: Origin
    attempt: int
    llm: str
    model: str | None
    cost: CostWord
    cost_micros: int | None
    usage: dict[str, Any] | None
    latency_ms: int
    at_ms: int
    remarks: tuple[str, ...]
    response: Raw
    tags: dict[str, str] = {}


class Begun(Struct, frozen=True, omit_defaults=True):
    """A call of an LLM that has begun and may cost money, on `begun`; the key is the dispatch's id.

    The record is there before the HTTP request, and its tombstone comes with the completion. `lost`: the worker died
    with few other calls, so that this one may be why, and the completion said that it is lost.
    """

    dispatch_id: str
    llm: str
    worker: str
    at_ms: int
    lost: bool = False


class Unavailable(Struct, frozen=True):
    """On `completions`: an inference worker calls an LLM no more, because its provider refuses the key."""

    unavailable: str
    error_class: ErrorClass
    worker: str
