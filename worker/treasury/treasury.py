"""The treasury: the single writer that owns all budgets, and the one door to its state. Pure: events in, effects out.

Rules:
- `handle` is the only way in.
- The same events from the same state give the same effects, bit for bit, however they are cut into batches; only
  messages to lanes are one a batch.
- The state after a batch is exactly what its rows say: `Treasury.restored` makes the same treasury of them.
- Records at or below the applied offset are skipped, so that reading a topic twice changes nothing.
- Memory is never rolled back: whoever cannot publish the effects of a batch must drop the treasury.

The parts: `books` (where money moves), `desk` (which asks are granted), `periods` (when money ends and comes anew),
`changes` (what people set), `outbox` (what lanes hear) and `chain` (what is proven). The protocol, with rules T1 to T9,
is docs/concepts/treasury.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

from msgspec.structs import replace

from worker.contract.budgets import BudgetDefinition
from worker.contract.codes import Rejection
from worker.contract.leases import BudgetStanding, LaneReport, Moved, Standings
from worker.contract.token_costs import PriceList
from worker.contract.treasury_records import (
    AgainSaid,
    BudgetAccount,
    BudgetRow,
    ControlRejected,
    ControlTaken,
    LaneRow,
    LanesSilent,
    LateBooked,
    ReportTaken,
    SettingsTaken,
    WaitingAsk,
)
from worker.treasury.books import AccountKey, Books, broken
from worker.treasury.chain import Chain
from worker.treasury.changes import Changes
from worker.treasury.desk import Desk
from worker.treasury.events import (
    Controlled,
    Publish,
    Reported,
    SettingsRead,
    Silence,
    TreasuryEffects,
    TreasuryEvent,
)
from worker.treasury.outbox import Outbox
from worker.treasury.periods import Calendar, Periods


class Treasury:
    """The state of the treasury: fresh, or `restored`. `calendar` tells which period holds a moment."""

    def __init__(self, calendar: Calendar, books: Books | None = None) -> None:
        self._calendar = calendar
        self._books = books or Books()
        self._chain = Chain(self._books.row.head, self._books.row.decisions)
        self._begin()

    def _begin(self) -> None:
        """Take up a transaction."""
        self._outbox = Outbox()
        self._desk = Desk(self._books, self._outbox)
        self._periods = Periods(self._books, self._outbox, self._chain, self._calendar)
        self._changes = Changes(self._books, self._outbox, self._periods)
        self._rejected: list[tuple[int, Rejection]] = []

    @classmethod
    def restored(cls, rows: Mapping[str, bytes], calendar: Calendar) -> Self:
        """The treasury that wrote these rows; a fresh one if it wrote none. Raises what `Books.read` raises."""
        return cls(calendar, Books.read(rows))

    def handle(self, events: Iterable[TreasuryEvent]) -> TreasuryEffects:
        """Apply events in order and return what one transaction must publish.

        Raises BrokenInvariant if the books do not add up; the treasury is then of no more use.
        """
        self._begin()
        for event in events:
            self._apply(event)
        books = self._books
        messages = self._outbox.messages(books)
        decisions = self._chain.take()
        if decisions:
            books.put_row(replace(books.row, head=self._chain.head, decisions=self._chain.count))
        return TreasuryEffects(messages, decisions, books.take_rows(), self._rejected)

    # For its owner, which has a clock, and for readers

    @property
    def waited_for(self) -> int:
        """The newest recall whose answers an ask waits for; 0 if none waits. `Silence` names it when time is up."""
        return self._desk.waited_for()

    @property
    def has_news(self) -> bool:
        """Whether `Publish` would tell lanes that a budget has money again."""
        return bool(self._desk.due())

    @property
    def budgets(self) -> Mapping[int, BudgetRow]:
        """The budgets by number; a removed one until its last account ends."""
        return self._books.budgets

    @property
    def accounts(self) -> Mapping[AccountKey, BudgetAccount]:
        """The accounts by budget and period."""
        return self._books.accounts

    @property
    def lanes(self) -> Mapping[int, LaneRow]:
        """The lanes that have reported, by number."""
        return self._books.lanes

    @property
    def waiting(self) -> Mapping[int, WaitingAsk]:
        """The asks that wait, the oldest first."""
        return self._books.waiting

    @property
    def paused_llms(self) -> tuple[str, ...]:
        """The LLMs that people have paused."""
        return self._books.row.paused_llms

    @property
    def prices(self) -> Mapping[str, PriceList]:
        """What LLMs cost, where people have set it."""
        return self._books.row.prices

    @property
    def at_ms(self) -> int:
        """The treasury's time: the newest of the broker's timestamps that it has read (T1)."""
        return self._books.row.at_ms

    @property
    def control_offset(self) -> int:
        """The last applied offset of `control`; -1 before the first."""
        return self._books.row.control_offset

    # Events

    def _apply(self, event: TreasuryEvent) -> None:
        match event:
            case Reported():
                self._reported(event)
            case Controlled():
                self._controlled(event)
            case SettingsRead():
                self._settings_read(event.at_ms, event.budgets)
            case Silence():
                self._silenced(event.recall)
            case Publish():
                self._desk.say_again()
                self._desk.settle()
                at_ms, sent = self.at_ms, self._outbox.take_digest()
                self._chain.add(lambda prev: AgainSaid(prev, at_ms, sent))

    def _advance(self, at_ms: int) -> None:
        """The first event of a later period opens it, before anything else happens (T1, T6)."""
        self._periods.advance(at_ms)
        self._desk.settle()

    def _reported(self, event: Reported) -> None:
        books, number, report = self._books, event.lane, event.report
        lane = books.lanes.get(number)
        if lane is not None and event.offset <= lane.offset:
            return
        self._advance(event.at_ms)
        if lane is None:
            self._greet(number)
        self._apply_report(number, event.offset, report)
        for moved in report.accounts:
            self._periods.end_if_done((moved.budget, moved.period))
        at_ms, sent = self.at_ms, self._outbox.take_digest()
        self._chain.add(lambda prev: ReportTaken(prev, at_ms, number, event.offset, sent))

    def _greet(self, number: int) -> None:
        """A new lane hears what there is. It holds nothing, so no recall waits for it (T8)."""
        books = self._books
        heard = books.row.recall
        books.put_lane(number, LaneRow(offset=-1, heard=heard))
        standings = [
            BudgetStanding(budget, one.definition, one.period, one.is_scarce, one.is_paused)
            for budget, one in books.open_budgets()
            if one.period is not None
        ]
        self._outbox.tell(number, Standings(heard, tuple(standings), books.row.paused_llms, dict(books.row.prices)))

    def _apply_report(self, number: int, offset: int, report: LaneReport) -> None:
        """Accounts, then heard, then asks (T2)."""
        books, lane = self._books, self._books.lanes[number]
        if report.sequence != lane.reports + 1:
            broken(f"report {report.sequence} of lane {number} follows {lane.reports}")
        for moved in report.accounts:
            self._book(moved)
        books.changed.update(
            budget for budget, one in books.open_budgets() if lane.heard < one.recall <= report.heard and one.is_scarce
        )
        books.put_lane(
            number,
            replace(
                lane,
                offset=offset,
                reports=report.sequence,
                heard=max(lane.heard, report.heard),
                is_silent=False,
                queries=lane.queries + report.queries,
            ),
        )
        self._desk.take(number, report.asks)
        self._desk.settle()
        self._desk.offer_blocks(number, report.low)

    def _book(self, moved: Moved) -> None:
        books, key = self._books, (moved.budget, moved.period)
        budget, open_key = books.budgets.get(moved.budget), books.open_key(moved.budget)
        carries_over = budget is not None and open_key is not None and budget.definition.carry_over
        if key in books.accounts:
            books.book(key, moved.spent, moved.returned, carries_on=carries_over and key != open_key)
            return
        if moved.spent + moved.returned:
            broken(f"a lane moved {moved} in an account that has ended")
        carried = moved.returned if carries_over else 0
        if carried:
            books.add_carried(moved.budget, carried)
        at_ms = self.at_ms
        self._chain.add(lambda prev: LateBooked(prev, at_ms, *key, moved.spent, carried))

    def _controlled(self, event: Controlled) -> None:
        if event.offset <= self.control_offset:
            return
        self._advance(event.at_ms)
        books, offset, record = self._books, event.offset, event.record
        books.put_row(replace(books.row, control_offset=offset))
        rejection = record if isinstance(record, Rejection) else self._changes.apply(record)
        self._desk.settle()
        at_ms, sent = self.at_ms, self._outbox.take_digest()
        if rejection is None:
            self._chain.add(lambda prev: ControlTaken(prev, at_ms, offset, sent))
        else:
            self._rejected.append((offset, rejection))
            self._chain.add(lambda prev: ControlRejected(prev, at_ms, offset, rejection, sent))

    def _settings_read(self, at_ms: int, budgets: tuple[BudgetDefinition, ...]) -> None:
        self._advance(at_ms)
        self._changes.read_settings(budgets)
        self._desk.settle()
        now_ms, sent = self.at_ms, self._outbox.take_digest()
        self._chain.add(lambda prev: SettingsTaken(prev, now_ms, budgets, sent))

    def _silenced(self, recall: int) -> None:
        """Nobody waits any longer for lanes that have not answered a recall, until they report (T4)."""
        books = self._books
        for number, lane in sorted(books.lanes.items()):
            if lane.heard < recall and not lane.is_silent:
                books.put_lane(number, replace(lane, is_silent=True))
        books.changed.update(number for number, one in books.open_budgets() if one.is_scarce)
        self._desk.settle()
        at_ms, sent = self.at_ms, self._outbox.take_digest()
        self._chain.add(lambda prev: LanesSilent(prev, at_ms, recall, sent))
