"""The ledger: accounts of budgets and open reservations of one partition, in whole units of each budget. Pure.

Rules, asserted in production after every change of an account:
- nothing is negative;
- reserved = the sum of what the open reservations hold of the account (in full on restore and at checkpoints);
- spent + reserved <= amount + overrun, where overrun grows only when a provider charges more than was reserved, or
  when a budget is lowered below what is already committed, and shrinks to what is still beyond the amount when a
  reservation closes or the budget is raised;
- a reservation takes from all accounts that it holds a part of, or from none, and gives back to the same ones;
- a reservation closes exactly once: reserve -> settle | release | expire (two-phase transfers, as in TigerBeetle);
- a query waits for at most one of its dispatches; what the others hold is held until they close too.

An answer to a dispatch that has closed still costs money. So the ledger keeps the newest MOST_CLOSED dispatches that
expired, and as many that were answered.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

from msgspec.structs import replace

from worker.contract.accounts import Account, AccountKey, Budget, Hold
from worker.contract.codes import Lack
from worker.contract.messages import ClosedDispatch, Outcome, Reservation
from worker.core.settlement import Charge, uses

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
        accounts: Iterable[Account] = (),
        reservations: Iterable[Reservation] = (),
        closed: Iterable[ClosedDispatch] = (),
    ) -> None:
        self.accounts = {account.key: account for account in accounts}
        self._changed: dict[AccountKey, None] = {}
        self._expired: dict[str, ClosedDispatch] = {}
        self._answered: dict[str, ClosedDispatch] = {}
        for dispatch in sorted(closed, key=lambda dispatch: dispatch.number):
            self._kept(dispatch.outcome)[dispatch.dispatch_id] = dispatch
        self.open = {reservation.dispatch_id: reservation for reservation in reservations}
        self._by_query: dict[str, set[str]] = {}
        self._deadlines: list[tuple[int, str]] = []
        self._silences: list[tuple[int, str]] = []
        for reservation in self.open.values():
            self._watch(reservation)
        self.check()

    def budget(self, budgets: Iterable[Budget]) -> None:
        """Set the amounts. What a lowered amount no longer covers becomes overrun; other accounts keep theirs."""
        for budget in budgets:
            empty = Account(budget.name, budget.resource, 0)
            old = self.accounts.get(empty.key, empty)
            if old.resource != budget.resource:
                _broken(f"the account of {budget.name} is in {old.resource}, and its budget in {budget.resource}")
            self._put(_overrun(replace(old, amount=budget.amount)))

    def all_accounts(self) -> list[Account]:
        """Every account, by budget and period. A restored ledger has the same order."""
        return sorted(self.accounts.values(), key=lambda account: account.key)

    def take_changed(self) -> list[Account]:
        """The accounts that have changed since the last call."""
        changed, self._changed = self._changed, {}
        return [self.accounts[key] for key in changed]

    def lacking(self, reservation: Reservation) -> tuple[Lack, ...]:
        """What the accounts lack to hold the reservation; empty: they have all of it."""
        lacking = []
        for hold in reservation.holds:
            account = self.accounts[hold.key]
            lack = account.spent + account.reserved + hold.amount - account.amount
            if lack > 0:
                lacking.append(Lack(account.budget, account.resource, lack))
        return tuple(lacking)

    def reserve(self, reservation: Reservation) -> tuple[Lack, ...]:
        """Hold all that the reservation needs, or nothing of it.

        Returns what the accounts lack; empty: it is reserved.
        """
        held = []
        for hold in reservation.holds:
            account = self.accounts[hold.key]
            if account.spent + account.reserved + hold.amount > account.amount:
                return self.lacking(reservation)
            held.append(replace(account, reserved=account.reserved + hold.amount))
        if any(other.offset != reservation.offset or other.may_retry for other in self._of_query(reservation)):
            _broken(f"{reservation.dispatch_id} is already open")
        for account in held:
            self._put(account)
        self.open[reservation.dispatch_id] = reservation
        self._watch(reservation)
        return ()

    def go_on(self, reservation: Reservation) -> Reservation:
        """The query waits no longer for this dispatch; returns the reservation as it is now."""
        return self._replace(reservation, replace(reservation, is_unanswered=True))

    def overtake(self, query_id: str, offset: int) -> list[Reservation]:
        """The query at this offset was answered: its dispatches that are still open have at most a second answer.

        Returns their reservations as they are now.
        """
        others = sorted(self._by_query.get(query_id, ()), key=lambda dispatch_id: self.open[dispatch_id].attempt)
        return [
            self._replace(other, replace(other, is_overtaken=True))
            for other in map(self.open.__getitem__, others)
            if other.offset == offset and not other.is_overtaken
        ]

    def close(self, reservation: Reservation, charge: Charge, number: int) -> Closing:
        """End an open reservation with what it is charged. `number` grows with every closing."""
        if self.open.pop(reservation.dispatch_id, None) != reservation:
            _broken(f"{reservation.dispatch_id} is not open")
        self._forget(reservation)
        self._drop_passed()
        booked = []
        for hold in reservation.holds:
            old = self.accounts[hold.key]
            spent = uses(old.resource, charge)
            booked.append(Hold(hold.budget, spent, hold.period))
            beyond = max(0, old.reserved - hold.amount + old.spent + spent - old.amount)
            self._put(replace(old, reserved=old.reserved - hold.amount, spent=old.spent + spent, overrun=beyond))
        dispatch = ClosedDispatch(
            reservation.dispatch_id,
            reservation.query_id,
            reservation.llm,
            reservation.reserved_micros,
            charge.spent_micros,
            charge.outcome,
            number,
            reservation.tags,
            tuple(booked),
            reservation.reserved_tokens,
        )
        forgotten = self._keep(dispatch)
        return Closing(max(0, charge.spent_micros - reservation.reserved_micros), dispatch, forgotten)

    def closed(self, dispatch_id: str) -> ClosedDispatch | None:
        """The dispatch of this id, if it closed and is not forgotten."""
        return self._expired.get(dispatch_id) or self._answered.get(dispatch_id)

    def all_closed(self) -> list[ClosedDispatch]:
        """Every closed dispatch that is kept, in the order of closing."""
        kept = [*self._expired.values(), *self._answered.values()]
        return sorted(kept, key=lambda dispatch: dispatch.number)

    def charge_again(self, dispatch: ClosedDispatch, charge: Charge, number: int) -> Closing:
        """Book an answer that came after the dispatch had closed.

        After an expiry it replaces what the expiry booked (late); after another answer it is added (paid twice).
        """
        if self.closed(dispatch.dispatch_id) != dispatch:
            _broken(f"{dispatch.dispatch_id} is not closed")
        del self._kept(dispatch.outcome)[dispatch.dispatch_id]
        is_late = dispatch.outcome == "expired"
        booked = tuple(self._book_again(hold, charge, is_late) for hold in dispatch.booked)
        micros = charge.spent_micros + (0 if is_late else dispatch.booked_micros)
        outcome: Outcome = "settled" if is_late else dispatch.outcome
        answered = replace(dispatch, outcome=outcome, booked=booked, booked_micros=micros, number=number)
        return Closing(0, answered, self._keep(answered))

    def _book_again(self, booked: Hold, charge: Charge, is_late: bool) -> Hold:
        """Book a further answer on one account; returns what the account has spent for the dispatch then."""
        account = self.accounts[booked.key]
        more = uses(account.resource, charge)
        if is_late:
            spent = account.spent + more - booked.amount
            self._put(_overrun(replace(account, spent=spent, late=account.late + more)))
            return replace(booked, amount=more)
        twice = account.paid_twice + more
        self._put(_overrun(replace(account, spent=account.spent + more, paid_twice=twice)))
        return replace(booked, amount=booked.amount + more)

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

    # Other threads may ask these: they change nothing.

    def next_due_ms(self) -> int | None:
        """When the next dispatch is unanswered or expires."""
        heads = [head for times in (self._deadlines, self._silences) for head in times[:1]]
        return min(heads)[0] if heads else None

    def oldest_ms(self) -> int | None:
        """When the oldest open reservation was made."""
        return min((reservation.at_ms for reservation in self.open.copy().values()), default=None)

    def expired(self, now_ms: int, most: int) -> list[Reservation]:
        """The open reservations whose deadline has passed, at most so many, the earliest first."""
        return self._passed(self._deadlines, now_ms, most)

    def unanswered(self, now_ms: int, most: int) -> list[Reservation]:
        """The open dispatches that are unanswered now and that their query waits for, at most so many, the earliest
        first."""
        return [one for one in self._passed(self._silences, now_ms, most) if one.may_retry]

    def _passed(self, times: list[tuple[int, str]], now_ms: int, most: int) -> list[Reservation]:
        passed = sorted(one for one in times.copy() if one[0] <= now_ms)
        found = [self.open.get(dispatch_id) for _, dispatch_id in passed]
        return [reservation for reservation in found if reservation is not None][:most]

    def check(self) -> None:
        """Assert every rule over the whole ledger; raises BrokenInvariant."""
        reserved: Counter[AccountKey] = Counter()
        for reservation in self.open.values():
            for hold in reservation.holds:
                reserved[hold.key] += hold.amount
        if missing := reserved.keys() - self.accounts.keys():
            _broken(f"reservations without an account: {sorted(missing)}")
        for key, account in self.accounts.items():
            _check_account(account)
            if account.reserved != reserved[key]:
                _broken(f"{account.budget}: {account.reserved} reserved, but {reserved[key]} in open reservations")

    def _of_query(self, reservation: Reservation) -> list[Reservation]:
        """The open reservations of the same query."""
        return [self.open[dispatch_id] for dispatch_id in self._by_query.get(reservation.query_id, ())]

    def _watch(self, reservation: Reservation) -> None:
        self._by_query.setdefault(reservation.query_id, set()).add(reservation.dispatch_id)
        heapq.heappush(self._deadlines, (reservation.deadline_ms, reservation.dispatch_id))
        if reservation.unanswered_at_ms and reservation.may_retry:
            heapq.heappush(self._silences, (reservation.unanswered_at_ms, reservation.dispatch_id))

    def _forget(self, reservation: Reservation) -> None:
        of_query = self._by_query[reservation.query_id]
        of_query.remove(reservation.dispatch_id)
        if not of_query:
            del self._by_query[reservation.query_id]

    def _replace(self, old: Reservation, new: Reservation) -> Reservation:
        """Reservations are kept in the order in which their rows were last written, as a restore reads them."""
        if self.open.pop(old.dispatch_id, None) != old:
            _broken(f"{old.dispatch_id} is not open")
        self.open[old.dispatch_id] = new
        self._drop_passed()
        return new

    def _drop_passed(self) -> None:
        """What is at the front of the times must be open still."""
        while self._deadlines and self._deadlines[0][1] not in self.open:
            heapq.heappop(self._deadlines)
        while self._silences and not self._is_waited_for(self._silences[0][1]):
            heapq.heappop(self._silences)

    def _is_waited_for(self, dispatch_id: str) -> bool:
        reservation = self.open.get(dispatch_id)
        return reservation is not None and reservation.may_retry

    def _put(self, account: Account) -> None:
        _check_account(account)
        key = account.key
        self.accounts[key] = account
        self._changed[key] = None


def _overrun(account: Account) -> Account:
    """The account with what of it is beyond its amount."""
    beyond = max(0, account.spent + account.reserved - account.amount)
    return account if account.overrun == beyond else replace(account, overrun=beyond)


def _check_account(account: Account) -> None:
    amount, reserved, spent, overrun = account.amount, account.reserved, account.spent, account.overrun
    if amount < 0 or reserved < 0 or overrun < 0 or spent + reserved > amount + overrun:
        _broken(f"{account}")
    if account.late < 0 or account.paid_twice < 0 or account.late + account.paid_twice > spent:
        _broken(f"{account}")


def _broken(what: str) -> NoReturn:
    raise BrokenInvariant(f"the ledger's books do not add up: {what}")
