"""The treasury's rows in memory, and the only place where its money moves. Pure.

Asserted in production after each movement: lanes never gave back or spent more than they were granted; a grant never
exceeds what is left; a period opens once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn, Self, TypeVar

import msgspec
from msgspec.structs import replace

from worker.contract.calendar import NEVER_MS
from worker.contract.errors import FixSetting
from worker.contract.treasury_records import (
    TREASURY_FORMAT,
    BudgetAccount,
    BudgetRow,
    LaneRow,
    TreasuryRow,
    WaitingAsk,
)
from worker.core.ledger import BrokenInvariant

TREASURY_KEY = "treasury"
BUDGET_PREFIX, ACCOUNT_PREFIX, LANE_PREFIX, WAITING_PREFIX = "budget/", "money/", "lane/", "waiting/"

# A budget and the number of a period.
AccountKey = tuple[int, int]

_encode = msgspec.msgpack.Encoder().encode
_Kind = TypeVar("_Kind")


class Books:
    """All that the treasury knows. Read it freely; change it through the methods.

    `changed` are budgets whose waiting asks have to be looked at once more.
    """

    def __init__(self) -> None:
        self.row = TreasuryRow()
        self.budgets: dict[int, BudgetRow] = {}
        self.accounts: dict[AccountKey, BudgetAccount] = {}
        self.lanes: dict[int, LaneRow] = {}
        # In the order in which they came.
        self.waiting: dict[int, WaitingAsk] = {}
        self.changed: set[int] = set()
        self._next_end_ms: int | None = None
        self._waiting_for: dict[int, set[int]] = {}
        self._periods_of: dict[int, set[int]] = {}
        self._touched: set[str] = set()

    @classmethod
    def read(cls, rows: Mapping[str, bytes]) -> Self:
        """The books that these rows hold.

        Raises msgspec.MsgspecError or ValueError for a row that no treasury has written, and FixSetting for the rows of
        another version.
        """
        books = cls()
        if TREASURY_KEY in rows:
            books.row = msgspec.msgpack.decode(rows[TREASURY_KEY], type=TreasuryRow)
        if books.row.format != TREASURY_FORMAT:
            raise FixSetting(
                f"treasury-ledger: the rows have format {books.row.format}, but this version reads {TREASURY_FORMAT}; "
                "run the version that wrote them"
            )
        # By number, as they were added: decisions must not depend on the order of the rows.
        for (number,), budget in _read(rows, BUDGET_PREFIX, BudgetRow):
            books.budgets[number] = budget
        for (number, period), account in _read(rows, ACCOUNT_PREFIX, BudgetAccount):
            books._put_account((number, period), account)
        for (number,), lane in _read(rows, LANE_PREFIX, LaneRow):
            books.lanes[number] = lane
        for (number,), waiting in _read(rows, WAITING_PREFIX, WaitingAsk):
            books._wait(number, waiting)
        books.changed.clear()
        books._touched.clear()
        return books

    # Rows

    def put_row(self, row: TreasuryRow) -> None:
        """Replace the row that there is once."""
        self.row = row
        self._touched.add(TREASURY_KEY)

    def put_budget(self, number: int, budget: BudgetRow) -> None:
        """Replace a budget."""
        old = self.budgets.get(number)
        if old is None or old.period != budget.period:
            self._next_end_ms = None
        self.budgets[number] = budget
        self.changed.add(number)
        self._touched.add(f"{BUDGET_PREFIX}{number}")

    def put_lane(self, number: int, lane: LaneRow) -> None:
        """Replace a lane."""
        self.lanes[number] = lane
        self._touched.add(f"{LANE_PREFIX}{number}")

    def open_key(self, number: int) -> AccountKey | None:
        """The account of a budget's open period; None if the budget is removed or not known."""
        budget = self.budgets.get(number)
        return None if budget is None or budget.period is None else (number, budget.period.number)

    def open_account(self, number: int) -> BudgetAccount:
        """The account of a budget's open period."""
        key = self.open_key(number)
        assert key is not None, f"budget {number} is open"
        return self.accounts[key]

    @property
    def next_end_ms(self) -> int:
        """When the next period ends."""
        if self._next_end_ms is None:
            ends = [one.period.end_ms for one in self.budgets.values() if one.period is not None]
            self._next_end_ms = min(ends, default=NEVER_MS)
        return self._next_end_ms

    def open_budgets(self) -> Iterator[tuple[int, BudgetRow]]:
        """Every budget that is not removed."""
        return ((number, budget) for number, budget in self.budgets.items() if budget.period is not None)

    def number_of(self, name: str) -> int | None:
        """The budget of this name that is not removed."""
        return next((number for number, one in self.open_budgets() if one.definition.name == name), None)

    # Asks that wait

    def wait(self, waiting: WaitingAsk) -> int:
        """Keep an ask; returns its place in the order of all asks."""
        self.put_row(replace(self.row, asks=self.row.asks + 1))
        self._wait(self.row.asks, waiting)
        return self.row.asks

    def answered(self, place: int) -> WaitingAsk:
        """Take an ask that waits no longer."""
        waiting = self.waiting.pop(place)
        for need in waiting.ask.needs:
            self._waiting_for[need.budget].discard(place)
        self.changed.update(need.budget for need in waiting.ask.needs)
        self._touched.add(f"{WAITING_PREFIX}{place}")
        return waiting

    def waits_for(self, number: int) -> set[int]:
        """The places of the asks that need something of a budget."""
        return self._waiting_for.get(number, set())

    def _wait(self, place: int, waiting: WaitingAsk) -> None:
        self.waiting[place] = waiting
        for need in waiting.ask.needs:
            self._waiting_for.setdefault(need.budget, set()).add(place)
        self._touched.add(f"{WAITING_PREFIX}{place}")

    # Money

    def open_period(self, number: int, period: int, amount: int, carried: int) -> None:
        """A new account."""
        if (number, period) in self.accounts:
            broken(f"period {period} of budget {number} is opened twice")
        self._put_account((number, period), BudgetAccount(amount, carried))

    def carry(self, key: AccountKey) -> int:
        """Take all that is left of an account, above or below 0, to be carried into the next period."""
        account = self.accounts[key]
        left = account.left
        self._put_account(key, replace(account, carried=account.carried - left))
        return left

    def grant(self, key: AccountKey, amount: int) -> None:
        """Lease money to a lane."""
        account = self.accounts[key]
        if not 0 <= amount <= account.left:
            broken(f"{amount} are granted of {account}")
        self._put_account(key, replace(account, granted=account.granted + amount))

    def book(self, key: AccountKey, spent: int, returned: int, carries_on: bool) -> None:
        """Book what a lane reports of an account. If it `carries_on`, what comes back goes to the open period."""
        account = self.accounts[key]
        changed = replace(account, returned=account.returned + returned, spent=account.spent + spent)
        if carries_on:
            changed = replace(changed, carried=changed.carried - returned)
            self.add_carried(key[0], returned)
        self._put_account(key, changed)

    def add_carried(self, number: int, amount: int) -> None:
        """Money of a period that is over comes into the open one, or is taken from it (below 0)."""
        key = self.open_key(number)
        assert key is not None, f"budget {number} is open"
        account = self.accounts[key]
        self._put_account(key, replace(account, carried=account.carried + amount))

    def set_amount(self, key: AccountKey, amount: int) -> None:
        """Another amount for a period that is open."""
        self._put_account(key, replace(self.accounts[key], amount=amount))

    def end(self, key: AccountKey) -> BudgetAccount:
        """Take an account of which lanes hold nothing; a removed budget goes with its last account."""
        account = self.accounts.pop(key)
        number, period = key
        self._periods_of[number].remove(period)
        self._touched.add(f"{ACCOUNT_PREFIX}{number}/{period}")
        if not self._periods_of[number] and self.budgets[number].period is None:
            del self.budgets[number]
            self._touched.add(f"{BUDGET_PREFIX}{number}")
        return account

    def _put_account(self, key: AccountKey, account: BudgetAccount) -> None:
        if account.amount < 0 or account.granted < 0 or account.out < 0:
            broken(f"budget {key[0]}, period {key[1]}: {account}")
        number, period = key
        self.accounts[key] = account
        self._periods_of.setdefault(number, set()).add(period)
        self.changed.add(number)
        self._touched.add(f"{ACCOUNT_PREFIX}{number}/{period}")

    # What is written

    def take_rows(self) -> dict[str, bytes | None]:
        """The rows that changed since the last call, by key; None for a row that is gone."""
        touched, self._touched = sorted(self._touched), set()
        return {key: None if (row := self._row(key)) is None else _encode(row) for key in touched}

    def _row(self, key: str) -> msgspec.Struct | None:
        kind, _, name = key.partition("/")
        numbers = tuple(int(number) for number in name.split("/") if number)
        find: dict[str, Callable[[], msgspec.Struct | None]] = {
            BUDGET_PREFIX: lambda: self.budgets.get(numbers[0]),
            ACCOUNT_PREFIX: lambda: self.accounts.get((numbers[0], numbers[1])),
            LANE_PREFIX: lambda: self.lanes.get(numbers[0]),
            WAITING_PREFIX: lambda: self.waiting.get(numbers[0]),
        }
        return find.get(f"{kind}/", lambda: self.row)()


def broken(what: str) -> NoReturn:
    """Stop: nothing may be decided on books that do not add up."""
    raise BrokenInvariant(f"the treasury's books do not add up: {what}")


def _read(rows: Mapping[str, bytes], prefix: str, kind: type[_Kind]) -> Iterator[tuple[tuple[int, ...], _Kind]]:
    decode = msgspec.msgpack.Decoder(kind).decode
    found = {
        tuple(int(number) for number in key.removeprefix(prefix).split("/")): row
        for key, row in rows.items()
        if key.startswith(prefix)
    }
    return ((numbers, decode(found[numbers])) for numbers in sorted(found))
