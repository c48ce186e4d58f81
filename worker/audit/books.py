"""The auditor's own books of one partition, added up from its decision records. Pure.

It shares no code with the ledger that it checks. Each record gives the problems that it makes; the books go on as the
record says, so that one wrong record is one finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from msgspec.structs import replace

from worker.contract.messages import (
    Account,
    AccountRow,
    Checkpoint,
    Closed,
    Configuration,
    Configured,
    Decision,
    Ignored,
    Priced,
    Rejected,
    Reservation,
    Routed,
)

# First attempts that were answered before they were priced.
UNPRICED = ("duplicate", "expired")


class Books:
    """Accounts, open reservations, prices in force and counts, as the records so far make them."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.accounts: dict[str, Account] = {}
        self.open: dict[str, Reservation] = {}
        self.prices: dict[str, float] = {}
        self.clock_ms = self.seen = self.dispatches = 0
        self.counts: Counter[str] = Counter()
        self.dispatched: Counter[str] = Counter()
        self.quality: dict[str, tuple[float, int]] = {}
        self.config: Configuration | None = None
        self._queries: set[str] = set()
        self._adopting = False
        self._listed = 0

    def begin(self, row: AccountRow, config: Configuration) -> None:
        """Take over from a checkpoint, where what was before it has left its topic."""
        self.accounts, self.prices, self.config = dict(row.accounts), dict(row.prices), config
        self.clock_ms, self.seen, self.dispatches = row.clock_ms, row.seen, row.dispatches
        self._adopting = True

    @property
    def llms(self) -> tuple[str, ...]:
        """The LLMs in the order of the last configuration."""
        return self.config.llms if self.config is not None else ()

    def apply(self, decision: Decision) -> Iterator[str]:
        """Book one record; yields what is wrong with it."""
        if decision.at_ms < self.clock_ms:
            yield f"is dated {decision.at_ms}, before the record ahead of it ({self.clock_ms})"
        self.clock_ms = max(self.clock_ms, decision.at_ms)
        match decision:
            case Configured():
                yield from self._configured(decision)
            case Priced():
                self.prices = dict(zip(self.llms, decision.prices, strict=False))
            case Routed():
                yield from self._routed(decision)
            case Closed():
                yield from self._closed(decision)
            case Checkpoint():
                yield from self._checkpoint(decision)
            case Rejected():
                self.counts["dead_letters" if decision.topic == "queries" else "refused_completions"] += 1
            case Ignored():
                self.counts["ignored"] += 1

    def differences(self, row: AccountRow) -> Iterator[str]:
        """What an account row says otherwise than these books."""
        for llm in sorted(self.accounts.keys() | row.accounts.keys()):
            mine, theirs = self.accounts.get(llm), row.accounts.get(llm)
            if mine != theirs:
                yield f"account {llm}: the decisions add up to {_words(mine)}, the row says {_words(theirs)}"
        figures = {"prices": (self.prices, row.prices), "seen": (self.seen, row.seen)}
        figures["dispatches"] = (self.dispatches, row.dispatches)
        for name, (mine_, theirs_) in figures.items():
            if mine_ != theirs_:
                yield f"{name}: {mine_} by the decisions, {theirs_} in the row"

    def _configured(self, record: Configured) -> Iterator[str]:
        if record.partition != self.partition:
            yield f"is of partition {record.partition}"
        self.config, self.prices = record.config, {}
        for llm, budget in record.config.budget_micros.items():
            old = self.accounts.get(llm, Account(0))
            uncovered = max(0, old.reserved_micros + old.spent_micros - budget)
            self.accounts[llm] = Account(budget, old.reserved_micros, old.spent_micros, uncovered)

    def _routed(self, record: Routed) -> Iterator[str]:
        first = record.attempt == 1
        if first and record.reason not in UNPRICED:
            self.seen += 1
        if record.prices != tuple(self.prices.values()):
            yield "was decided at prices that were not in force"
        dispatched = record.llm is not None
        self.counts["dispatches" if dispatched else "deferrals"] += 1
        if first:
            self.counts["dispatched" if dispatched else "deferred"] += 1
        if record.llm is not None:
            yield from self._reserved(record, record.llm)

    def _reserved(self, record: Routed, llm: str) -> Iterator[str]:
        reservation = reservation_of(self.partition, record, llm)
        self.dispatches += 1
        self.dispatched[llm] += 1
        if reservation.dispatch_id in self.open:
            yield f"dispatches {reservation.dispatch_id} twice"
        elif record.query_id in self._queries:
            yield f"dispatches query {record.query_id} while another dispatch of it is open"
        self.open[reservation.dispatch_id] = reservation
        self._queries.add(record.query_id)
        old = self.accounts.get(llm, Account(0))
        self.accounts[llm] = new = replace(old, reserved_micros=old.reserved_micros + record.reserved_micros)
        if _held(new) > new.budget_micros + new.overrun_micros:
            yield f"takes {llm} to {_held(new)} of a budget of {new.budget_micros} with {new.overrun_micros} overrun"

    def _closed(self, record: Closed) -> Iterator[str]:
        reservation = self.open.pop(record.dispatch_id, None)
        self.counts[record.outcome] += 1
        if reservation is None:
            yield f"closes {record.dispatch_id}, which is not open: settled twice, or never reserved"
            return
        self._queries.discard(reservation.query_id)
        yield from _mismatches(record, reservation)
        if record.quality is not None:
            total, count = self.quality.get(record.llm, (0.0, 0))
            self.quality[record.llm] = total + record.quality, count + 1
        yield from self._settled(reservation, record.spent_micros)

    def _checkpoint(self, record: Checkpoint) -> Iterator[str]:
        if record.row is not None:
            yield from (f"checkpoint: {difference}" for difference in self.differences(record.row))
        self._listed = len(record.reservations) + (self._listed if record.part else 0)
        for reservation in record.reservations:
            if self._adopting:
                self.open[reservation.dispatch_id] = reservation
                self._queries.add(reservation.query_id)
            elif self.open.get(reservation.dispatch_id) != reservation:
                yield f"checkpoint: holds {reservation.dispatch_id}, which is not open as it says"
        if record.part + 1 == record.parts:
            self._adopting = False
            if self._listed != len(self.open):
                yield f"checkpoint: holds {self._listed} reservations, but {len(self.open)} are open"

    def _settled(self, reservation: Reservation, spent_micros: int) -> Iterator[str]:
        llm = reservation.llm
        old = self.accounts.get(llm, Account(0))
        reserved, spent = old.reserved_micros - reservation.reserved_micros, old.spent_micros + spent_micros
        overrun = max(0, reserved + spent - old.budget_micros)
        self.accounts[llm] = new = Account(old.budget_micros, reserved, spent, overrun)
        if new.reserved_micros < 0 or new.spent_micros < 0:
            yield f"takes {llm} below zero: {_words(new)}"


def reservation_of(partition: int, record: Routed, llm: str) -> Reservation:
    """The reservation that a decision makes, as the ledger must hold it."""
    return Reservation(
        dispatch_id=f"{partition}-{record.offset}-{record.attempt}",
        query_id=record.query_id,
        llm=llm,
        offset=record.offset,
        attempt=record.attempt,
        reserved_micros=record.reserved_micros,
        at_ms=record.at_ms,
        deadline_ms=record.deadline_ms,
        tried=record.tried,
    )


def _mismatches(record: Closed, reservation: Reservation) -> Iterator[str]:
    said = (record.llm, record.query_id, record.reserved_micros)
    held = (reservation.llm, reservation.query_id, reservation.reserved_micros)
    if said != held:
        yield f"closes {record.dispatch_id} as {said}, but it was reserved as {held}"
    if record.overrun_micros != max(0, record.spent_micros - reservation.reserved_micros):
        yield f"records an overrun of {record.overrun_micros} for {record.spent_micros} of {held[2]} reserved"
    if record.outcome != "settled" and record.spent_micros != 0:
        yield f"{record.outcome}, and yet spends {record.spent_micros}"
    if record.outcome == "expired" and record.at_ms < reservation.deadline_ms:
        yield f"expires {record.dispatch_id} before its deadline ({reservation.deadline_ms})"


def _held(account: Account) -> int:
    return account.reserved_micros + account.spent_micros


def _words(account: Account | None) -> str:
    if account is None:
        return "nothing"
    return (
        f"budget {account.budget_micros}, reserved {account.reserved_micros}, spent {account.spent_micros}, "
        f"overrun {account.overrun_micros}"
    )
