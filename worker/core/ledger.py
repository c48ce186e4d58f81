"""The ledger: accounts and open reservations of one partition, in integer micro-dollars. Pure.

Rules, asserted in production after every change of an account:
- nothing is negative;
- reserved = the sum of the account's open reservations (in full on restore and at checkpoints);
- spent + reserved <= budget + overrun, where overrun grows only when a provider charges more than was reserved, or
  when a budget is lowered below what is already committed, and shrinks to what is still beyond the budget when a
  reservation closes or the budget is raised;
- a reservation closes exactly once: reserve -> settle | release | expire (two-phase transfers, as in TigerBeetle).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NoReturn

from msgspec.structs import replace

from worker.contract.messages import Account, Reservation


class BrokenInvariant(AssertionError):
    """The books do not add up: a bug, or a ledger that somebody else wrote. Nothing may be decided on it."""


class Ledger:
    """The only place where money moves. Read `accounts` and `open` freely; change them through the methods."""

    def __init__(self, accounts: Mapping[str, Account], reservations: Iterable[Reservation] = ()) -> None:
        self.accounts = dict(accounts)
        self.open = {reservation.dispatch_id: reservation for reservation in reservations}
        self._by_query = {reservation.query_id: reservation.dispatch_id for reservation in self.open.values()}
        self._deadlines = [(reservation.deadline_ms, reservation.dispatch_id) for reservation in self.open.values()]
        heapq.heapify(self._deadlines)
        self.check()

    def budget(self, budgets_micros: Mapping[str, int]) -> None:
        """Set the budgets. What a lowered budget no longer covers becomes overrun; other accounts keep theirs."""
        for llm, budget in budgets_micros.items():
            old = self.accounts.get(llm, Account(0))
            self._put(llm, _overrun(Account(budget, old.reserved_micros, old.spent_micros)))

    def available_micros(self, llm: str) -> int:
        """What may still be reserved of an LLM's budget."""
        return self.accounts[llm].available_micros

    def reserve(self, reservation: Reservation) -> int:
        """Hold the reservation's money, if the account still has it.

        Returns what the account lacks, in micro-dollars; 0: it is reserved.
        """
        account = self.accounts[reservation.llm]
        amount = reservation.reserved_micros
        lacking_micros = account.spent_micros + account.reserved_micros + amount - account.budget_micros
        if lacking_micros > 0:
            return lacking_micros
        if reservation.dispatch_id in self.open or reservation.query_id in self._by_query:
            _broken(f"{reservation.dispatch_id} is already open")
        self._put(reservation.llm, replace(account, reserved_micros=account.reserved_micros + amount))
        self.open[reservation.dispatch_id] = reservation
        self._by_query[reservation.query_id] = reservation.dispatch_id
        heapq.heappush(self._deadlines, (reservation.deadline_ms, reservation.dispatch_id))
        return 0

    def close(self, reservation: Reservation, spent_micros: int) -> int:
        """End an open reservation with what it cost (0: released or expired), in micro-dollars.

        Returns what was charged beyond the reservation.
        """
        if self.open.pop(reservation.dispatch_id, None) != reservation:
            _broken(f"{reservation.dispatch_id} is not open")
        del self._by_query[reservation.query_id]
        self._drop_closed_deadlines()
        old = self.accounts[reservation.llm]
        reserved, spent = old.reserved_micros - reservation.reserved_micros, old.spent_micros + spent_micros
        self._put(reservation.llm, _overrun(Account(old.budget_micros, reserved, spent)))
        return max(0, spent_micros - reservation.reserved_micros)

    def is_open_query(self, query_id: str) -> bool:
        """Whether a dispatch of this query is still unanswered."""
        return query_id in self._by_query

    def next_deadline_ms(self) -> int | None:
        """The earliest deadline of an open reservation. Other threads may ask: it changes nothing."""
        earliest = next(iter(self._deadlines), None)
        return None if earliest is None else earliest[0]

    def oldest_ms(self) -> int | None:
        """When the oldest open reservation was made. Reservations are kept in the order in which they were made."""
        oldest = next(iter(self.open.copy().values()), None)
        return None if oldest is None else oldest.at_ms

    def due(self, now_ms: int, most: int) -> list[Reservation]:
        """The open reservations whose deadline has passed, the earliest first; the caller closes them."""
        due: list[Reservation] = []
        while self._deadlines and self._deadlines[0][0] <= now_ms and len(due) < most:
            _, dispatch_id = heapq.heappop(self._deadlines)
            if dispatch_id in self.open:
                due.append(self.open[dispatch_id])
        return due

    def check(self) -> None:
        """Assert every rule over the whole ledger; raises BrokenInvariant."""
        reserved: Counter[str] = Counter()
        for reservation in self.open.values():
            reserved[reservation.llm] += reservation.reserved_micros
        if missing := reserved.keys() - self.accounts.keys():
            _broken(f"reservations without an account: {sorted(missing)}")
        for llm, account in self.accounts.items():
            _check_account(llm, account)
            if account.reserved_micros != reserved[llm]:
                _broken(f"{llm}: {account.reserved_micros} reserved, but {reserved[llm]} in open reservations")

    def _drop_closed_deadlines(self) -> None:
        while self._deadlines and self._deadlines[0][1] not in self.open:
            heapq.heappop(self._deadlines)

    def _put(self, llm: str, account: Account) -> None:
        _check_account(llm, account)
        self.accounts[llm] = account


def _overrun(account: Account) -> Account:
    """The account with what of it is beyond its budget."""
    beyond = account.spent_micros + account.reserved_micros - account.budget_micros
    return replace(account, overrun_micros=max(0, beyond))


def _check_account(llm: str, account: Account) -> None:
    budget, reserved, spent, overrun = (
        account.budget_micros,
        account.reserved_micros,
        account.spent_micros,
        account.overrun_micros,
    )
    if budget < 0 or reserved < 0 or spent < 0 or overrun < 0 or spent + reserved > budget + overrun:
        _broken(f"{llm}: {account}")


def _broken(what: str) -> NoReturn:
    raise BrokenInvariant(f"the ledger's books do not add up: {what}")
