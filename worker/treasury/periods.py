"""Opens and closes periods by the treasury's own time, which is the broker's. Pure; it is given its calendar.

The rule is T6 of docs/concepts/treasury.md. No clock of an owner or of a lane opens a period.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from worker.contract.budgets import BudgetDefinition
from worker.contract.calendar import Every, Period
from worker.contract.leases import PeriodOpened
from worker.contract.treasury_records import AccountEnded, BudgetRow, PeriodBegun
from worker.treasury.books import AccountKey, Books
from worker.treasury.chain import Chain
from worker.treasury.outbox import Outbox

# Which period of a calendar holds a moment: `contract.calendar.period_at`, or for a replay what was recorded.
Calendar = Callable[[Every, str, int], Period]


class Periods:
    """The open period of each budget."""

    def __init__(self, books: Books, outbox: Outbox, chain: Chain, calendar: Calendar) -> None:
        self._books = books
        self._outbox = outbox
        self._chain = chain
        self._calendar = calendar

    def add(self, definition: BudgetDefinition, filed: BudgetDefinition | None) -> None:
        """Begin a new budget, with the period that holds this moment."""
        books = self._books
        number, at_ms = books.row.budgets + 1, books.row.at_ms
        books.put_row(replace(books.row, budgets=number))
        period = self._calendar(definition.every, definition.time_zone, at_ms)
        books.put_budget(number, BudgetRow(definition, filed, period))
        self._begin(number, period, 0, 0)
        self._outbox.tell_all(books.lanes, PeriodOpened(number, period, definition))

    def remove(self, number: int) -> None:
        """End a budget. Its accounts live until nothing of them is out."""
        budget, key = self._books.budgets[number], self._books.open_key(number)
        assert key is not None, f"budget {number} is open"
        self._books.put_budget(number, replace(budget, period=None, is_scarce=False, dry=None, told=()))
        self.end_if_done(key)

    def advance(self, at_ms: int) -> None:
        """Open the periods that hold this moment, before what happened then is applied."""
        books = self._books
        if at_ms <= books.row.at_ms:
            return
        books.put_row(replace(books.row, at_ms=at_ms))
        if at_ms < books.next_end_ms:
            return
        over = [number for number, one in books.open_budgets() if one.period is not None and one.period.end_ms <= at_ms]
        for number in over:
            self._open_next(number, at_ms)

    def end_if_done(self, key: AccountKey) -> None:
        """Delete the account of a period that is over if lanes hold nothing of it."""
        books = self._books
        if key != books.open_key(key[0]) and key in books.accounts and books.accounts[key].out == 0:
            account = books.end(key)
            at_ms = books.row.at_ms
            self._chain.add(lambda prev: AccountEnded(prev, at_ms, *key, account))

    def _open_next(self, number: int, at_ms: int) -> None:
        books = self._books
        budget, key = books.budgets[number], books.open_key(number)
        assert key is not None, f"budget {number} is open"
        *missed, period = self._following(budget, at_ms)
        carried = 0
        if budget.definition.carry_over:
            carried = books.carry(key) + len(missed) * budget.definition.amount
        changed = replace(budget, period=period, is_scarce=False, dry=None, told=())
        books.put_budget(number, changed)
        self._begin(number, period, carried, len(missed))
        self._outbox.tell_all(books.lanes, PeriodOpened(number, period))
        self.end_if_done(key)

    def _following(self, budget: BudgetRow, at_ms: int) -> Iterator[Period]:
        """The periods after the open one, to that which holds this moment."""
        period, definition = budget.period, budget.definition
        while period is not None and period.end_ms <= at_ms:
            period = self._calendar(definition.every, definition.time_zone, period.end_ms)
            yield period

    def _begin(self, number: int, period: Period, carried: int, skipped: int) -> None:
        books, amount = self._books, self._books.budgets[number].definition.amount
        books.open_period(number, period.number, amount, carried)
        at_ms = books.row.at_ms
        self._chain.add(lambda prev: PeriodBegun(prev, at_ms, number, period, amount, carried, skipped))
