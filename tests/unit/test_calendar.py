"""The calendar: periods begin when people in the time zone say so, and none is missed or counted twice."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.contract.calendar import LATEST_MS, NEVER_MS, Every, Period, is_time_zone, period_at

HOUR_MS = 3_600_000
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "America/Havana",
    "America/St_Johns",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Antarctica/Casey",
    "Pacific/Apia",
    "Pacific/Kiritimati",
]
# From 1970 to 2037: the rules of later years repeat themselves.
MOMENTS_MS = st.integers(0, 2_145_000_000_000)


def ms(text: str) -> int:
    """A moment in ISO 8601 as milliseconds."""
    return int(datetime.fromisoformat(text).timestamp() * 1_000)


def local(moment_ms: int, zone: str) -> datetime:
    """What a clock in the zone shows."""
    return datetime.fromtimestamp(moment_ms / 1_000, UTC).astimezone(ZoneInfo(zone))


@pytest.mark.parametrize(
    ("every", "zone", "at", "start", "end"),
    [
        ("minute", "UTC", "2026-11-25T16:11:49.999+00:00", "2026-11-25T16:11:00+00:00", "2026-11-25T16:12:00+00:00"),
        ("minute", "Asia/Kolkata", "2026-11-25T16:11:00+00:00", "2026-11-25T16:11+00:00", "2026-11-25T16:12+00:00"),
        ("hour", "Asia/Kolkata", "2026-11-25T16:11:49+00:00", "2026-11-25T16:00+00:00", "2026-11-25T17:00+00:00"),
        # Clocks in Berlin go forward on 28 March 2027 and back on 31 October 2027.
        ("day", "Europe/Berlin", "2027-03-28T12:00+02:00", "2027-03-28T00:00+01:00", "2027-03-29T00:00+02:00"),
        ("day", "Europe/Berlin", "2027-10-31T02:30+01:00", "2027-10-31T00:00+02:00", "2027-11-01T00:00+01:00"),
        ("week", "Europe/Berlin", "2027-03-28T23:59+02:00", "2027-03-22T00:00+01:00", "2027-03-29T00:00+02:00"),
        ("month", "Europe/Berlin", "2027-03-31T23:59:59+02:00", "2027-03-01T00:00+01:00", "2027-04-01T00:00+02:00"),
        ("month", "Europe/Berlin", "2027-03-31T22:00+00:00", "2027-04-01T00:00+02:00", "2027-05-01T00:00+02:00"),
        ("month", "UTC", "2028-02-29T23:59:59.999+00:00", "2028-02-01T00:00+00:00", "2028-03-01T00:00+00:00"),
        ("month", "UTC", "2026-12-31T23:59:59.999+00:00", "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00"),
        # Clocks in São Paulo went from midnight to 1:00: the day began at 1:00.
        ("day", "America/Sao_Paulo", "2018-11-04T01:00-02:00", "2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"),
        # Clocks in Havana went from 1:00 to midnight: the day began at the first of two midnights.
        ("day", "America/Havana", "2024-11-03T00:30-05:00", "2024-11-03T00:00-04:00", "2024-11-04T00:00-05:00"),
        # Clocks in St. John's went back over midnight, one minute after it: the new day had begun.
        ("day", "America/St_Johns", "2010-11-06T23:30-03:30", "2010-11-07T00:00-02:30", "2010-11-08T00:00-03:30"),
        # Samoa skipped 30 December 2011.
        ("day", "Pacific/Apia", "2011-12-29T12:00-10:00", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00"),
    ],
)
def test_a_period_begins_and_ends_as_people_say(every: Every, zone: str, at: str, start: str, end: str) -> None:
    """Months of every length, leap days, and each way in which clocks go forward or back around midnight."""
    period = period_at(every, zone, ms(at))
    assert (period.start_ms, period.end_ms) == (ms(start), ms(end))


def test_a_skipped_day_has_no_period() -> None:
    """After 29 December 2011 came the 31st in Samoa: its number is two higher, and it follows without a gap."""
    last = period_at("day", "Pacific/Apia", ms("2011-12-29T12:00-10:00"))
    following = period_at("day", "Pacific/Apia", last.end_ms)
    assert (following.number, following.start_ms) == (last.number + 2, last.end_ms)


@given(st.sampled_from(get_args(Every)), st.sampled_from(ZONES), MOMENTS_MS)
def test_periods_hold_their_moments_and_have_no_gaps(every: Every, zone: str, at_ms: int) -> None:
    """A period holds the moment it was asked for, gives the same for each of its moments, and the next follows it."""
    period = period_at(every, zone, at_ms)
    assert period.start_ms <= at_ms < period.end_ms
    assert {period_at(every, zone, moment) for moment in (period.start_ms, period.end_ms - 1)} == {period}
    if every != "total":
        following = period_at(every, zone, period.end_ms)
        assert following.start_ms == period.end_ms
        assert following.number > period.number


@given(st.sampled_from(["day", "week", "month"]), st.sampled_from(ZONES), MOMENTS_MS)
def test_a_period_begins_with_a_new_day(every: Every, zone: str, at_ms: int) -> None:
    """Its first moment has another date than the moment before; a week begins on Monday and a month on the first."""
    start_ms = period_at(every, zone, at_ms).start_ms
    if start_ms <= 0:
        return
    first, before = local(start_ms, zone), local(start_ms - 1, zone)
    assert first.date() > before.date()
    assert every != "week" or first.isoweekday() == 1
    assert every != "month" or first.day == 1


@pytest.mark.parametrize("zone", ZONES)
def test_days_of_ten_years_follow_each_other(zone: str) -> None:
    """Every day from 2019 to 2029 is there once, with 20 to 28 hours."""
    period, days = period_at("day", zone, ms("2019-01-01T00:00+00:00")), list[Period]()
    while period.start_ms < ms("2029-01-01T00:00+00:00"):
        days.append(period)
        period = period_at("day", zone, period.end_ms)
    assert {after.number - before.number for before, after in pairwise(days)} == {1}
    assert {day for day in days if not 20 <= (day.end_ms - day.start_ms) / HOUR_MS <= 28} == set()


@pytest.mark.parametrize("every", get_args(Every))
@pytest.mark.parametrize("at_ms", [-1, 0, LATEST_MS, NEVER_MS, 2**63])
def test_every_moment_has_a_period(every: Every, at_ms: int) -> None:
    """Also one that no calendar reaches: it counts as the nearest that a calendar does."""
    period = period_at(every, "Europe/Berlin", at_ms)
    assert period.start_ms <= min(max(at_ms, 0), LATEST_MS) < period.end_ms


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("UTC", True),
        ("Europe/Berlin", True),
        ("Europe/Atlantis", False),
        ("America", False),
        ("", False),
        ("../etc/passwd", False),
        ("/etc/passwd", False),
        ("nul\0", False),
        ("x" * 300, False),
    ],
)
def test_a_time_zone_is_known_or_not(name: str, known: bool) -> None:
    """Names of folders, paths and names that no file can have are no time zones, and no error."""
    assert is_time_zone(name) is known
