"""The ledger: money moves in two phases, and the books always add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.contract.messages import Account, Outcome, Reservation
from worker.core import ledger as ledger_module
from worker.core.ledger import BrokenInvariant, Ledger


def held(number: int, llm: str = "a", amount_micros: int = 100, deadline_ms: int = 1_000) -> Reservation:
    """A reservation for query `q<number>`."""
    return Reservation(f"0-{number}-1", f"q{number}", llm, number, 1, amount_micros, 0, deadline_ms, ())


RESERVES = [
    ("fits", 100, 0, 0, Account(100, 100, 0, 0)),
    ("one micro-dollar too much", 101, 0, 1, Account(100, 0, 0, 0)),
    ("what is spent is gone", 61, 40, 1, Account(100, 0, 40, 0)),
    ("free of charge", 0, 100, 0, Account(100, 0, 100, 0)),
]


@pytest.mark.parametrize(
    ("amount", "spent", "lacking", "after"), [c[1:] for c in RESERVES], ids=[c[0] for c in RESERVES]
)
def test_reserve(amount: int, spent: int, lacking: int, after: Account) -> None:
    """Money is held only if budget - spent - reserved covers it; else what is lacking is told, to the micro-dollar."""
    ledger = Ledger({"a": Account(100, 0, spent, 0)})
    assert ledger.reserve(held(1, amount_micros=amount)) == lacking
    assert ledger.accounts["a"] == after


CLOSES = [
    ("released", 0, Account(100, 0, 0, 0), 0),
    ("cheaper", 30, Account(100, 0, 30, 0), 0),
    ("exact", 60, Account(100, 0, 60, 0), 0),
    ("dearer, still within the budget", 90, Account(100, 0, 90, 0), 30),
    ("dearer than the budget", 160, Account(100, 0, 160, 60), 100),
]


@pytest.mark.parametrize(("cost", "after", "overrun"), [c[1:] for c in CLOSES], ids=[c[0] for c in CLOSES])
def test_close(cost: int, after: Account, overrun: int) -> None:
    """Closing a reservation of 60 books the cost, returns the part of the cost above 60, and records the part above
    the budget as overrun."""
    ledger = Ledger({"a": Account(100)})
    ledger.reserve(held(1, amount_micros=60))
    assert ledger.close(held(1, amount_micros=60), "settled", cost, 1).overrun_micros == overrun
    assert ledger.accounts["a"] == after
    assert ledger.open == {}


LOWERED = [
    ("released", [(50, Account(50, 100, 0, 50)), (0, Account(50, 40, 0, 0)), (0, Account(50, 0, 0, 0))]),
    (
        "settled as reserved",
        [(50, Account(50, 100, 0, 50)), (60, Account(50, 40, 60, 50)), (0, Account(50, 0, 60, 10))],
    ),
    ("raised again", [(50, Account(50, 100, 0, 50)), (60, Account(50, 40, 60, 50))]),
]


@pytest.mark.parametrize("steps", [case[1] for case in LOWERED], ids=[case[0] for case in LOWERED])
def test_a_lowered_budget_is_no_overrun_of_a_provider(steps: list[tuple[int, Account]]) -> None:
    """A budget below its reservations records an overrun. It shrinks as reservations close unspent, and a raise ends
    it."""
    ledger = Ledger({"a": Account(100)})
    made = [held(1, amount_micros=60), held(2, amount_micros=40)]
    for reservation in made:
        ledger.reserve(reservation)
    seen = []
    ledger.budget({"a": steps[0][0]})
    seen.append(ledger.accounts["a"])
    for reservation, (cost, _) in zip(made, steps[1:], strict=False):
        ledger.close(reservation, "settled", cost, 1)
        seen.append(ledger.accounts["a"])
    ledger.budget({"a": 200})
    assert seen == [after for _, after in steps]
    assert ledger.accounts["a"].overrun_micros == 0


BROKEN = [
    ("spent below zero", {"a": Account(100, 0, -1, 0)}, []),
    ("reserved without a reservation", {"a": Account(100, 50, 0, 0)}, []),
    ("a reservation that is not reserved", {"a": Account(100, 0, 0, 0)}, [held(1)]),
    ("more than the budget", {"a": Account(100, 0, 101, 0)}, []),
    ("a reservation without an account", {}, [held(1)]),
]


@pytest.mark.parametrize(("accounts", "reservations"), [c[1:] for c in BROKEN], ids=[c[0] for c in BROKEN])
def test_books_that_do_not_add_up_are_refused(accounts: dict[str, Account], reservations: list[Reservation]) -> None:
    """A ledger does not open on rows that break a rule."""
    with pytest.raises(BrokenInvariant):
        Ledger(accounts, reservations)


def test_a_reservation_closes_once() -> None:
    """Closing a reservation that is not open raises BrokenInvariant and books nothing."""
    ledger = Ledger({"a": Account(100)})
    ledger.reserve(held(1))
    ledger.close(held(1), "settled", 10, 1)
    with pytest.raises(BrokenInvariant):
        ledger.close(held(1), "settled", 10, 1)


def test_due_reservations_come_in_the_order_of_their_deadlines() -> None:
    """Due reservations are open, past their deadline, and come in the order of their deadlines."""
    ledger = Ledger({"a": Account(1_000)})
    deadlines = {1: 300, 2: 100, 3: 200, 4: 900}
    for number, deadline_ms in deadlines.items():
        ledger.reserve(held(number, deadline_ms=deadline_ms))
    ledger.close(held(3, deadline_ms=200), "expired", 0, 1)
    assert [due.offset for due in ledger.expired(300, most=5)] == [2, 1]
    assert [due.offset for due in ledger.expired(300, most=1)] == [2]
    assert ledger.next_due_ms() == 100


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "close", "budget"]),
        st.integers(0, 9),
        st.sampled_from(["a", "b"]),
        st.integers(0, 300),
    ),
    max_size=60,
)


@given(STEPS)
def test_any_history_keeps_the_books(steps: list[tuple[str, int, str, int]]) -> None:
    """Every rule of the ledger holds after every reserve, close and budget, in any order."""
    ledger = Ledger({"a": Account(500), "b": Account(200)})
    for step, number, llm, amount in steps:
        reservation = ledger.open.get(f"0-{number}-1")
        if step == "reserve" and reservation is None:
            ledger.reserve(held(number, llm, amount))
        elif step == "close" and reservation is not None:
            ledger.close(reservation, "settled", amount, number)
        elif step == "budget":
            ledger.budget({llm: amount})
        ledger.check()


# Deadlines of the reservations made, the numbers of those closed in this order, and the earliest deadline then.
DEADLINES = [
    ("none open", [], [], None),
    ("the earliest of three", [30, 10, 20], [], 10),
    ("the earliest is closed", [30, 10, 20], [1], 20),
    ("a later one is closed first", [30, 10, 20], [2, 1], 30),
    ("all are closed", [30, 10], [0, 1], None),
]


@pytest.mark.parametrize(
    ("deadlines", "closed", "earliest"), [case[1:] for case in DEADLINES], ids=[case[0] for case in DEADLINES]
)
def test_the_next_deadline_is_that_of_an_open_reservation(
    deadlines: list[int], closed: list[int], earliest: int | None
) -> None:
    """The next deadline is the earliest of the open reservations, in whatever order reservations close."""
    ledger = Ledger({"a": Account(1_000)})
    made = [held(number, deadline_ms=deadline_ms) for number, deadline_ms in enumerate(deadlines)]
    for reservation in made:
        ledger.reserve(reservation)
    for number in closed:
        ledger.close(made[number], "settled", 0, number)
    assert ledger.next_due_ms() == earliest


def closed_once(outcome: Outcome, spent_micros: int) -> Ledger:
    """A ledger with a budget of 100 whose only dispatch, of 60, closed like this."""
    ledger = Ledger({"a": Account(100)})
    ledger.reserve(held(1, amount_micros=60))
    ledger.close(held(1, amount_micros=60), outcome, spent_micros, 1)
    return ledger


AGAIN: list[tuple[str, Outcome, int, int, Account]] = [
    ("late", "expired", 0, 40, Account(100, 0, 40, 0, 40, 0)),
    ("late, booked as reserved before", "expired", 60, 40, Account(100, 0, 40, 0, 40, 0)),
    ("late, beyond the budget", "expired", 0, 130, Account(100, 0, 130, 30, 130, 0)),
    ("paid twice", "settled", 50, 40, Account(100, 0, 90, 0, 0, 40)),
    ("paid twice, beyond the budget", "settled", 80, 40, Account(100, 0, 120, 20, 0, 40)),
    ("answered after an error", "released", 0, 40, Account(100, 0, 40, 0, 0, 40)),
    ("again, at no cost", "settled", 50, 0, Account(100, 0, 50, 0, 0, 0)),
]


@pytest.mark.parametrize(("outcome", "booked", "cost", "after"), [c[1:] for c in AGAIN], ids=[c[0] for c in AGAIN])
def test_an_answer_after_the_closing_is_booked(outcome: Outcome, booked: int, cost: int, after: Account) -> None:
    """A late answer replaces what its expiry booked; an answer after another one is added. Each has its column."""
    ledger = closed_once(outcome, booked)
    dispatch = ledger.closed("0-1-1")
    assert dispatch is not None
    ledger.charge_again(dispatch, cost, 2)
    assert ledger.accounts["a"] == after
    ledger.check()


def test_a_late_answer_is_late_once() -> None:
    """The second answer after an expiry is paid twice."""
    ledger = closed_once("expired", 0)
    for number, cost in enumerate((30, 20), 2):
        dispatch = ledger.closed("0-1-1")
        assert dispatch is not None
        ledger.charge_again(dispatch, cost, number)
    assert ledger.accounts["a"] == Account(100, 0, 50, 0, 30, 20)


def test_the_oldest_closed_dispatches_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest of each outcome are kept: many answers do not push out those that expired."""
    monkeypatch.setattr(ledger_module, "MOST_CLOSED", 2)
    ledger = Ledger({"a": Account(10_000)})
    forgotten = []
    outcomes: tuple[Outcome, ...] = ("expired", "settled", "settled", "settled", "expired", "expired")
    for number, outcome in enumerate(outcomes):
        ledger.reserve(held(number))
        forgotten.append(ledger.close(held(number), outcome, 0, number).forgotten)
    assert forgotten == [None, None, None, "0-1-1", None, "0-0-1"]
    assert [dispatch.number for dispatch in ledger.all_closed()] == [2, 3, 4, 5]


def test_a_restored_ledger_keeps_the_closed_dispatches_in_order() -> None:
    """Rows of a compacted topic come in any order; the ledger forgets in the order of closing all the same."""
    ledger = Ledger({"a": Account(10_000)})
    for number in range(5):
        ledger.reserve(held(number))
        ledger.close(held(number), "expired" if number % 2 else "settled", 0, number)
    again = Ledger(ledger.accounts, (), reversed(ledger.all_closed()))
    assert again.all_closed() == ledger.all_closed()
