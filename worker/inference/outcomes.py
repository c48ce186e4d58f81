"""How one call of an LLM ended: its class, its cost, what to do next and what becomes of the LLM. Pure.

The rules are by what providers document and do (docs/how-to/call-real-llms.md has the table). Three facts decide:

- Whether the provider refused before it worked. Then the call cost nothing, and may be repeated.
- Whether it said what the call used. Then the cost is known. Else the cost is unknown, which is never zero.
- Whether this LLM will ever take this request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from worker.contract.codes import CostWord, ErrorClass
from worker.contract.settings import LlmSettings
from worker.inference import replies
from worker.inference.dialects import Request
from worker.inference.faults import Fault, fault_of, is_error, status_of
from worker.inference.models import is_same_model
from worker.inference.refusals import status_by_words, verdict_of
from worker.inference.waits import retry_after_ms

# `repeat`: this call again inside the dispatch, because it was refused free. `attempt`: a new dispatch, to this LLM or
# another. `next_llm`: never to this LLM again. `more_context`: only to an LLM with more context. `by_settings`: to the
# next LLM only if the settings allow. `leave`: this worker serves the LLM no more.
Next = Literal["done", "repeat", "attempt", "next_llm", "more_context", "by_settings", "leave"]
# `waits`: its other calls wait too. `counts`: against its health. `out`: it is taken out until a probe succeeds.
Fate = Literal["stays", "waits", "counts", "out"]

# A longer wait is not waited: the next LLM is faster, and such figures are often false.
MOST_WAIT_MS = 60_000
# A text of so many characters a token was cut before the model read it: languages have 1 to 6, code up to 10.
MOST_CHARACTERS_PER_TOKEN = 16
LEAST_CHARACTERS = 200
BLANK_JSON = " \t\r\n{[\"'`"


class Outcome(Struct, frozen=True):
    """How a call ended. `error_class` is None for an answer, and `error` says more in the provider's codes.

    `usage` is the provider's, as it came; it makes a cost known. `answer` is the answer as valid JSON.
    """

    error_class: ErrorClass | None
    cost: CostWord
    usage: dict[str, Any] | None = None
    retry_after_ms: int | None = None
    model: str | None = None
    remarks: tuple[str, ...] = ()
    error: str | None = None
    answer: bytes | None = None

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.error_class is None


def outcome_of(
    status: int, headers: Mapping[str, str], raw: bytes, request: Request, llm: LlmSettings, now_ms: int
) -> Outcome:
    """How a call ended that was replied to. Names of headers are lower-case; `raw` is the whole body, decompressed."""
    body = replies.read_body(raw, request.dialect, headers.get("content-type", ""))
    if 200 <= status < 300:
        if not is_error(body.value) or replies.read_reply(body.value, request.dialect).is_whole:
            return _answered(body, request, llm)
        named = _named_status(body.value)
        outcome = _refused(named or 500, headers, body, request, llm, now_ms)
        if named is None and outcome.error_class == "overloaded":
            return msgspec.structs.replace(outcome, error_class="bad_answer", cost="unknown")
        # Where the status was 200, only a code of a refusal says that no work was done.
        free = named is not None and 400 <= named < 500
        return msgspec.structs.replace(outcome, cost=outcome.cost if free else "unknown")
    return _refused(status, headers, body, request, llm, now_ms)


def _named_status(body: object) -> int | None:
    """The status that an error in a body stands for: by its number, or by the words that providers use for it."""
    named = status_of(body)
    if named is not None:
        return named
    return status_by_words(fault_of(body, ""))


# Answers


def _answered(body: replies.Body, request: Request, llm: LlmSettings) -> Outcome:
    remarks = [*request.remarks, *body.remarks]
    if body.value is None:
        return _not_json(body, remarks)
    reply = replies.read_reply(body.value, request.dialect)
    known: dict[str, Any] = {"model": reply.model, "usage": reply.usage, "cost": _told(reply.usage)}
    if reply.model is not None and not is_same_model(request.model, reply.model, llm.answers_as):
        # The asked model's price is not the price of another model.
        stated = _states_cost(reply.usage)
        remarks.append("model_differs")
        known |= {"cost": "known" if stated else "unknown", "usage": reply.usage if stated else None}
    if _is_cut(reply, request):
        remarks.append("prompt_cut")
    common = known | {"remarks": tuple(remarks)}
    if reply.end == "filtered" and not reply.refused:
        return Outcome("content_filter", error="content_filter", **common)
    if not reply.is_whole or reply.end == "failed":
        return Outcome("bad_answer", error="failed" if reply.end == "failed" else "no_choices", **common)
    nothing = not reply.has_calls and not reply.refused and not reply.text.strip(BLANK_JSON)
    if nothing and reply.end == "limit":
        return Outcome("bad_answer", error="limit_reached", **(common | {"remarks": (*remarks, "limit_reached")}))
    if reply.refused:
        remarks.append("refusal")
    elif nothing and not reply.text:
        remarks.append("empty")
    return Outcome(None, answer=body.valid, **(common | {"remarks": tuple(remarks)}))


def _not_json(body: replies.Body, remarks: list[str]) -> Outcome:
    if body.text.startswith("<"):
        title = fault_of(None, body.text).title
        return Outcome("misconfigured", "unknown", remarks=(*remarks, "page"), error=f"a page: {title or 'no title'}")
    return Outcome("bad_answer", "unknown", remarks=tuple(remarks), error="not_json")


def _told(usage: dict[str, Any] | None) -> CostWord:
    """Whether a usage says what was used. Counts that are all zero say nothing."""
    return "known" if any(map(_is_above_zero, _leaves(usage))) else "unknown"


def _states_cost(usage: dict[str, Any] | None) -> bool:
    """Whether the provider states the price itself."""
    return any(_is_above_zero((usage or {}).get(name)) for name in ("cost", "cost_usd", "total_cost"))


def _leaves(usage: dict[str, Any] | None) -> list[object]:
    counts: list[object] = []
    for value in (usage or {}).values():
        counts += _leaves(value) if isinstance(value, dict) else [value]
    return counts


def _is_above_zero(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return float(value) > 0
    except ValueError:
        return False


def _is_cut(reply: replies.Reply, request: Request) -> bool:
    """Whether the provider counts far fewer tokens than the request has: it cut the prompt without a word."""
    usage = reply.usage or {}
    counts = [usage.get(name) for name in ("prompt_tokens", "input_tokens")]
    cached = [usage.get(name) for name in ("cache_read_input_tokens", "cache_creation_input_tokens")]
    read = next((one for one in counts if isinstance(one, int) and one > 0), None)
    if read is None or request.characters < LEAST_CHARACTERS:
        return False
    read += sum(one for one in cached if isinstance(one, int))
    return read * MOST_CHARACTERS_PER_TOKEN < request.characters


# Refusals


def _refused(
    status: int, headers: Mapping[str, str], body: replies.Body, request: Request, llm: LlmSettings, now_ms: int
) -> Outcome:
    fault = fault_of(body.value, body.text)
    wait_ms = retry_after_ms(headers, body.value, fault.words, now_ms)
    verdict = verdict_of(status, fault, wait_ms, llm)
    told = replies.read_reply(body.value, request.dialect).usage
    return Outcome(
        verdict.error_class,
        "known" if _told(told) == "known" else verdict.cost,
        usage=told,
        retry_after_ms=wait_ms if verdict.error_class in ("rate_limited", "overloaded") else None,
        remarks=(*request.remarks, *verdict.remarks),
        error=_named(status, fault),
    )


def _named(status: int, fault: Fault) -> str:
    """The status and the provider's codes, never its sentences: a sentence may quote the question or the key."""
    parts = [str(status), fault.code, fault.parameter, fault.title]
    return " ".join(part for part in parts if part)


# Calls without a reply


def broken(is_sent: bool, kind: Literal["timeout", "unreachable"], error: str, *remarks: str) -> Outcome:
    """A call that was not replied to. It cost nothing if it was not sent, and may have cost something else."""
    return Outcome(kind, "unknown" if is_sent else "zero", remarks=remarks, error=error)


def unusable(error: str, status: int | None = None) -> Outcome:
    """A reply that cannot be read."""
    return Outcome("bad_answer", "unknown", error=error if status is None else f"{status} {error}")


def unsendable(reason: str) -> Outcome:
    """A request that this LLM cannot be asked, before any HTTP."""
    return Outcome("refused_request", "zero", remarks=(reason,), error=reason)


# What follows

# Remarks of failures that say nothing about the LLM.
STAYS = {"limit_reached", "kept_connection", "deadline", "worker_lost", "worker_stopped"}


def next_step(outcome: Outcome, repeats_what_broke: bool = False) -> Next:
    """What to do after a call. Inside a dispatch only what cost nothing is repeated.

    `repeats_what_broke`: the provider does not work twice for one Idempotency-Key.
    """
    error_class = outcome.error_class
    if error_class is None:
        return "done"
    if error_class in ("rate_limited", "overloaded"):
        is_short = (outcome.retry_after_ms or 0) <= MOST_WAIT_MS
        return "repeat" if outcome.cost == "zero" and is_short and "loading" not in outcome.remarks else _later(outcome)
    if error_class in ("timeout", "unreachable"):
        not_sent = error_class == "unreachable" and outcome.cost == "zero"
        return "repeat" if repeats_what_broke or not_sent else "attempt"
    steps: dict[ErrorClass, Next] = {
        "context_length": "more_context",
        "content_filter": "by_settings",
        "auth": "leave",
    }
    return steps.get(error_class, "next_llm")


def _later(outcome: Outcome) -> Next:
    return "attempt" if outcome.cost != "zero" else "next_llm"


def fate(outcome: Outcome) -> Fate:
    """What becomes of the LLM after a call."""
    error_class, remarks = outcome.error_class, outcome.remarks
    if error_class == "rate_limited":
        return "waits" if (outcome.retry_after_ms or 0) <= MOST_WAIT_MS else "out"
    if error_class in ("quota", "misconfigured", "auth") or "loading" in remarks:
        return "out"
    if STAYS & set(remarks):
        return "stays"
    return "counts" if error_class in ("overloaded", "timeout", "unreachable", "bad_answer") else "stays"
