"""The ledger: accounts and open reservations of one partition, in integer micro-dollars. Pure.

Rules, asserted in production after every change of an account:
- nothing is negative;
- reserved = the sum of the account's open reservations (in full on restore and at checkpoints);
- spent + reserved <= budget + overrun, where overrun grows only when a provider charges more than was reserved, or
  when a budget is lowered below what is already committed, and shrinks to what is still beyond the budget when a
  reservation closes or the budget is raised;
- a reservation closes exactly once: reserve -> settle | release | expire (two-phase transfers, as in TigerBeetle).

An answer to a dispatch that has closed still costs money. So the ledger keeps the newest MOST_CLOSED dispatches that
expired, and as many that were answered.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn

from msgspec.structs import replace

from worker.contract.messages import Account, ClosedDispatch, Outcome, Reservation

# About 300 bytes each, in memory and twice in the checkpoint's records.
MOST_CLOSED = 10_000


class BrokenInvariant(AssertionError):
    """The books do not add up: a bug, or a ledger that somebody else wrote. Nothing may be decided on it."""


class Closing(NamedTuple):
    """A closed dispatch as it is kept, what was charged beyond its reservation, and the id of the dispatch that the
    ledger forgets for it."""

    overrun_micros: int
    dispatch: ClosedDispatch
    forgotten: str | None


class Ledger:
    """The only place where money moves. Read `accounts` and `open` freely; change them through the methods."""

    def __init__(
        self,
        accounts: Mapping[str, Account],
        reservations: Iterable[Reservation] = (),
        closed: Iterable[ClosedDispatch] = (),
    ) -> None:
        self.accounts = dict(accounts)
        self._expired: dict[str, ClosedDispatch] = {}
        self._answered: dict[str, ClosedDispatch] = {}
        for dispatch in sorted(closed, key=lambda dispatch: dispatch.number):
            self._kept(dispatch.outcome)[dispatch.dispatch_id] = dispatch
        self.open = {reservation.dispatch_id: reservation for reservation in reservations}
        self._by_query = {reservation.query_id: reservation.dispatch_id for reservation in self.open.values()}
        self._deadlines = [(reservation.deadline_ms, reservation.dispatch_id) for reservation in self.open.values()]
        heapq.heapify(self._deadlines)
        self.check()

    def budget(self, budgets_micros: Mapping[str, int]) -> None:
        """Set the budgets. What a lowered budget no longer covers becomes overrun; other accounts keep theirs."""
        for llm, budget in budgets_micros.items():
            old = self.accounts.get(llm, Account(0))
            self._put(llm, _overrun(replace(old, budget_micros=budget)))

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

    def close(self, reservation: Reservation, outcome: Outcome, spent_micros: int, number: int) -> Closing:
        """End an open reservation with what it cost (0: released or expired), in micro-dollars.

        `number` grows with every closing.
        """
        if self.open.pop(reservation.dispatch_id, None) != reservation:
            _broken(f"{reservation.dispatch_id} is not open")
        del self._by_query[reservation.query_id]
        self._drop_closed_deadlines()
        old = self.accounts[reservation.llm]
        reserved, spent = old.reserved_micros - reservation.reserved_micros, old.spent_micros + spent_micros
        self._put(reservation.llm, _overrun(replace(old, reserved_micros=reserved, spent_micros=spent)))
        dispatch = ClosedDispatch(
            reservation.dispatch_id,
            reservation.query_id,
            reservation.llm,
            reservation.reserved_micros,
            spent_micros,
            outcome,
            number,
        )
        forgotten = self._keep(dispatch)
        return Closing(max(0, spent_micros - reservation.reserved_micros), dispatch, forgotten)

    def closed(self, dispatch_id: str) -> ClosedDispatch | None:
        """The dispatch of this id, if it closed and is not forgotten."""
        return self._expired.get(dispatch_id) or self._answered.get(dispatch_id)

    def all_closed(self) -> list[ClosedDispatch]:
        """Every closed dispatch that is kept, in the order of closing."""
        kept = [*self._expired.values(), *self._answered.values()]
        return sorted(kept, key=lambda dispatch: dispatch.number)

    def charge_again(self, dispatch: ClosedDispatch, spent_micros: int, number: int) -> Closing:
        """Book an answer that came after the dispatch had closed.

        After an expiry it replaces what the expiry booked (late); after another answer it is added (paid twice).
        """
        if self.closed(dispatch.dispatch_id) != dispatch:
            _broken(f"{dispatch.dispatch_id} is not closed")
        account = self.accounts[dispatch.llm]
        if dispatch.outcome == "expired":
            del self._expired[dispatch.dispatch_id]
            spent = account.spent_micros + spent_micros - dispatch.booked_micros
            account = replace(account, spent_micros=spent, late_micros=account.late_micros + spent_micros)
            answered = replace(dispatch, outcome="settled", booked_micros=spent_micros, number=number)
        else:
            del self._answered[dispatch.dispatch_id]
            spent, twice = account.spent_micros + spent_micros, account.paid_twice_micros + spent_micros
            account = replace(account, spent_micros=spent, paid_twice_micros=twice)
            answered = replace(dispatch, booked_micros=dispatch.booked_micros + spent_micros, number=number)
        self._put(dispatch.llm, _overrun(account))
        return Closing(0, answered, self._keep(answered))

    def _kept(self, outcome: Outcome) -> dict[str, ClosedDispatch]:
        return self._expired if outcome == "expired" else self._answered

    def _keep(self, dispatch: ClosedDispatch) -> str | None:
        """Keep a closed dispatch; returns the id of the one that is forgotten for it."""
        kept = self._kept(dispatch.outcome)
        kept[dispatch.dispatch_id] = dispatch
        if len(kept) <= MOST_CLOSED:
            return None
        oldest = next(iter(kept))
        del kept[oldest]
        return oldest

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
    later = account.late_micros + account.paid_twice_micros
    if budget < 0 or reserved < 0 or overrun < 0 or spent + reserved > budget + overrun:
        _broken(f"{llm}: {account}")
    if account.late_micros < 0 or account.paid_twice_micros < 0 or not later <= spent:
        _broken(f"{llm}: {account}")


def _broken(what: str) -> NoReturn:
    raise BrokenInvariant(f"the ledger's books do not add up: {what}")
