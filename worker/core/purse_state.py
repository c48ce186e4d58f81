"""The rows of a purse in memory: what changed since the last transaction is written with the next. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from worker.contract.leases import Need
from worker.contract.purse_rows import LaneAccount, LaneBudget, ParkedQuery, PurseRow

PURSE_KEY = "purse"
BUDGET_PREFIX, ACCOUNT_PREFIX, PARKED_PREFIX = "lease/", "money/", "parked/"

# A budget and the number of a period.
AccountKey = tuple[int, int]

_encode = msgspec.msgpack.Encoder().encode
_Kind = TypeVar("_Kind")


class PurseState:
    """All of a purse that survives a crash. Read the dictionaries freely; change them through the methods."""

    def __init__(self) -> None:
        self.row = PurseRow()
        self.budgets: dict[int, LaneBudget] = {}
        self.accounts: dict[AccountKey, LaneAccount] = {}
        self.parked: dict[int, ParkedQuery] = {}
        # Accounts whose spending is not reported: a report looks at no others.
        self.unreported: set[AccountKey] = set()
        self._periods_of: dict[int, set[int]] = {}
        self._touched: set[str] = set()

    @classmethod
    def read(cls, rows: Mapping[str, bytes]) -> PurseState:
        """The state that these rows hold; rows of others in the same ledger are passed over.

        Raises msgspec.MsgspecError or ValueError for a row that no purse has written.
        """
        state = cls()
        if PURSE_KEY in rows:
            state.row = msgspec.msgpack.decode(rows[PURSE_KEY], type=PurseRow)
        # By number, as they were put: decisions must not depend on the order of the rows.
        for (number,), budget in _read(rows, BUDGET_PREFIX, LaneBudget):
            state.put_budget(number, budget)
        for (number, period), account in _read(rows, ACCOUNT_PREFIX, LaneAccount):
            state.put_account((number, period), account)
        for (ask,), query in _read(rows, PARKED_PREFIX, ParkedQuery):
            state.parked[ask] = query
        state._touched.clear()
        return state

    def put_row(self, row: PurseRow) -> None:
        """Replace the row that there is once."""
        self.row = row
        self._touched.add(PURSE_KEY)

    def put_budget(self, number: int, budget: LaneBudget | None) -> None:
        """Replace what the lane believes of a budget; None: forget it."""
        if budget is None:
            del self.budgets[number]
        else:
            self.budgets[number] = budget
        self._touched.add(f"{BUDGET_PREFIX}{number}")

    def put_account(self, key: AccountKey, account: LaneAccount | None) -> None:
        """Replace an account; None: it has ended."""
        number, period = key
        if account is None:
            del self.accounts[key]
            self._periods_of[number].remove(period)
        else:
            self.accounts[key] = account
            self._periods_of.setdefault(number, set()).add(period)
        if account is not None and account.unreported:
            self.unreported.add(key)
        else:
            self.unreported.discard(key)
        self._touched.add(f"{ACCOUNT_PREFIX}{number}/{period}")

    def park(self, query: ParkedQuery) -> None:
        """Keep a query that waits."""
        self.parked[query.ask] = query
        self._touched.add(f"{PARKED_PREFIX}{query.ask}")

    def unpark(self, ask: int) -> ParkedQuery | None:
        """Take a query that waits for this ask; None if none does."""
        query = self.parked.pop(ask, None)
        if query is not None:
            self._touched.add(f"{PARKED_PREFIX}{ask}")
        return query

    def open_period(self, number: int) -> int | None:
        """The number of the period of a budget that is open; None if the budget is removed or not known."""
        budget = self.budgets.get(number)
        return None if budget is None or budget.period is None else budget.period.number

    def account(self, key: AccountKey) -> LaneAccount:
        """An account; an empty one if it does not exist yet or has ended."""
        return self.accounts.get(key) or LaneAccount()

    def has_accounts(self, number: int) -> bool:
        """Whether the lane still has an account of a budget."""
        return bool(self._periods_of.get(number))

    # What the rows say of a budget

    def matching(self, llm: str, tags: Mapping[str, str]) -> list[int]:
        """The open budgets that a query with these tags would draw on at this LLM."""
        return [
            number
            for number, one in self.budgets.items()
            if one.period is not None and one.definition.matches(llm, tags)
        ]

    def lacks(self, need: Need) -> bool:
        """Whether a budget refuses a need now. Nothing draws on a budget that is removed."""
        budget = self.budgets.get(need.budget)
        if budget is None or budget.period is None:
            return False
        return budget.is_paused or self.account((need.budget, budget.period.number)).free < need.amount

    def is_known_dry(self, need: Need) -> bool:
        """Whether it is no use to ask for a need."""
        budget = self.budgets.get(need.budget)
        if budget is None or budget.period is None:
            return False
        return budget.is_paused or (budget.dry is not None and need.amount >= budget.dry)

    def may_keep(self, number: int) -> bool:
        """Whether free money of a budget's open period stays here."""
        budget = self.budgets[number]
        return not budget.is_scarce and not budget.is_paused

    def is_low(self, number: int) -> bool:
        """Whether less than half a block is left, and the treasury has not been told."""
        budget, period = self.budgets.get(number), self.open_period(number)
        if budget is None or period is None or budget.told_low or not self.may_keep(number):
            return False
        return 2 * self.account((number, period)).free < budget.block

    def take_rows(self) -> dict[str, bytes | None]:
        """The rows that changed since the last call, by key; None for a row that is gone."""
        touched, self._touched = sorted(self._touched), set()
        return {key: self._encoded(key) for key in touched}

    def _encoded(self, key: str) -> bytes | None:
        kind, _, name = key.partition("/")
        numbers = [int(number) for number in name.split("/") if number]
        found: msgspec.Struct | None
        match f"{kind}/":
            case "lease/":
                found = self.budgets.get(numbers[0])
            case "money/":
                found = self.accounts.get((numbers[0], numbers[1]))
            case "parked/":
                found = self.parked.get(numbers[0])
            case _:
                found = self.row
        return None if found is None else _encode(found)


def _read(rows: Mapping[str, bytes], prefix: str, kind: type[_Kind]) -> Iterator[tuple[tuple[int, ...], _Kind]]:
    decode = msgspec.msgpack.Decoder(kind).decode
    found = {
        tuple(int(number) for number in key.removeprefix(prefix).split("/")): row
        for key, row in rows.items()
        if key.startswith(prefix)
    }
    return ((numbers, decode(found[numbers])) for numbers in sorted(found))
