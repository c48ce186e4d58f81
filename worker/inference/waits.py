"""When a provider wants to be asked again: from the headers and the body of a refusal. Pure.

Documented in: RFC 9110 10.2.3 (`Retry-After`: seconds or a date), OpenAI "Rate limits" (`x-ratelimit-*`, durations
like 6m0s), Anthropic "Rate limits" (`anthropic-ratelimit-*`, times by RFC 3339), Google `google.rpc.RetryInfo`
(`retryDelay`), Azure OpenAI (`retry-after-ms`), OpenRouter "Limits" (`X-RateLimit-Reset`, epoch in milliseconds).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.IGNORECASE)
WHOLE_DURATION = re.compile(rf"(?:{DURATION.pattern}\s*)+", re.IGNORECASE)
LIMIT = re.compile(r"^(x-ratelimit|anthropic-ratelimit|ratelimit)-(?:(.*)-)?(remaining|reset)(?:-(.*))?$")
IN_TEXT = re.compile(
    r"(?:try again|retry|wait)[^.\d]{0,30}?(\d+(?:\.\d+)?)\s*"
    r"(ms|milliseconds?|s|sec|seconds?|m|min|minutes?|h|hours?)\b",
    re.IGNORECASE,
)
# A number this large is a time since the epoch, in seconds or in milliseconds.
EPOCH_S, EPOCH_MS = 10**9, 10**12
# A date of whole seconds may be almost one second old when it is read.
LEAST_BY_DATE_MS = 1_000
MOST_MS = 31 * 86_400_000
MOST_DEPTH = 6


def retry_after_ms(headers: Mapping[str, str], body: object, message: str, now_ms: int) -> int | None:
    """The wait that a refusal asks for, in milliseconds; None where it asks for none. Names of headers are lower-case.

    The finer statement wins: `retry-after-ms`, then `Retry-After`, the body, the reset of a limit that is used up, and
    last the message's words.
    """
    said = (
        _number_ms(headers.get("retry-after-ms"), 1, now_ms),
        _retry_after(headers, now_ms),
        _in_body(body, now_ms),
        _reset(headers, now_ms),
        _in_words(message),
    )
    wait = next((one for one in said if one is not None), None)
    return None if not wait else min(wait, MOST_MS)


def _retry_after(headers: Mapping[str, str], now_ms: int) -> int | None:
    value = headers.get("retry-after")
    if value is None:
        return None
    found = _duration_ms(value, now_ms)
    if found is not None:
        return found
    at_ms = _date_ms(value)
    if at_ms is None:
        return None
    # The provider's clock and ours may differ, so the wait is the difference to its own date.
    said_ms = _date_ms(headers.get("date", ""))
    return max(at_ms - (now_ms if said_ms is None else said_ms), LEAST_BY_DATE_MS)


def _reset(headers: Mapping[str, str], now_ms: int) -> int | None:
    """The longest reset among the limits of which nothing remains."""
    remaining: dict[str, str] = {}
    resets: dict[str, str] = {}
    for name, value in headers.items():
        if (match := LIMIT.match(name)) is not None:
            (remaining if match[3] == "remaining" else resets)[match[2] or match[4] or ""] = value
    used_up = [resets[limit] for limit, value in remaining.items() if _is_zero(value) and limit in resets]
    waits = [wait for value in used_up if (wait := _duration_ms(value, now_ms) or _until_ms(value, now_ms)) is not None]
    return max(waits, default=None)


def _is_zero(value: str) -> bool:
    try:
        return float(value) <= 0
    except ValueError:
        return False


def _in_body(body: object, now_ms: int) -> int | None:
    waits = [wait for value, unit in _delays(body, 0) if (wait := _number_ms(value, unit, now_ms)) is not None]
    return max(waits, default=None)


def _delays(value: object, depth: int) -> Iterator[tuple[Any, int]]:
    """Every delay that the body names, with its unit in milliseconds."""
    if depth > MOST_DEPTH:
        return
    if isinstance(value, list):
        for one in value:
            yield from _delays(one, depth + 1)
    if isinstance(value, dict):
        for name, inner in value.items():
            plain = str(name).replace("_", "").replace("-", "").lower()
            if plain in ("retrydelay", "retryafter", "retryafterseconds"):
                yield inner, 1_000
            elif plain == "retryafterms":
                yield inner, 1
            else:
                yield from _delays(inner, depth + 1)


def _in_words(message: str) -> int | None:
    match = IN_TEXT.search(message)
    if match is None:
        return None
    unit = match[2].lower()
    return math.ceil(float(match[1]) * UNIT_MS["ms" if unit.startswith(("ms", "milli")) else unit[0]])


def _duration_ms(value: str, now_ms: int) -> int | None:
    """A duration: a number of seconds, or `1.2s`, `6m0s`, `700ms`."""
    text = value.strip()
    if WHOLE_DURATION.fullmatch(text):
        return math.ceil(sum(float(number) * UNIT_MS[unit.lower()] for number, unit in DURATION.findall(text)))
    return _number_ms(text, 1_000, now_ms)


def _number_ms(value: object, unit_ms: int, now_ms: int) -> int | None:
    """A number of units, its text, or a duration; a number as large as an epoch is a time."""
    if isinstance(value, str) and WHOLE_DURATION.fullmatch(value.strip()):
        return _duration_ms(value, now_ms)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if not math.isfinite(number) or number < 0:
        return None
    if number >= EPOCH_S:
        at_ms = number if number >= EPOCH_MS else number * 1_000
        return max(math.ceil(at_ms) - now_ms, 0)
    return math.ceil(number * unit_ms)


def _until_ms(value: str, now_ms: int) -> int | None:
    """The time until a moment by RFC 3339."""
    try:
        at = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(math.ceil(at.timestamp() * 1_000) - now_ms, 0)


def _date_ms(value: str) -> int | None:
    try:
        at = parsedate_to_datetime(value)
    except (TypeError, ValueError, IndexError):
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return math.floor(at.timestamp() * 1_000)
