"""The treasury: what people change, when periods begin, and what is rejected."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from tests.unit.exchange import START_MS, Exchange
from worker.contract.budgets import BudgetDefinition
from worker.contract.calendar import period_at
from worker.contract.codes import Rejection
from worker.contract.control import (
    AddBudget,
    Control,
    PauseBudget,
    PauseLlm,
    RemoveBudget,
    ResumeBudget,
    ResumeLlm,
    SetBudget,
)
from worker.contract.errors import FixSetting
from worker.contract.leases import Ask, LaneReport, LlmsPaused, Moved, Need
from worker.contract.treasury_records import LateBooked, PeriodBegun, TreasuryRow, decode_treasury_decision
from worker.core.leasing import Parked, Refused, Reserved
from worker.core.ledger import BrokenInvariant
from worker.treasury.changes import MOST_BUDGETS
from worker.treasury.events import Controlled, Reported, SettingsRead
from worker.treasury.treasury import Treasury

MINUTE_MS = 60_000
BY = {"by": "an operator", "why": "a test"}


def usd(name: str, amount: int, **more: object) -> BudgetDefinition:
    """A budget of micro-dollars for ever, unless more is said."""
    return BudgetDefinition(name=name, resource="usd", amount=amount, **more)  # type: ignore[arg-type]


def amounts(play: Exchange) -> dict[str, int]:
    """The amount in force of each budget that is not removed."""
    return {one.definition.name: one.definition.amount for one in play.treasury.budgets.values() if one.period}


def read(play: Exchange, *budgets: BudgetDefinition) -> None:
    """The next owner reads the settings file."""
    play.handle(SettingsRead(play.now_ms, budgets))


# The settings file and control records


def test_the_newest_record_wins_until_the_file_changes() -> None:
    """A new owner with the same file keeps what a record has set; another value in the file is the newest word."""
    play = Exchange(usd("a", 10))
    play.control(SetBudget(**BY, name="a", resource="usd", amount=20))
    read(play, usd("a", 10))
    assert amounts(play) == {"a": 20}
    read(play, usd("a", 11))
    assert amounts(play) == {"a": 11}


def test_a_removal_stands_until_the_file_changes() -> None:
    """A budget that a record has removed does not come back with the next owner."""
    play = Exchange(usd("a", 10))
    play.control(RemoveBudget(**BY, name="a"))
    read(play, usd("a", 10))
    assert amounts(play) == {}
    read(play, usd("a", 12))
    assert amounts(play) == {"a": 12}


def test_a_budget_that_leaves_the_file_is_removed() -> None:
    """One that a record has added stays."""
    play = Exchange(usd("a", 10), usd("b", 5))
    play.control(AddBudget(**BY, budget=usd("c", 3)))
    read(play, usd("a", 10))
    assert amounts(play) == {"a": 10, "c": 3}


def test_another_scope_is_another_budget() -> None:
    """A budget whose LLMs change begins anew with its whole amount; one whose amount changes keeps its number."""
    play = Exchange(usd("a", 10))
    read(play, usd("a", 12))
    assert list(play.treasury.budgets) == [1]
    read(play, usd("a", 12, llms=("large",)))
    assert [number for number, one in play.treasury.budgets.items() if one.period] == [2]


@pytest.mark.parametrize(
    ("record", "rejection"),
    [
        (SetBudget(**BY, name="b", resource="usd", amount=1), Rejection("unknown_budget", detail="b")),
        (SetBudget(**BY, name="a", resource="tokens", amount=1), Rejection("another_resource", detail="usd")),
        (PauseBudget(**BY, name="b"), Rejection("unknown_budget", detail="b")),
        (RemoveBudget(**BY, name="x" * 256), Rejection("unknown_budget", detail="x" * 100)),
        (AddBudget(**BY, budget=usd("a", 1)), Rejection("budget_exists", detail="a")),
    ],
)
def test_a_record_that_cannot_be_used_changes_nothing(record: Control, rejection: Rejection) -> None:
    """It is named by its offset, and lanes hear nothing."""
    play = Exchange(usd("a", 10))
    before = dict(play.treasury.budgets)
    effects = play.control(record)
    assert effects.rejected == [(1, rejection)]
    assert effects.messages == {}
    assert play.treasury.budgets == before


def test_bytes_that_are_no_record_are_rejected_once() -> None:
    """The rejection of the reader is passed on, and the offset counts as read."""
    play = Exchange(usd("a", 10))
    event = Controlled(7, play.now_ms, Rejection("empty"))
    assert play.handle(event).rejected == [(7, Rejection("empty"))]
    assert play.handle(event).rejected == []
    assert play.treasury.control_offset == 7


def test_there_is_a_most_of_budgets() -> None:
    """Every lane holds them all."""
    play = Exchange(*(usd(f"b{number}", 1) for number in range(MOST_BUDGETS)), lanes=1)
    effects = play.control(AddBudget(**BY, budget=usd("one more", 1)))
    assert effects.rejected == [(1, Rejection("too_many_budgets", MOST_BUDGETS))]


def test_a_pause_and_its_end() -> None:
    """While a budget is paused, nothing is reserved of it and its money goes back; then queries are served again."""
    play = Exchange(usd("a", 1_000))
    play.query(0, "x", {"large": {1: 1}})
    play.quiet()
    play.control(PauseBudget(**BY, name="a"))
    play.quiet()
    assert play.free(0, 1) == 0
    assert isinstance(play.query(0, "y", {"large": {1: 1}}), Refused)
    play.control(ResumeBudget(**BY, name="a"))
    play.quiet()
    play.query(0, "z", {"large": {1: 1}})
    play.quiet()
    assert isinstance(play.lanes[0].outcomes["z"], Reserved)


def test_a_pause_that_is_one_already_says_nothing() -> None:
    """The same for the end of a pause, and for an LLM."""
    play = Exchange(usd("a", 10))
    said = [
        len(play.control(record).messages)
        for record in (
            ResumeBudget(**BY, name="a"),
            PauseBudget(**BY, name="a"),
            PauseBudget(**BY, name="a"),
            ResumeLlm(**BY, llm="large"),
            PauseLlm(**BY, llm="large"),
            PauseLlm(**BY, llm="large"),
        )
    ]
    assert said == [0, 2, 0, 0, 2, 0]


def test_a_paused_llm_is_passed_over() -> None:
    """Also by a query that waits for money for it."""
    play = Exchange(usd("a", 10))
    play.query(0, "x", {"large": {1: 2}, "small": {1: 1}})
    play.control(PauseLlm(**BY, llm="large"))
    play.quiet()
    assert LlmsPaused(("large",)) in play.items
    assert play.reserved(0, "x").llm == "small"


def test_an_llm_that_fails_in_a_lane_is_passed_over_there() -> None:
    """The money that was granted for it goes back, or serves the next LLM; nothing is recalled."""
    play = Exchange(usd("a", 10))
    play.query(0, "x", {"large": {1: 3}, "small": {1: 1}})
    play.lanes[0].out.add("large")
    play.quiet()
    assert play.reserved(0, "x").llm == "small"
    assert play.treasury.budgets[1].recall == 0


def test_a_price_that_rises_while_a_query_waits() -> None:
    """The grant is too small now: the query asks once more, for what it costs now."""
    play = Exchange(usd("a", 10))
    play.query(0, "x", {"large": {1: 3}})
    play.lanes[0].needs["x"] = {"large": {1: 5}}
    play.quiet()
    assert [entry.amount for entry in play.reserved(0, "x").entries] == [5]


# Periods


def begun(play: Exchange, at_ms: int) -> list[PeriodBegun]:
    """The periods that begin with a record of this time."""
    effects = play.handle(Controlled(10_000_000 + at_ms, at_ms, Rejection("empty")))
    decisions = [decode_treasury_decision(value) for _, value in effects.decisions]
    return [decision for decision in decisions if isinstance(decision, PeriodBegun)]


@pytest.mark.parametrize(
    ("carry_over", "minutes", "carried", "skipped"),
    [(False, 1, 0, 0), (False, 5, 0, 4), (True, 1, 10, 0), (True, 5, 50, 4)],
)
def test_periods_without_an_event(carry_over: bool, minutes: int, carried: int, skipped: int) -> None:
    """They are skipped; with `carry_over` the amounts of all of them are there."""
    play = Exchange(usd("a", 10, every="minute", carry_over=carry_over))
    [period] = begun(play, START_MS + minutes * MINUTE_MS)
    assert (period.amount, period.carried, period.skipped) == (10, carried, skipped)
    assert play.left(1) == 10 + carried
    assert period.period == period_at("minute", "UTC", START_MS + minutes * MINUTE_MS)


def test_time_does_not_go_back() -> None:
    """A record with an older time changes no period, and the same period does not begin twice."""
    play = Exchange(usd("a", 10, every="minute"))
    assert len(begun(play, START_MS + MINUTE_MS)) == 1
    assert begun(play, START_MS) == []
    assert begun(play, START_MS + MINUTE_MS + 1) == []


def test_an_overrun_is_taken_off_the_next_period() -> None:
    """With `carry_over`; the lane that overspent owes nothing."""
    play = Exchange(usd("a", 10, every="minute", carry_over=True))
    play.query(0, "x", {"large": {1: 10}})
    play.quiet()
    play.close(0, "x", {1: 13})
    play.quiet()
    begun(play, START_MS + MINUTE_MS)
    assert play.left(1) == 7


def test_a_dispatch_settles_in_its_own_period() -> None:
    """However late: what it gives back goes on only with `carry_over`."""
    for carry_over, left in ((False, 10), (True, 14)):
        play = Exchange(usd("a", 10, every="minute", carry_over=carry_over))
        play.query(0, "x", {"large": {1: 10}})
        play.quiet()
        begun(play, START_MS + MINUTE_MS)
        play.quiet()
        play.close(0, "x", {1: 6})
        play.quiet()
        assert (play.left(1), len(play.treasury.accounts)) == (left, 1)


def test_a_late_cost_of_an_account_that_has_ended() -> None:
    """It is on the chain; with `carry_over` the open period pays it."""
    for carry_over, left in ((False, 10), (True, 8)):
        play = Exchange(usd("a", 10, every="minute", carry_over=carry_over))
        play.query(0, "x", {"large": {1: 10}})
        play.quiet()
        play.close(0, "x", {1: 10})
        begun(play, START_MS + MINUTE_MS)
        play.quiet()
        play.correct(0, "x", {1: 2})
        report = play.lanes[0].up[-1]
        assert report.accounts == (Moved(1, play.reserved(0, "x").entries[0].period, 2, -2),)
        effects = play.handle(Reported(0, len(play.lanes[0].up) - 1, play.now_ms, report))
        late = [decode_treasury_decision(value) for _, value in effects.decisions]
        assert [one.spent for one in late if isinstance(one, LateBooked)] == [2]
        assert play.left(1) == left


# Reports


def test_what_comes_back_is_there_for_the_ask_beside_it() -> None:
    """A report that gives back and asks: first the accounts, then the asks."""
    play = Exchange(usd("a", 2), lanes=1)
    play.query(0, "x", {"large": {1: 2}})
    play.quiet()
    play.handle(Controlled(5, play.now_ms, SetBudget(**BY, name="a", resource="usd", amount=1)))
    play.quiet()
    period = play.reserved(0, "x").entries[0].period
    sequence = len(play.lanes[0].up) + 1
    report = LaneReport(sequence, 1, 1, (Moved(1, period, 0, 2),), (Ask(9, "large", (Need(1, 1),)),))
    effects = play.handle(Reported(0, sequence - 1, play.now_ms, report))
    assert [type(item).__name__ for item in effects.messages[0].items] == ["Granted"]


def test_a_report_is_read_once_and_none_may_be_missing() -> None:
    """A repeated one changes nothing; after a gap the treasury stops."""
    play = Exchange(usd("a", 10))
    play.query(0, "x", {"large": {1: 1}})
    play.up(0)
    again = play.lanes[0].up[-1]
    effects = play.handle(Reported(0, len(play.lanes[0].up) - 1, play.now_ms, again))
    assert (effects.messages, effects.decisions, effects.rows) == ({}, [], {})
    with pytest.raises(BrokenInvariant, match="follows"):
        play.handle(Reported(0, 99, play.now_ms, replace(again, sequence=again.sequence + 2)))


def test_a_lane_cannot_give_back_what_it_never_had() -> None:
    """Such a report is a bug or a forgery: nothing is decided on it."""
    play = Exchange(usd("a", 10))
    forged = LaneReport(2, 0, 0, (Moved(1, 0, 0, 5),))
    with pytest.raises(BrokenInvariant, match="do not add up"):
        play.handle(Reported(0, 1, play.now_ms, forged))


def test_rows_of_another_version_are_refused() -> None:
    """The error says what to do."""
    rows = {"treasury": msgspec.msgpack.encode(TreasuryRow(format=2))}
    with pytest.raises(FixSetting, match="run the version that wrote them"):
        Treasury.restored(rows, period_at)


# A lane alone


def test_a_query_waits_until_its_limit() -> None:
    """Then it is served from own money only, or deferred; and while nothing at all comes, no other query waits."""
    play = Exchange(usd("a", 10), lanes=1)
    assert isinstance(play.query(0, "x", {"large": {1: 1}}), Parked)
    play.limit(0, "x")
    assert play.lanes[0].outcomes["x"] == Refused("treasury_silent", {"large": (1,)})
    assert play.query(0, "y", {"large": {1: 1}}) == Refused("treasury_silent", {"large": (1,)})
    play.quiet()
    assert isinstance(play.query(0, "z", {"large": {1: 1}}), Reserved)


def test_a_grant_that_comes_too_late_is_money_and_nothing_else() -> None:
    """The query stays deferred."""
    play = Exchange(usd("a", 10), lanes=1)
    play.query(0, "x", {"large": {1: 1}})
    play.limit(0, "x")
    play.quiet()
    assert isinstance(play.lanes[0].outcomes["x"], Refused)
    assert (play.free(0, 1), play.left(1)) == (3, 7)


def test_a_block_makes_the_next_queries_quick() -> None:
    """A grant of plenty has a block; the lane asks for another one before it is used up, once."""
    play = Exchange(usd("a", 1_000), lanes=1)
    play.query(0, "first", {"large": {1: 1}})
    play.quiet()
    block = play.free(0, 1)
    assert block == 999 // 4
    for number in range(block // 2 + 3):
        assert isinstance(play.query(0, f"q{number}", {"large": {1: 1}}), Reserved)
    assert [report.low for report in play.lanes[0].up if report.low] == [(1,)]
    play.quiet()
    assert play.free(0, 1) > block


def test_a_query_that_was_handed_back_is_served_first() -> None:
    """To serve another one, or to report, would lose it: the purse stops."""
    play = Exchange(usd("a", 10), lanes=1)
    play.query(0, "x", {"large": {1: 1}})
    play.up(0)
    purse = play.lanes[0].purse
    [item] = purse.read(1, play.lanes[0].down[1])
    assert purse.apply(item) is not None
    purse.give_back()
    with pytest.raises(BrokenInvariant, match="was handed back"):
        purse.report(play.now_ms)


def test_a_message_that_is_missing_stops_the_lane() -> None:
    """Money would be lost."""
    play = Exchange(usd("a", 10), lanes=1)
    message = play.lanes[0].down[-1]
    with pytest.raises(BrokenInvariant, match="follows"):
        play.lanes[0].purse.read(5, replace(message, sequence=message.sequence + 2))
