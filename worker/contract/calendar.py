"""The calendar of budgets: which period a moment is in. The edge asks it; what it answers is recorded.

A period is a half-open range of time, and the next one begins where it ends: periods have neither gaps nor overlaps.
- `total` is one period for ever.
- `minute` and `hour` are those of UTC in every time zone: each has the same length.
- `day`, `week` and `month` begin at the first moment of their first day in the time zone. A week begins on Monday. So
  a day has 23 or 25 hours where clocks change.

A day that a country has skipped has no period. The number of a period only grows; the period after number n need not
be n + 1.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct

Every = Literal["total", "minute", "hour", "day", "week", "month"]

# No period ends here. A time of Kafka is never later than the last year that a date can have.
NEVER_MS = 2**53
LATEST_MS = 253_000_000_000_000

LENGTHS_MS: dict[Every, int] = {"minute": 60_000, "hour": 3_600_000}
_EPOCH = date(1970, 1, 1)
# 1 January 1970 was a Thursday; Monday is day 0 of a week.
_THURSDAY = 3


class Period(Struct, frozen=True, array_like=True, gc=False):
    """One period: its number, and the milliseconds since the epoch of its first moment and of that after its last."""

    number: int
    start_ms: int
    end_ms: int


def is_time_zone(name: str) -> bool:
    """Whether this machine knows a time zone of this name, for example `Europe/Berlin`."""
    try:
        _zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def period_at(every: Every, time_zone: str, at_ms: int) -> Period:
    """The period that holds this moment (milliseconds since the epoch).

    A moment before 1970 counts as the first of 1970, and one after LATEST_MS as LATEST_MS.
    Raises ZoneInfoNotFoundError, ValueError or OSError for a time zone that this machine does not know.
    """
    at_ms = min(max(at_ms, 0), LATEST_MS)
    if every == "total":
        return Period(0, 0, NEVER_MS)
    if every in LENGTHS_MS:
        number, length_ms = at_ms // LENGTHS_MS[every], LENGTHS_MS[every]
        return Period(number, number * length_ms, (number + 1) * length_ms)
    zone = _zone(time_zone)
    number = _number(every, _day(zone, at_ms))
    # Where clocks go back over midnight, the next day has begun already.
    while (end_ms := _start_ms(every, zone, number + 1)) <= at_ms:
        number += 1
    return Period(number, _start_ms(every, zone, number), end_ms)


@lru_cache(maxsize=1_000)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _day(zone: ZoneInfo, at_ms: int) -> date:
    """The date in the zone. Floats cannot tell milliseconds from each other in far years."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(zone).date()


def _number(every: Every, day: date) -> int:
    """The number of the day, week or month that holds a day."""
    if every == "month":
        return (day.year - _EPOCH.year) * 12 + day.month - 1
    days = (day - _EPOCH).days
    return days if every == "day" else (days + _THURSDAY) // 7


def _start_ms(every: Every, zone: ZoneInfo, number: int) -> int:
    """The first moment of a day, week or month."""
    if every == "month":
        day = date(_EPOCH.year + number // 12, number % 12 + 1, 1)
    else:
        day = _EPOCH + timedelta(days=number if every == "day" else 7 * number - _THURSDAY)
    # `fold` is 0: of a midnight that comes twice this is the first, and for one that clocks skip the moment after it.
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    return (midnight - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
