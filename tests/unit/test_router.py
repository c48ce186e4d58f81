"""The router: what a lane decides, and that neither crashes nor batches change it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.drive import (
    CRASH,
    LLMS,
    NOT_A_QUERY,
    CompletionChanges,
    ConfigurationChanges,
    Drive,
    completion,
    config,
    kinds,
    query,
    tick,
)
from worker.contract.codes import Remedy
from worker.contract.decisions import Cause, ChargedAgain, Closed, Ignored, Priced, Rejected, Routed
from worker.core.events import Event, Reconfigured, Refused, Ticked
from worker.core.journal import record_hash


def story() -> list[Event]:
    """Forty queries of which most complete, some fail and are retried, some expire, some repeat or are unusable."""
    answers = Drive().run([query(offset) for offset in range(40)]).dispatches
    events: list[Event] = []
    for offset in range(40):
        events.append(query(offset, query_id="q3" if offset == 5 else None))
        if offset == 20:
            events.append(Refused("queries", 20, 2_000, NOT_A_QUERY))
    for number, dispatch in enumerate(answers):
        again = query(dispatch.origin.offset, at_ms=4_100) if number % 5 == 0 else None
        at_ms, ok = 4_100 + number, number % 5 != 0
        fields: CompletionChanges = {
            "at_ms": at_ms,
            "ok": ok,
            "stated_micros": 150 if ok else None,
            "cost": None if ok else "zero",
            "retry": again,
        }
        if number % 7 != 6:
            events.append(completion(number, dispatch.id, dispatch.llm, **fields))
    events.append(Refused("completions", 99, 5_000, NOT_A_QUERY))
    return [*events, tick(60_000), query(40, at_ms=60_100), query(41, at_ms=60_200)]


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "priced", "kinds": kinds(3)},
        pytest.param({"policy": "priced"}, marks=pytest.mark.long),
        pytest.param({"policy": "port"}, marks=pytest.mark.long),
    ],
    ids=["forecast", "priced", "port"],
)
def test_a_crash_at_any_cut_changes_nothing(changes: ConfigurationChanges) -> None:
    """drive([q1, q2, CRASH, q3]) == drive([q1, q2, q3]) for every cut, whichever policy decides."""
    events, settings = story(), config(**changes)
    whole = Drive(settings).run(events).outcome()
    for cut in range(len(events) + 1):
        assert Drive(settings).run([*events[:cut], CRASH, *events[cut:]]).outcome() == whole, f"cut at {cut}"


@pytest.mark.parametrize("size", [2, 7, 1_000])
def test_the_size_of_batches_changes_nothing(size: int) -> None:
    """The same events give the same decisions however they are cut into transactions."""
    events = story()
    batches = [events[start : start + size] for start in range(0, len(events), size)]
    assert Drive().run(batches).outcome() == Drive().run(events).outcome()


def test_reading_the_topics_twice_changes_nothing() -> None:
    """Records at or below the applied offsets are skipped."""
    events = story()
    twice = Drive().run(events).run(event for event in events if not isinstance(event, Ticked))
    assert twice.outcome() == Drive().run(events).outcome()


def test_every_record_is_chained_to_the_one_before() -> None:
    """Each decision record carries the hash of the one before it, and the account row that of the last."""
    drive = Drive()
    before = len(drive.decisions)
    records = [record for event in story() for _, record in drive.commit([event]).decisions]
    assert [after.prev for _, after in pairwise(drive.decisions[before:])] == [
        record_hash(record) for record in records[:-1]
    ]
    assert drive.router.view.account_row().head == record_hash(records[-1])


OPEN = [query(0)]
CLOSES = [
    ("its cost is spent", completion(0, "0-0-1", "large", stated_micros=500), ("settled", 500, "cost", 0)),
    ("a dearer answer is an overrun", completion(0, "0-0-1", "large", stated_micros=800), ("settled", 800, "cost", 80)),
    (
        "an unknown cost is the reservation",
        completion(0, "0-0-1", "large", stated_micros=None),
        ("settled", 720, "reservation", 0),
    ),
    (
        "an error that says that it cost nothing",
        completion(0, "0-0-1", "large", ok=False, stated_micros=None, cost="zero"),
        ("released", 0, "none", 0),
    ),
    (
        "an error of unknown cost is the reservation",
        completion(0, "0-0-1", "large", ok=False, stated_micros=None),
        ("settled", 720, "reservation", 0),
    ),
    (
        "an error that was charged is spent",
        completion(0, "0-0-1", "large", ok=False, stated_micros=30),
        ("settled", 30, "cost", 0),
    ),
    ("no answer expires", tick(10_000), ("expired", 0, "none", 0)),
]


@pytest.mark.parametrize(("event", "expected"), [case[1:] for case in CLOSES], ids=[case[0] for case in CLOSES])
def test_a_reservation_closes(event: Event, expected: tuple[object, ...]) -> None:
    """A reservation of 720 micro-dollars closes with the right outcome, spending, basis and what was charged beyond it;
    within its budget, the account has no overrun."""
    drive = Drive().run([query(0, quality=[0.9, 0.0, 0.0], cost_micros=[600, 0, 0]), event])
    [closed] = drive.decided(Closed)
    account = drive.router.view.budgets["large"]
    assert (closed.outcome, closed.spent_micros, closed.basis, closed.overrun_micros) == expected
    assert account.spent == expected[1]
    assert account.reserved == 0
    assert account.overrun == 0


def test_a_mass_expiry_takes_one_tick_after_the_other() -> None:
    """A tick closes what it names and what is due; the rest settles when it is answered."""
    drive = Drive().run([query(offset, at_ms=offset) for offset in range(5)])
    [last] = [dispatch for dispatch in drive.dispatches if dispatch.id == "0-4-1"]
    late = 20_000
    drive.run([tick(9_999), tick(late, queries=2), CRASH, tick(late, queries=4)])
    drive.run([completion(0, last.id, last.llm, at_ms=late), tick(late)])
    assert [(closed.dispatch_id, closed.outcome) for closed in drive.decided(Closed)] == [
        *((f"0-{offset}-1", "expired") for offset in range(4)),
        ("0-4-1", "settled"),
    ]


def test_a_completion_of_an_unknown_dispatch_changes_no_account() -> None:
    """It is recorded as ignored, with the cost that it states, and goes to the dead letters."""
    drive = Drive().run([query(0, quality=[0.9, 0.0, 0.0])])
    before = drive.router.view.budgets
    drive.run([completion(0, "0-7-1", "large")])
    [ignored] = drive.decided(Ignored)
    assert drive.router.view.budgets == before
    assert (ignored.code, ignored.llm, ignored.cost_micros) == ("unmatched", "large", 100)
    assert drive.ignored == [ignored]


def test_a_completion_that_spells_the_llm_otherwise_settles() -> None:
    """The id is the dispatch's own. The LLM of the dispatch is charged, and the spelling is remarked."""
    drive = Drive().run([query(0, quality=[0.9, 0.0, 0.0]), completion(0, "0-0-1", "large-2025-01-01")])
    [closed] = drive.decided(Closed)
    assert (closed.llm, closed.spent_micros, closed.remarks) == ("large", 100, ("llm_spelled_otherwise",))


AFTER: list[tuple[str, list[Event], list[tuple[str, int, int]], tuple[int, int, int]]] = [
    (
        "after an answer",
        [completion(0, "0-0-1", "large"), completion(1, "0-0-1", "large", stated_micros=70)],
        [("paid_twice", 70, 0)],
        (170, 0, 70),
    ),
    (
        "after the expiry",
        [tick(20_000), completion(0, "0-0-1", "large", at_ms=20_001)],
        [("late", 100, 0)],
        (100, 100, 0),
    ),
    (
        "after the expiry, twice",
        [tick(20_000), *(completion(n, "0-0-1", "large", at_ms=20_001) for n in range(2))],
        [("late", 100, 0), ("paid_twice", 100, 0)],
        (200, 100, 100),
    ),
    (
        "of unknown cost, after an answer",
        [completion(0, "0-0-1", "large"), completion(1, "0-0-1", "large", stated_micros=None)],
        [("paid_twice", 720, 0)],
        (820, 0, 720),
    ),
    (
        "after an error that cost nothing",
        [completion(0, "0-0-1", "large", ok=False, stated_micros=0), completion(1, "0-0-1", "large")],
        [("paid_twice", 100, 0)],
        (100, 0, 100),
    ),
]


@pytest.mark.parametrize(
    ("events", "charged", "account"), [case[1:] for case in AFTER], ids=[case[0] for case in AFTER]
)
def test_an_answer_after_the_closing_costs_money(
    events: list[Event], charged: list[tuple[str, int, int]], account: tuple[int, int, int]
) -> None:
    """It is booked in a column of its own, closes nothing, and is not a dead letter, also after a crash."""
    drive = Drive().run([query(0, quality=[0.9, 0.0, 0.0], cost_micros=[600, 0, 0])])
    for event in events:
        drive.run([event, CRASH])
    again = drive.decided(ChargedAgain)
    large = drive.router.view.budgets["large"]
    assert [(record.reason, record.spent_micros, record.replaced_micros) for record in again] == charged
    assert (large.spent, large.late, large.paid_twice) == account
    assert drive.ignored == []
    assert len(drive.decided(Closed)) == 1


DEFERRED = [
    ("priced_out", [query(0, quality=[0.0, 0.0, 0.0])]),
    ("exhausted", [query(0, quality=[0.9, 0.0, 0.0])]),
    ("expired", [query(0, at_ms=500, deadline_ms=500)]),
    ("duplicate", [query(0), query(1, query_id="q0")]),
]


@pytest.mark.parametrize(("reason", "events"), DEFERRED, ids=[case[0] for case in DEFERRED])
def test_what_is_not_served_now_is_deferred_with_its_reason(reason: str, events: list[Event]) -> None:
    """The last query is deferred for `reason`, and its decision says the same."""
    margin = 100.0 if reason == "exhausted" else 1.2
    drive = Drive(config(margins=(margin,) * 3)).run(events)
    decision = drive.decided(Routed)[-1]
    assert [deferred.reason for deferred in drive.deferred] == [reason]
    assert decision.reason == reason
    assert decision.llm is None


def failure(offset: int, attempt: int, llm: str, retry: bool = True) -> Event:
    again = query(0, at_ms=1_000 + offset) if retry else None
    fields: CompletionChanges = {
        "ok": False,
        "stated_micros": None,
        "cost": "zero",
        "error": "overloaded",
        "retry": again,
        "at_ms": 1_000 + offset,
    }
    return completion(offset, f"0-0-{attempt}", llm, **fields)


def test_a_failed_dispatch_goes_once_more_to_the_next_best_llm() -> None:
    """With two attempts allowed: the best LLM, then the next best, then deferred as failed."""
    drive = Drive().run([query(0)])
    first = drive.dispatches[0].llm
    drive.run([failure(0, 1, first)])
    second = drive.dispatches[1].llm
    drive.run([failure(1, 2, second)])
    assert [(dispatch.id, dispatch.attempt) for dispatch in drive.dispatches] == [("0-0-1", 1), ("0-0-2", 2)]
    assert first != second
    assert [(deferred.reason, deferred.attempt) for deferred in drive.deferred] == [("failed", 3)]


def test_a_failed_query_that_has_left_its_topic_is_deferred() -> None:
    """Without the query there is nothing to dispatch again; the record says so."""
    drive = Drive().run([query(0)])
    drive.run([failure(0, 1, drive.dispatches[0].llm, retry=False)])
    [deferred] = drive.deferred
    assert deferred.reason == "failed"
    assert deferred.remedy == Remedy("send_again")
    assert bytes(deferred.query) == b"\xc0"


def test_prices_are_solved_on_schedule() -> None:
    """Before the first query and then every seven; each solution is recorded with what it came from."""
    drive = Drive().run([query(offset) for offset in range(15)])
    assert [priced.seen for priced in drive.decided(Priced)] == [0, 7, 14]


def test_a_new_budget_is_recorded_and_keeps_the_books() -> None:
    """A lowered budget below what is committed becomes overrun; another LLM starts with its own."""
    drive = Drive().run([query(0, quality=[0.9, 0.0, 0.0], cost_micros=[1000, 1, 1])])
    budgets = {"large": 1_000, "medium": 10_000, "tiny": 10}
    changed = config(llms=("large", "medium", "tiny"), budget_micros=budgets)
    drive.run([Reconfigured(1, changed), CRASH])
    accounts = drive.router.view.budgets
    assert accounts["large"].overrun == 200
    assert accounts["tiny"].amount == 10
    assert drive.router.view.config == changed


def test_a_configuration_brings_its_prices() -> None:
    """Prices are in force before the first query, and anew as soon as a budget changes."""
    drive = Drive()
    first = drive.router.view.prices
    drive.run([query(0), Reconfigured(1, config(budget_micros=dict.fromkeys(LLMS, 100)))])
    assert (len(first), drive.router.view.prices != first) == (3, True)


def test_a_refused_record_is_recorded_once() -> None:
    """A record that cannot be used moves its offset on and has one decision record."""
    drive = Drive().run([Refused("queries", 4, 0, NOT_A_QUERY), Refused("queries", 4, 0, NOT_A_QUERY)])
    assert [(record.cause, record.rejection) for record in drive.decided(Rejected)] == [
        (Cause("queries", 4), NOT_A_QUERY)
    ]
