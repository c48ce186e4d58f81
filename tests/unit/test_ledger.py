"""The ledger: what budgets have moves in two phases, and the books always add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.contract.accounts import Account, Budget, Hold
from worker.contract.codes import Lack, Resource
from worker.contract.messages import Outcome, Reservation
from worker.core import ledger as ledger_module
from worker.core.ledger import BrokenInvariant, Ledger
from worker.core.settlement import Charge

A = ("a", 0)


def account(
    amount: int,
    reserved: int = 0,
    spent: int = 0,
    overrun: int = 0,
    late: int = 0,
    paid_twice: int = 0,
    name: str = "a",
) -> Account:
    """The account of a budget in US dollars."""
    return Account(name, "usd", amount, reserved, spent, overrun, late, paid_twice)


def settled(micros: int, outcome: Outcome = "settled") -> Charge:
    """A cost in micro-dollars."""
    return Charge(outcome, micros, "cost")


def held(number: int, llm: str = "a", amount_micros: int = 100, deadline_ms: int = 1_000) -> Reservation:
    """A reservation for query `q<number>` that holds so much of the budget of its LLM."""
    name, holds = f"0-{number}-1", (Hold(llm, amount_micros),)
    return Reservation(name, f"q{number}", llm, number, 1, amount_micros, 0, deadline_ms, (), holds=holds)


RESERVES = [
    ("fits", 100, 0, 0, account(100, 100, 0, 0)),
    ("one micro-dollar too much", 101, 0, 1, account(100, 0, 0, 0)),
    ("what is spent is gone", 61, 40, 1, account(100, 0, 40, 0)),
    ("free of charge", 0, 100, 0, account(100, 0, 100, 0)),
]


@pytest.mark.parametrize(
    ("amount", "spent", "lacking", "after"), [c[1:] for c in RESERVES], ids=[c[0] for c in RESERVES]
)
def test_reserve(amount: int, spent: int, lacking: int, after: Account) -> None:
    """Money is held only if budget - spent - reserved covers it; else what is lacking is told, to the micro-dollar."""
    ledger = Ledger([account(100, 0, spent, 0)])
    lacks = ledger.reserve(held(1, amount_micros=amount))
    assert lacks == ((Lack("a", "usd", lacking),) if lacking else ())
    assert ledger.accounts[A] == after


CLOSES = [
    ("released", 0, account(100, 0, 0, 0), 0),
    ("cheaper", 30, account(100, 0, 30, 0), 0),
    ("exact", 60, account(100, 0, 60, 0), 0),
    ("dearer, still within the budget", 90, account(100, 0, 90, 0), 30),
    ("dearer than the budget", 160, account(100, 0, 160, 60), 100),
]


@pytest.mark.parametrize(("cost", "after", "overrun"), [c[1:] for c in CLOSES], ids=[c[0] for c in CLOSES])
def test_close(cost: int, after: Account, overrun: int) -> None:
    """Closing a reservation of 60 books the cost, returns the part of the cost above 60, and records the part above
    the budget as overrun."""
    ledger = Ledger([account(100)])
    ledger.reserve(held(1, amount_micros=60))
    assert ledger.close(held(1, amount_micros=60), settled(cost), 1).overrun_micros == overrun
    assert ledger.accounts[A] == after
    assert ledger.open == {}


LOWERED = [
    ("released", [(50, account(50, 100, 0, 50)), (0, account(50, 40, 0, 0)), (0, account(50, 0, 0, 0))]),
    (
        "settled as reserved",
        [(50, account(50, 100, 0, 50)), (60, account(50, 40, 60, 50)), (0, account(50, 0, 60, 10))],
    ),
    ("raised again", [(50, account(50, 100, 0, 50)), (60, account(50, 40, 60, 50))]),
]


@pytest.mark.parametrize("steps", [case[1] for case in LOWERED], ids=[case[0] for case in LOWERED])
def test_a_lowered_budget_is_no_overrun_of_a_provider(steps: list[tuple[int, Account]]) -> None:
    """A budget below its reservations records an overrun. It shrinks as reservations close unspent, and a raise ends
    it."""
    ledger = Ledger([account(100)])
    made = [held(1, amount_micros=60), held(2, amount_micros=40)]
    for reservation in made:
        ledger.reserve(reservation)
    seen = []
    ledger.budget([Budget("a", "usd", steps[0][0])])
    seen.append(ledger.accounts[A])
    for reservation, (cost, _) in zip(made, steps[1:], strict=False):
        ledger.close(reservation, settled(cost), 1)
        seen.append(ledger.accounts[A])
    ledger.budget([Budget("a", "usd", 200)])
    assert seen == [after for _, after in steps]
    assert ledger.accounts[A].overrun == 0


BROKEN = [
    ("spent below zero", [account(100, 0, -1, 0)], []),
    ("reserved without a reservation", [account(100, 50, 0, 0)], []),
    ("a reservation that is not reserved", [account(100, 0, 0, 0)], [held(1)]),
    ("more than the budget", [account(100, 0, 101, 0)], []),
    ("a reservation without an account", [], [held(1)]),
]


@pytest.mark.parametrize(("accounts", "reservations"), [c[1:] for c in BROKEN], ids=[c[0] for c in BROKEN])
def test_books_that_do_not_add_up_are_refused(accounts: list[Account], reservations: list[Reservation]) -> None:
    """A ledger does not open on rows that break a rule."""
    with pytest.raises(BrokenInvariant):
        Ledger(accounts, reservations)


def test_a_reservation_closes_once() -> None:
    """Closing a reservation that is not open raises BrokenInvariant and books nothing."""
    ledger = Ledger([account(100)])
    ledger.reserve(held(1))
    ledger.close(held(1), settled(10), 1)
    with pytest.raises(BrokenInvariant):
        ledger.close(held(1), settled(10), 1)


def test_due_reservations_come_in_the_order_of_their_deadlines() -> None:
    """Due reservations are open, past their deadline, and come in the order of their deadlines."""
    ledger = Ledger([account(1_000)])
    deadlines = {1: 300, 2: 100, 3: 200, 4: 900}
    for number, deadline_ms in deadlines.items():
        ledger.reserve(held(number, deadline_ms=deadline_ms))
    ledger.close(held(3, deadline_ms=200), Charge("expired", 0, "none"), 1)
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
    ledger = Ledger([account(500), account(200, name="b")])
    for step, number, llm, amount in steps:
        reservation = ledger.open.get(f"0-{number}-1")
        if step == "reserve" and reservation is None:
            ledger.reserve(held(number, llm, amount))
        elif step == "close" and reservation is not None:
            ledger.close(reservation, settled(amount), number)
        elif step == "budget":
            ledger.budget([Budget(llm, "usd", amount)])
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
    ledger = Ledger([account(1_000)])
    made = [held(number, deadline_ms=deadline_ms) for number, deadline_ms in enumerate(deadlines)]
    for reservation in made:
        ledger.reserve(reservation)
    for number in closed:
        ledger.close(made[number], settled(0), number)
    assert ledger.next_due_ms() == earliest


def closed_once(outcome: Outcome, spent_micros: int) -> Ledger:
    """A ledger with a budget of 100 whose only dispatch, of 60, closed like this."""
    ledger = Ledger([account(100)])
    ledger.reserve(held(1, amount_micros=60))
    ledger.close(held(1, amount_micros=60), settled(spent_micros, outcome), 1)
    return ledger


AGAIN: list[tuple[str, Outcome, int, int, Account]] = [
    ("late", "expired", 0, 40, account(100, 0, 40, 0, 40, 0)),
    ("late, booked as reserved before", "expired", 60, 40, account(100, 0, 40, 0, 40, 0)),
    ("late, beyond the budget", "expired", 0, 130, account(100, 0, 130, 30, 130, 0)),
    ("paid twice", "settled", 50, 40, account(100, 0, 90, 0, 0, 40)),
    ("paid twice, beyond the budget", "settled", 80, 40, account(100, 0, 120, 20, 0, 40)),
    ("answered after an error", "released", 0, 40, account(100, 0, 40, 0, 0, 40)),
    ("again, at no cost", "settled", 50, 0, account(100, 0, 50, 0, 0, 0)),
]


@pytest.mark.parametrize(("outcome", "booked", "cost", "after"), [c[1:] for c in AGAIN], ids=[c[0] for c in AGAIN])
def test_an_answer_after_the_closing_is_booked(outcome: Outcome, booked: int, cost: int, after: Account) -> None:
    """A late answer replaces what its expiry booked; an answer after another one is added. Each has its column."""
    ledger = closed_once(outcome, booked)
    dispatch = ledger.closed("0-1-1")
    assert dispatch is not None
    ledger.charge_again(dispatch, settled(cost), 2)
    assert ledger.accounts[A] == after
    ledger.check()


def test_a_late_answer_is_late_once() -> None:
    """The second answer after an expiry is paid twice."""
    ledger = closed_once("expired", 0)
    for number, cost in enumerate((30, 20), 2):
        dispatch = ledger.closed("0-1-1")
        assert dispatch is not None
        ledger.charge_again(dispatch, settled(cost), number)
    assert ledger.accounts[A] == account(100, 0, 50, 0, 30, 20)


def test_the_oldest_closed_dispatches_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest of each outcome are kept: many answers do not push out those that expired."""
    monkeypatch.setattr(ledger_module, "MOST_CLOSED", 2)
    ledger = Ledger([account(10_000)])
    forgotten = []
    outcomes: tuple[Outcome, ...] = ("expired", "settled", "settled", "settled", "expired", "expired")
    for number, outcome in enumerate(outcomes):
        ledger.reserve(held(number))
        forgotten.append(ledger.close(held(number), settled(0, outcome), number).forgotten)
    assert forgotten == [None, None, None, "0-1-1", None, "0-0-1"]
    assert [dispatch.number for dispatch in ledger.all_closed()] == [2, 3, 4, 5]


def test_a_restored_ledger_keeps_the_closed_dispatches_in_order() -> None:
    """Rows of a compacted topic come in any order; the ledger forgets in the order of closing all the same."""
    ledger = Ledger([account(10_000)])
    for number in range(5):
        ledger.reserve(held(number))
        ledger.close(held(number), settled(0, "expired" if number % 2 else "settled"), number)
    again = Ledger(ledger.accounts.values(), (), reversed(ledger.all_closed()))
    assert again.all_closed() == ledger.all_closed()


# Several budgets

COMPANY, TOKENS, REQUESTS, OPEN = (
    Account("company", "usd", 1_000),
    Account("tokens", "tokens", 5_000),
    Account("requests", "requests", 3),
    Account("gpu", "open", 2),
)
ALL = (COMPANY, TOKENS, REQUESTS, OPEN)


def draws(number: int, micros: int = 100, tokens: int = 700) -> Reservation:
    """A reservation that holds a part of all budgets."""
    holds = (Hold("company", micros), Hold("tokens", tokens), Hold("requests", 1), Hold("gpu", 1))
    name = f"0-{number}-1"
    return Reservation(name, f"q{number}", "a", number, 1, micros, 0, 1_000, (), holds=holds, reserved_tokens=tokens)


SHORT: list[tuple[str, Reservation, tuple[Lack, ...]]] = [
    ("all have enough", draws(9), ()),
    ("money", draws(9, micros=901), (Lack("company", "usd", 1),)),
    ("money and tokens", draws(9, 1_000, 5_000), (Lack("company", "usd", 100), Lack("tokens", "tokens", 700))),
]


@pytest.mark.parametrize(("reservation", "lacking"), [c[1:] for c in SHORT], ids=[c[0] for c in SHORT])
def test_a_reservation_takes_from_all_budgets_or_from_none(reservation: Reservation, lacking: tuple[Lack, ...]) -> None:
    """If one budget has too little, nothing is held of any, and every budget that has too little is named."""
    ledger = Ledger(ALL)
    ledger.reserve(draws(1))
    before = dict(ledger.accounts)
    assert ledger.reserve(reservation) == lacking
    held = {hold.key for hold in reservation.holds} if not lacking else set()
    assert {key for key, now in ledger.accounts.items() if now != before[key]} == held
    ledger.check()


RELEASED, UNSENT = Charge("released", 0, "none"), Charge("expired", 0, "none")
BEGUN = Charge("expired", 100, "unanswered", spent_tokens=700)
USED: list[tuple[str, Charge, tuple[int, int, int, int]]] = [
    ("settled", Charge("settled", 80, "usage", spent_tokens=650), (80, 650, 1, 0)),
    ("more than was held", Charge("settled", 1_200, "usage", spent_tokens=6_000), (1_200, 6_000, 1, 0)),
    ("refused", RELEASED, (0, 0, 1, 0)),
    ("expired, its call had begun", BEGUN, (100, 700, 1, 0)),
    ("expired, never called", UNSENT, (0, 0, 0, 0)),
]


@pytest.mark.parametrize(("charge", "spent"), [c[1:] for c in USED], ids=[c[0] for c in USED])
def test_a_closing_charges_each_budget_in_its_own_unit(charge: Charge, spent: tuple[int, ...]) -> None:
    """Money and tokens are charged, a request counts once it was sent, and an open dispatch is given back."""
    ledger = Ledger(ALL)
    ledger.reserve(draws(1))
    ledger.close(draws(1), charge, 1)
    assert tuple(account.spent for account in ledger.accounts.values()) == spent
    assert [account.reserved for account in ledger.accounts.values()] == [0, 0, 0, 0]
    ledger.check()


LATER: list[tuple[str, Charge, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = [
    ("late, never called for all we knew", UNSENT, (90, 500, 1, 0), (90, 500, 1, 0), (0, 0, 0, 0)),
    ("late, booked as reserved", BEGUN, (90, 500, 1, 0), (90, 500, 1, 0), (0, 0, 0, 0)),
    ("after another answer", RELEASED, (90, 500, 2, 0), (0, 0, 0, 0), (90, 500, 1, 0)),
]


@pytest.mark.parametrize(("first", "spent", "late", "twice"), [c[1:] for c in LATER], ids=[c[0] for c in LATER])
def test_a_further_answer_charges_each_budget(
    first: Charge, spent: tuple[int, ...], late: tuple[int, ...], twice: tuple[int, ...]
) -> None:
    """A late answer replaces what the expiry charged each budget; one after another answer is added."""
    ledger = Ledger(ALL)
    ledger.reserve(draws(1))
    ledger.close(draws(1), first, 1)
    dispatch = ledger.closed("0-1-1")
    assert dispatch is not None
    ledger.charge_again(dispatch, Charge("settled", 90, "usage", spent_tokens=500), 2)
    found = [(account.spent, account.late, account.paid_twice) for account in ledger.accounts.values()]
    assert found == list(zip(spent, late, twice, strict=True))
    ledger.check()


def test_the_amount_of_open_dispatches_is_never_passed() -> None:
    """Two may be open at once. A third finds none left, until one of the two closes, whatever that one cost."""
    ledger = Ledger(ALL)
    assert [bool(ledger.reserve(draws(number))) for number in (1, 2, 3)] == [False, False, True]
    ledger.close(draws(1), Charge("settled", 10, "usage", spent_tokens=10), 1)
    assert ledger.reserve(draws(3)) == ()


def test_the_resource_of_a_budget_never_changes() -> None:
    """The books of a budget are in its resource: under its name nothing else can be counted."""
    ledger = Ledger(ALL)
    with pytest.raises(BrokenInvariant, match="the account of company is in usd, and its budget in tokens"):
        ledger.budget([Budget("company", "tokens", 1)])


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 400), st.integers(1, 2_000), st.sampled_from(["usd", "tokens"])),
        max_size=40,
    )
)
def test_any_history_of_several_budgets_keeps_the_books(steps: list[tuple[int, int, int, Resource]]) -> None:
    """Every rule holds after every reservation and closing over several budgets, in any order."""
    ledger = Ledger(ALL)
    for number, micros, tokens, resource in steps:
        reservation = ledger.open.get(f"0-{number}-1")
        if reservation is None:
            ledger.reserve(draws(number, micros, tokens))
        else:
            ledger.close(reservation, Charge("settled", micros, "cost", spent_tokens=tokens), number)
        budget = COMPANY if resource == "usd" else TOKENS
        ledger.budget([Budget(budget.budget, resource, 3 * tokens)])
        ledger.check()
