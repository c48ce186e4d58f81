"""Counts, costs and times as exports write them. Pure. What cannot be read is None: unknown, and never 0."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from msgspec import Struct

from worker.contract.usage import MAX_TOKENS, UnusableUsage, number, read_usage, usd, whole_number

# From these on, a number is not of seconds, milliseconds, microseconds any more: each is in the year 5138.
SECONDS_END, MILLIS_END, MICROS_END = 10**11, 10**14, 10**17
# Dates whose day and month cannot be told apart (10/05/2026) are not read.
OTHER_FORMS = (
    *("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%d.%m.%Y, %H:%M:%S"),
    *("%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%a, %d %b %Y %H:%M:%S GMT"),
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_MS = 86_400_000


def cost(value: Any) -> Decimal | None:
    """An amount of US dollars, also as text and with a dollar sign; None for what is none."""
    return usd(value.strip().removeprefix("$") if isinstance(value, str) else value)


def above_zero(value: Any) -> Decimal | None:
    """A cost above 0. Proxies and tracers store 0 where they do not know the price."""
    return cost(value) or None


class Counts(Struct, frozen=True):
    """The tokens of an answer: all that went in, those of them that came from a cache or were written to one, and all
    that came out. None where unknown."""

    input_tokens: int | None = None
    cached_tokens: int | None = None
    written_tokens: int | None = None
    output_tokens: int | None = None


def counts(input_tokens: Any, output_tokens: Any, cached: Any = None) -> Counts:
    """Counts of fields of their own. Two zeros are no count: a stream without usage is stored so."""
    asked, answered = tokens(input_tokens), tokens(output_tokens)
    if not asked and not answered:
        return Counts()
    return Counts(asked, tokens(cached), None, answered)


def counts_of_usage(usage: Any) -> Counts:
    """Counts of a provider's usage, whose names `contract.usage` knows."""
    found = read_usage(usage)
    if not isinstance(found, UnusableUsage):
        written = found.cache_write_tokens + found.cache_write_1h_tokens
        return Counts(found.all_input_tokens, found.cache_read_tokens, written, found.all_output_tokens)
    if found.code != "partial" or not isinstance(usage, dict):
        return Counts()
    asked = next((usage[name] for name in ("prompt_tokens", "input_tokens") if name in usage), None)
    answered = next((usage[name] for name in ("completion_tokens", "output_tokens") if name in usage), None)
    return counts(asked, answered)


def tokens(value: Any) -> int | None:
    """A count of tokens, also as a float or as text."""
    return whole_number(value, MAX_TOKENS)


def millis(value: Any) -> int | None:
    """A time as milliseconds since 1970, UTC: of ISO 8601, of `05.10.2026 08:00:00`, of a time without a zone (UTC), or
    of a number of seconds, milliseconds, microseconds or nanoseconds."""
    if isinstance(value, datetime):
        return _of_datetime(value)
    if (found := number(value)) is not None:
        return _of_number(found)
    if not isinstance(value, str):
        return None
    text = value.strip().removesuffix(" UTC")
    try:
        return _of_datetime(datetime.fromisoformat(text))
    except ValueError:
        return _of_other_form(text)


def _of_number(found: Decimal) -> int | None:
    if found <= 0 or found >= MICROS_END * 1_000:
        return None
    if found < SECONDS_END:
        return int(found * 1_000)
    if found < MILLIS_END:
        return int(found)
    return int(found) // (1_000 if found < MICROS_END else 1_000_000)


def _of_datetime(time: datetime) -> int:
    since = (time if time.tzinfo is not None else time.replace(tzinfo=UTC)) - EPOCH
    return since.days * DAY_MS + since.seconds * 1_000 + since.microseconds // 1_000


def _of_other_form(text: str) -> int | None:
    for form in OTHER_FORMS:
        try:
            return _of_datetime(datetime.strptime(text, form).replace(tzinfo=UTC))
        except ValueError:
            continue
    return None


def utc(at_ms: int) -> str:
    """A time as ISO 8601, in UTC, with milliseconds and `Z`."""
    seconds, rest = divmod(at_ms, 1_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def plain(value: Decimal | int | None, digits: int | None = None) -> str:
    """A number without an exponent and without zeros at its end; nothing for None."""
    if value is None:
        return ""
    exact = Decimal(value) if digits is None else round(Decimal(value), digits)
    text = f"{exact:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
