"""Why a provider refused a call, by its status and its words. Pure.

A status alone does not tell: 429 is a limit of a minute, a used-up balance, or one request that is above the limit for
ever; 400 is a long prompt, a filter, a wrong model or no money. So the first rule that holds decides.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from worker.contract.codes import CostWord, ErrorClass
from worker.contract.settings import LlmSettings
from worker.inference.dialects import is_azure
from worker.inference.faults import Fault


class Verdict(NamedTuple):
    """The class of a refusal, and what it cost."""

    error_class: ErrorClass
    cost: CostWord
    remarks: tuple[str, ...] = ()


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.DOTALL)


MONEY = _any(
    r"insufficient[_ ](quota|balance|funds|credit)|credit balance|out of credits?|billing|payment required|arrears",
    r"not enough (credits?|balance|funds)|balance is (too low|insufficient|not enough)|prepa(id|yment)",
    r"spend(ing)? limit|requires more credits|free tier (is )?(over|exhausted)|account.{0,20}(suspended|overdue)",
)
USED_UP = _any(r"exceeded your (current|monthly) quota|(monthly|usage) (limit|quota) (is )?(reached|exceeded)")
TOO_LARGE_FOR_LIMIT = _any(r"request (is )?too large|too large for|requested (more tokens|too many tokens)")
LIMIT_AND_REQUESTED = _any(r"limit:?\s*([\d,]+)(?!.*\bused\b).*?requested:?\s*([\d,]+)")
CONTEXT = _any(
    r"context[_ ]length|context[_ ]size|context window|maximum context|prompt is too long|input is too long",
    r"(prompt|input|request|message|text)s?( is| are)? too (long|large)|input token count|max_model_len",
    r"(exceed|longer than|greater than|more than|larger than)[^.]{0,60}(tokens|model('s)? limit|sequence length)",
    r"too many tokens|reduce the length|string_above_max_length|request_too_large|token limit",
    r"tokens?( count)? exceeds?",
)
FILTER = _any(
    r"content[_ -]?filter|content management policy|content[_ ]policy|responsibleaipolicy|data_?inspection",
    r"moderation|was flagged|safety (system|setting|polic)|prohibited_content|guardrail",
    r"blocked by.{0,30}(policy|safety)",
)
KEY = _any(
    r"(invalid|incorrect|wrong|expired|missing|revoked|no)[_ ](x-)?(api|auth)[_ -]?(key|token)|api_key_invalid",
    r"api[_ ]key (not valid|is invalid|has expired|expired|not found)|unauthenticated|authentication_error",
)
MODEL = _any(
    r"model[_ ]not[_ ]found|deployment[_ ]?not[_ ]?found|(invalid|unknown|unsupported|no such)[_ ](model|deployment)",
    r"(model|deployment|engine)\b.{0,80}(not exist|not found|not supported|no longer|deprecated|decommissioned)",
    r"(model|deployment|engine)\b.{0,80}(unavailable|is not available|not served|does not have access)",
    r"not a valid model|no endpoints found",
)
PLACE = _any(r"(country|region|territory|location)\b.{0,60}(not |un)(supported|available|allowed)|unsupported_country")
BUSY = _any(
    r"overload|loading|capacity|\bbusy\b|queue|too many|throttl|slow ?down|high (demand|load)|unavailable_error"
)
LOADING = _any(r"loading|starting|warming|not ready|booting|\bcold\b")
RATE = _any(r"rate[_ ]?limit|throttl|too many requests|resource_exhausted|requests per|tokens per")

GATEWAY_TIMEOUTS = {408, 499, 504, 524, 598, 599}
ORIGIN_UNREACHED = {521, 522, 523, 530}
NOT_HERE = {404, 405, 407, 410, 421, 426, 501, 505, 511}
SITE_IS_OVERLOADED = 529


def verdict_of(status: int, fault: Fault, wait_ms: int | None, llm: LlmSettings) -> Verdict:
    """Why a call was refused. `status` is 300 to 599, `wait_ms` the wait that the provider asks for."""
    if status in GATEWAY_TIMEOUTS:
        return Verdict("timeout", "unknown")
    if status >= 500:
        return _failed(status, fault, llm)
    if status < 400:
        return Verdict("misconfigured", "zero", ("redirect",))
    return _too_many(fault, wait_ms) if status == 429 else _not_taken(status, fault, llm)


def status_by_words(fault: Fault) -> int | None:
    """The status that an error without a number stands for; None where its words name no refusal."""
    if fault.says(RATE):
        return 429
    if fault.says(KEY):
        return 401
    return 400 if fault.says(CONTEXT) or fault.says(FILTER) or fault.says(MONEY) else None


def _too_many(fault: Fault, wait_ms: int | None) -> Verdict:
    requested = LIMIT_AND_REQUESTED.search(fault.words)
    is_above = requested is not None and _number(requested[2]) > _number(requested[1])
    if is_above or fault.says(TOO_LARGE_FOR_LIMIT):
        return Verdict("refused_request", "zero", ("above_rate_limit",))
    # Google names the quota of a minute as it names a used-up one, and says when it is full again.
    passes = wait_ms is not None and fault.says(USED_UP)
    if not passes and (fault.says(MONEY) or fault.says(USED_UP)):
        return Verdict("quota", "zero")
    return Verdict("rate_limited", "zero")


def _not_taken(status: int, fault: Fault, llm: LlmSettings) -> Verdict:
    """A status of 400 to 499."""
    # Azure's terms: an input limit, and a filtered prompt, may be charged. It does not say how much.
    too_long: CostWord = "unknown" if is_azure(llm.base_url or "") else "zero"
    rules = (
        (status == 401, Verdict("auth", "zero")),
        (status == 402 or fault.says(MONEY) or fault.says(USED_UP), Verdict("quota", "zero")),
        (fault.says(PLACE), Verdict("misconfigured", "zero")),
        (fault.says(FILTER), Verdict("content_filter", "unknown")),
        (status == 413 or fault.says(CONTEXT), Verdict("context_length", too_long)),
        (fault.says(KEY), Verdict("auth", "zero")),
        (status == 403 or status in NOT_HERE or fault.says(MODEL), Verdict("misconfigured", "zero")),
        (fault.says(RATE), Verdict("rate_limited", "zero")),
        (fault.says(BUSY), Verdict("overloaded", "zero")),
    )
    by_parameter = (f"parameter:{fault.parameter}",) if fault.parameter else ()
    return next((verdict for holds, verdict in rules if holds), Verdict("refused_request", "zero", by_parameter))


def _failed(status: int, fault: Fault, llm: LlmSettings) -> Verdict:
    """A status of 500 to 599. Only what says that it is overloaded or loads a model did no work."""
    settable = llm.server_error_cost if status in (500, 502) else "unknown"
    rules = (
        (status in NOT_HERE, Verdict("misconfigured", "zero")),
        (status in ORIGIN_UNREACHED, Verdict("unreachable", "unknown")),
        (status == 503 and fault.says(LOADING), Verdict("overloaded", "zero", ("loading",))),
        (status == SITE_IS_OVERLOADED or (status == 503 and fault.says(BUSY)), Verdict("overloaded", "zero")),
        (fault.says(CONTEXT), Verdict("context_length", "unknown")),
    )
    return next((verdict for holds, verdict in rules if holds), Verdict("overloaded", settable))


def _number(text: str) -> int:
    return int(text.replace(",", ""))
