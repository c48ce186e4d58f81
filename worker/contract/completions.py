"""Reads a completion as it was meant: whatever can be used closes the reservation, and the rest is remarked. Pure.

Only the dispatch's id has to be right, because it says which reservation closes. Every other field that cannot be used
is left out, with a remark: a code that is recorded, counted and warned of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, get_args

from msgspec import Struct

from worker.contract.answers import Unavailable
from worker.contract.codes import CostWord, ErrorClass
from worker.contract.messages import Completion
from worker.contract.usage import (
    MICROS_PER_USD,
    UnusableUsage,
    Usage,
    UsageProblemCode,
    number,
    read_usage,
    whole_number,
)

Remark = Literal[
    # Of the cost.
    "cost_not_a_number",
    "cost_negative",
    "cost_in_dollars",
    "cost_above_limit",
    "no_price_list",
    "unpriced_input_audio",
    "unpriced_output_audio",
    "unpriced_tool_calls",
    "unpriced_service_tier",
    # Of the usage.
    "usage_absent",
    "usage_no_counts",
    "usage_not_a_count",
    "usage_partial",
    "usage_zero",
    # Of the rest.
    "llm_spelled_otherwise",
    "partition",
    "status",
    "quality",
    "unknown_field",
    # Of the dispatch.
    "second_answer",
    # Of the call, by the inference worker.
    "loading",
    "limit_reached",
    "kept_connection",
    "deadline",
    "worker_lost",
    "worker_stopped",
]

MOST_MICROS = 2**53
MOST_ERROR_CHARACTERS = 1_000
MOST_NAME_CHARACTERS = 256
OK_WORDS = {"ok", "success", "succeeded", "successful", "completed", "complete", "done", "finished", "stop", "200"}
ERROR_WORDS = {"error", "err", "failed", "failure", "fail", "exception", "timeout", "cancelled", "canceled", "rejected"}
# What an inference worker remarks, and the router acts by.
OF_THE_CALL: tuple[Remark, ...] = (
    "loading",
    "limit_reached",
    "kept_connection",
    "deadline",
    "worker_lost",
    "worker_stopped",
)
COST_WORDS: tuple[CostWord, ...] = ("known", "zero", "unknown")
# Errors of a provider that refuses a call before it works, and takes no money for that. Not among them: some providers
# charge for a request that is too long, and a page that is no API (`misconfigured`) says nothing of money.
FREE_ERRORS = {"rate_limited", "overloaded", "quota", "auth", "refused_request"}
ERROR_CLASSES: tuple[ErrorClass, ...] = get_args(ErrorClass)
FIELDS = frozenset(Completion.__struct_fields__)
USAGE_REMARKS: dict[UsageProblemCode, Remark] = {
    "absent": "usage_absent",
    "no_counts": "usage_no_counts",
    "not_a_count": "usage_not_a_count",
    "partial": "usage_partial",
    "zero": "usage_zero",
}


class UsableCompletion(Struct, frozen=True, gc=False):
    """A completion that can be used. `llm` is None where it names none, `ok` says whether the call succeeded.

    `stated_micros` is the cost that it states, in micro-dollars; None where it states none that can be. `cost` is what
    it says of the cost of an error. `usage` is None where none can be used: a remark says why. `error_class` is None
    for an error of no known class.
    """

    dispatch_id: str
    llm: str | None = None
    ok: bool = True
    stated_micros: int | None = None
    cost: CostWord | None = None
    usage: Usage | None = None
    quality: float | None = None
    error: str | None = None
    remarks: tuple[Remark, ...] = ()
    error_class: ErrorClass | None = None
    retry_after_ms: int | None = None


def read_unavailable(fields: Mapping[str, Any]) -> Unavailable | None:
    """What an inference worker says that calls an LLM no more; None for fields that say something else."""
    llm, worker = fields.get("unavailable"), fields.get("worker")
    if "dispatch_id" in fields or not isinstance(llm, str) or not 0 < len(llm) <= MOST_NAME_CHARACTERS:
        return None
    named = worker[:MOST_NAME_CHARACTERS] if isinstance(worker, str) else ""
    return Unavailable(llm, _error_class(fields) or "misconfigured", named)


def read_answer(fields: Mapping[str, Any], partition: int) -> UsableCompletion | None:
    """The completion with these fields, in this partition of `completions`; None where no dispatch is named."""
    dispatch_id = fields.get("dispatch_id")
    if not isinstance(dispatch_id, str) or not 0 < len(dispatch_id) <= MOST_NAME_CHARACTERS:
        return None
    ok, status_remarks = _status(fields)
    stated, cost_remarks = _stated_micros(fields)
    usage, usage_remarks = _usage(fields.get("usage"), is_needed=ok and stated is None)
    quality = _quality(fields.get("quality"))
    remarks: list[Remark] = [*status_remarks, *cost_remarks, *usage_remarks]
    if fields.get("quality") is not None and quality is None:
        remarks.append("quality")
    if whole_number(fields.get("origin_partition"), 2**31) != partition:
        remarks.append("partition")
    if fields.keys() - FIELDS:
        remarks.append("unknown_field")
    told = fields.get("remarks")
    remarks += [remark for remark in OF_THE_CALL if isinstance(told, list | tuple) and remark in told]
    llm, error = fields.get("llm"), fields.get("error") or fields.get("error_class")
    return UsableCompletion(
        dispatch_id=dispatch_id,
        llm=llm if isinstance(llm, str) else None,
        ok=ok,
        stated_micros=stated,
        cost=_cost_word(fields),
        usage=usage,
        quality=quality,
        error=_error(error),
        remarks=tuple(dict.fromkeys(remarks)),
        error_class=None if ok else _error_class(fields),
        retry_after_ms=None if ok else whole_number(fields.get("retry_after_ms"), MOST_MICROS),
    )


def _status(fields: Mapping[str, Any]) -> tuple[bool, list[Remark]]:
    """Whether the call succeeded. A status in other words is remarked; without any, an error says that it failed."""
    status = fields.get("status")
    if status in ("ok", "error"):
        return status == "ok", []
    word = str(status).strip().lower() if isinstance(status, str | int) and not isinstance(status, bool) else ""
    if word in ERROR_WORDS:
        return False, ["status"]
    failed = word not in OK_WORDS and fields.get("error") not in (None, "", False)
    return not failed, ["status"]


def _stated_micros(fields: Mapping[str, Any]) -> tuple[int | None, list[Remark]]:
    """The cost that the completion states, in micro-dollars, at most MOST_MICROS."""
    in_micros = fields.get("cost_micros") is not None
    given = fields.get("cost_micros") if in_micros else fields.get("cost_usd")
    if given is None:
        return None, []
    amount = number(given)
    if amount is None:
        return None, ["cost_not_a_number"]
    if amount < 0:
        return None, ["cost_negative"]
    if in_micros and 0 < amount < 1:
        # A fraction of a micro-dollar is nobody's price: these are dollars, or nobody knows what.
        return None, ["cost_in_dollars"]
    micros = amount if in_micros else amount * MICROS_PER_USD
    return math.ceil(min(micros, Decimal(MOST_MICROS))), []


def _usage(given: object, is_needed: bool) -> tuple[Usage | None, list[Remark]]:
    if given is None and not is_needed:
        return None, []
    read = read_usage(given)
    if not isinstance(read, UnusableUsage):
        return read, []
    return None, [USAGE_REMARKS[read.code]]


def _cost_word(fields: Mapping[str, Any]) -> CostWord | None:
    word = fields.get("cost")
    for known in COST_WORDS:
        if word == known:
            return known
    failure = fields.get("error_class") or fields.get("error")
    return "zero" if isinstance(failure, str) and failure in FREE_ERRORS else None


def _error_class(fields: Mapping[str, Any]) -> ErrorClass | None:
    named = fields.get("error_class")
    return next((known for known in ERROR_CLASSES if known == named), None)


def _quality(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    quality = float(value)
    return quality if math.isfinite(quality) and 0.0 <= quality <= 1.0 else None


def _error(value: object) -> str | None:
    return next(_error_texts(value), None)


def _error_texts(value: object) -> Iterator[str]:
    """The text of an error: the text itself, or the code, type or message of a provider's error object."""
    if isinstance(value, str) and value:
        yield value[:MOST_ERROR_CHARACTERS]
    if isinstance(value, Mapping):
        for name in ("code", "type", "message"):
            if isinstance(value.get(name), str):
                yield value[name][:MOST_ERROR_CHARACTERS]
