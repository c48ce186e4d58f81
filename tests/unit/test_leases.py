"""Messages between lanes and the treasury: the same after a round trip, and small."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from worker.contract.budgets import BudgetDefinition
from worker.contract.calendar import period_at
from worker.contract.codec import encode
from worker.contract.leases import (
    Ask,
    BudgetStanding,
    Denied,
    Granted,
    GrantEntry,
    GrantMessage,
    Item,
    LaneReport,
    Moved,
    Need,
    PeriodOpened,
    Recalled,
    Shortage,
    Standings,
    decode_grants,
    decode_report,
)
from worker.contract.purse_rows import LaneAccount
from worker.contract.treasury_records import BudgetAccount

AT_MS = 1_800_000_000_000
MINUTE, MONTH = period_at("minute", "UTC", AT_MS), period_at("month", "UTC", AT_MS)
# Two budgets by the minute and three by the month, of 300.
PERIODS = (MINUTE.number, MINUTE.number, MONTH.number, MONTH.number, MONTH.number)
FIVE = [(number, period) for number, period in zip(range(130, 300, 40), PERIODS, strict=True)]


def granted() -> Item:
    """An answer of five entries."""
    return Granted(5_000, tuple(GrantEntry(number, period, 60_000, True) for number, period in FIVE))


def report(**fields: Any) -> LaneReport:
    """A report in the middle of a long run."""
    return LaneReport(sequence=40_000, heard=700, queries=50, **fields)


ASKS = (Ask(5_000, "gpt-4o-mini", tuple(Need(number, 60_000) for number, _ in FIVE)),)
ACCOUNTS = tuple(Moved(number, period, 60_000, 30_000) for number, period in FIVE)


@pytest.mark.parametrize(
    ("message", "most_bytes"),
    [
        (report(asks=ASKS), 60),
        (report(asks=ASKS, accounts=ACCOUNTS), 130),
        (report(accounts=ACCOUNTS), 85),
        (report(), 23),
        (GrantMessage(9_000, AT_MS, (granted(),)), 90),
        (GrantMessage(9_000, AT_MS, (Denied(5_000, "dry", (Shortage(290, MINUTE.number, 60_000),)),)), 45),
        (GrantMessage(9_000, AT_MS, (Recalled(290, 700),)), 30),
        (LaneAccount(90_000_000, 80_000_000, 60_000, 9_000_000, 60_000), 27),
        (BudgetAccount(900_000_000, 0, 800_000_000, 80_000_000, 700_000_000), 50),
    ],
)
def test_messages_and_rows_are_small(message: msgspec.Struct, most_bytes: int) -> None:
    """A lane with hundreds of queries a second writes so many bytes for each, with 300 budgets, 5 of them a query."""
    assert len(encode(message)) <= most_bytes


def test_a_message_survives_its_bytes() -> None:
    """Whatever it says: reports, grants, and all that a new lane hears."""
    definition = BudgetDefinition("a", "usd", 5, "month", "Europe/Berlin", True, ("gpt-4o",), {"team": "search"})
    standing = BudgetStanding(3, definition, MONTH, False, True)
    items: tuple[Item, ...] = (
        Standings(7, (standing,), ("gpt-4o",), {}),
        PeriodOpened(3, MONTH),
        PeriodOpened(4, MONTH, definition),
        granted(),
    )
    message = GrantMessage(1, AT_MS, items)
    assert decode_grants(encode(message)) == message
    told = report(asks=ASKS, accounts=ACCOUNTS, low=(3,))
    assert decode_report(encode(told)) == told


@pytest.mark.parametrize("value", [b"", b"\x90", b"\x93\x00\x00\x00", b"\x92\x01\xff", b"\x93\x01\x01\x91\x91\xa1x"])
def test_bytes_of_another_writer_are_refused(value: bytes) -> None:
    """A sequence begins with 1, and no number is below 0: such bytes are an error, never a message."""
    for decode in (decode_report, decode_grants):
        with pytest.raises(msgspec.MsgspecError):
            decode(value)
