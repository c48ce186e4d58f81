"""The ledger: accounts and open reservations of one partition, in integer micro-dollars. Pure.

Rules, asserted in production after every change of an account:
- nothing is negative;
- reserved = the sum of the account's open reservations (in full on restore and at checkpoints);
- spent + reserved <= budget + overrun, where overrun grows only when a provider charges more than was reserved, or
  when a budget is lowered below what is already committed, and shrinks to what is still beyond the budget when a
  reservation closes or the budget is raised;
- a reservation closes exactly once: reserve -> settle | release | expire (two-phase transfers, as in TigerBeetle);
- a query waits for at most one of its dispatches; the money of the others is held until they close too.

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
        self._by_query: dict[str, set[str]] = {}
        self._deadlines: list[tuple[int, str]] = []
        self._silences: list[tuple[int, str]] = []
        for reservation in self.open.values():
            self._watch(reservation)
        self.check()

    def budget(self, budgets_micros: Mapping[str, int]) -> None:
        """Set the budgets. What a lowered budget no longer covers becomes overrun; other accounts keep theirs."""
        for llm, budget in budgets_micros.items():
            old = self.accounts.get(llm, Account(0))
            self._put(llm, _overrun(replace(old, budget_micros=budget)))

    def available_micros(self, llm: str) -> int:
        """What may still be reserved of an LLM's budget."""
        return self.accounts[llm].available_micros

    def lacking_micros(self, reservation: Reservation) -> int:
        """What the account lacks to hold the reservation's money; 0: it can be reserved."""
        account = self.accounts[reservation.llm]
        committed_micros = account.spent_micros + account.reserved_micros + reservation.reserved_micros
        return max(0, committed_micros - account.budget_micros)

    def reserve(self, reservation: Reservation) -> int:
        """Hold the reservation's money, if the account still has it.

        Returns what the account lacks, in micro-dollars; 0: it is reserved.
        """
        account = self.accounts[reservation.llm]
        amount = reservation.reserved_micros
        if lacking_micros := self.lacking_micros(reservation):
            return lacking_micros
        if any(other.offset != reservation.offset or other.may_retry for other in self._of_query(reservation)):
            _broken(f"{reservation.dispatch_id} is already open")
        self._put(reservation.llm, replace(account, reserved_micros=account.reserved_micros + amount))
        self.open[reservation.dispatch_id] = reservation
        self._watch(reservation)
        return 0

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

    def close(self, reservation: Reservation, outcome: Outcome, spent_micros: int, number: int) -> Closing:
        """End an open reservation with what it cost (0: released, or expired without a call), in micro-dollars.

        `number` grows with every closing.
        """
        if self.open.pop(reservation.dispatch_id, None) != reservation:
            _broken(f"{reservation.dispatch_id} is not open")
        self._forget(reservation)
        self._drop_passed()
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
            reservation.tags,
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
        reserved: Counter[str] = Counter()
        for reservation in self.open.values():
            reserved[reservation.llm] += reservation.reserved_micros
        if missing := reserved.keys() - self.accounts.keys():
            _broken(f"reservations without an account: {sorted(missing)}")
        for llm, account in self.accounts.items():
            _check_account(llm, account)
            if account.reserved_micros != reserved[llm]:
                _broken(f"{llm}: {account.reserved_micros} reserved, but {reserved[llm]} in open reservations")

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
