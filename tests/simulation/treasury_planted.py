"""Bugs planted on purpose in the treasury, each in one part: what the simulator must find."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from tests.simulation.treasury_planted_lanes import (
    AnswersTooEarly,
    AsksForOneBudget,
    AsksTheDeniedAgain,
    AsksWhoFailed,
    ForgetsAParkedQuery,
    FreesACorrection,
    FreesIntoTheOpenPeriod,
    HoldsAndWaits,
    IgnoresARecall,
    KeepsWhatIsFreed,
    KeepsWhatIsOver,
    LosesARecall,
    LosesParkedRows,
    OnlyLaterLlms,
    Owes,
    ReadsTwice,
    RecallsOnce,
    RevivesADeferredQuery,
    TakesNeedsOfBefore,
    UsesAPausedLlm,
)
from tests.simulation.treasury_world import Actors
from worker.contract.leases import Denied, Granted, GrantMessage, Item, MoneyIsBack
from worker.contract.treasury_records import WaitingAsk
from worker.treasury.books import AccountKey, Books
from worker.treasury.desk import Desk
from worker.treasury.events import TreasuryEffects, TreasuryEvent
from worker.treasury.outbox import Outbox
from worker.treasury.periods import Periods
from worker.treasury.treasury import Treasury


class DeniesWithoutRecall(Desk):
    """Does not wait for what lanes give back."""

    def _all_back(self, number: int) -> bool:
        return True


class NeverSaysAgain(Desk):
    """Forgets whom it has told that a budget is dry."""

    def say_again(self) -> None:
        for number in self.due():
            self._books.put_budget(number, replace(self._books.budgets[number], dry=None, told=()))


class SaysAgainToOne(Desk):
    """Tells one lane only that a budget has money again."""

    def say_again(self) -> None:
        for number in self.due():
            budget = self._books.budgets[number]
            self._outbox.tell_all(budget.told[:1], MoneyIsBack(number))
            self._books.put_budget(number, replace(budget, dry=None, told=()))


class GrantsBeyond(Desk):
    """Grants what is asked for."""

    def _decide(self, waiting: WaitingAsk) -> bool:
        open_needs = [need for need in waiting.ask.needs if self._books.open_key(need.budget) is not None]
        self._outbox.tell(waiting.lane, Granted(waiting.ask.number, tuple(map(self._granted, open_needs))))
        return True


class LeavesTheLowered(Desk):
    """Does not recall when an amount is lowered below what is out."""

    def _recall_overspent(self, number: int) -> None:
        pass


class GivesBlocksWhileDry(Desk):
    """Ends scarcity and gives blocks while a lane is told dry."""

    def _is_plenty(self, number: int) -> bool:
        budget = self._books.budgets[number]
        return not budget.is_scarce and not budget.is_paused

    def _end_scarcity(self, number: int) -> None:
        budget = self._books.budgets.get(number)
        if budget is None or budget.dry is None:
            super()._end_scarcity(number)
        elif (
            self._is_open_and_scarce(number)
            and not self._books.waits_for(number)
            and self._block(number, self._books.open_account(number).left)
        ):
            self._books.put_budget(number, replace(budget, is_scarce=False))


class RemembersTheHopeless(Desk):
    """Takes a need that is above everything for a sign that the budget is dry."""

    def _decide(self, waiting: WaitingAsk) -> bool:
        open_needs = [need for need in waiting.ask.needs if self._books.open_key(need.budget) is not None]
        hopeless = [need for need in open_needs if self._is_hopeless(need)]
        if not hopeless or any(self._books.budgets[need.budget].is_paused for need in open_needs):
            return super()._decide(waiting)
        shortages = tuple(self._dry(need, waiting.lane) for need in hopeless)
        self._outbox.tell(waiting.lane, Denied(waiting.ask.number, "dry", shortages))
        return True


class BooksAReturnTwice(Books):
    """Adds what came back twice."""

    def book(self, key: AccountKey, spent: int, returned: int, carries_on: bool) -> None:
        super().book(key, spent, 2 * returned, carries_on)


class CreditsTheNewPeriod(Books):
    """Adds what comes back of an old period to the open one."""

    def book(self, key: AccountKey, spent: int, returned: int, carries_on: bool) -> None:
        open_key = self.open_key(key[0])
        super().book(key, spent, 0, False)
        super().book(open_key or key, 0, returned, False)


class CarriesNoOverrun(Books):
    """Forgives what is below 0 when a period ends."""

    def carry(self, key: AccountKey) -> int:
        return max(0, super().carry(key))


class SendsGrantsTwice(Outbox):
    """Says a grant twice."""

    def tell(self, lane: int, item: Item) -> None:
        super().tell(lane, item)
        if isinstance(item, Granted):
            super().tell(lane, item)


class GrantsToTheDead(Outbox):
    """Books grants for lanes that are silent, and does not send them."""

    def messages(self, books: Books) -> dict[int, GrantMessage]:
        for lane, items in self._items.items():
            if books.lanes[lane].is_silent:
                items[:] = [item for item in items if not isinstance(item, Granted)]
        self._items = {lane: items for lane, items in self._items.items() if items}
        return super().messages(books)


class OpensTwice(Periods):
    """Opens a period once more when its time is read again, with its amount."""

    def _open_next(self, number: int, at_ms: int) -> None:
        super()._open_next(number, at_ms)
        key = self._books.open_key(number)
        if key is not None:
            self._books.set_amount(key, 2 * self._books.accounts[key].amount)


class OpensAnOldPeriod(Periods):
    """Opens the period that is over once more."""

    def _open_next(self, number: int, at_ms: int) -> None:
        key = self._books.open_key(number)
        super()._open_next(number, at_ms)
        if key is not None and key in self._books.accounts:
            account = self._books.accounts[key]
            self._books.open_period(*key, account.amount, 0)


def with_parts(**parts: type) -> Actors:
    """A treasury with other parts, each by the name of its attribute."""

    class Replaced(Treasury):
        def _begin(self) -> None:
            super()._begin()
            for name, part in parts.items():
                getattr(self, f"_{name}").__class__ = part

    return Actors(treasury=Replaced)


class EndsScarcityEarly(Treasury):
    """Ends scarcity while an ask waits for the recall."""

    def handle(self, events: Iterable[TreasuryEvent]) -> TreasuryEffects:
        for number, budget in list(self._books.open_budgets()):
            if budget.is_scarce and self._books.waits_for(number):
                self._books.put_budget(number, replace(budget, is_scarce=False))
        return super().handle(events)


class LosesRows(Treasury):
    """Keeps something in memory only: `lost` says what of the rows is not as it should be."""

    def handle(self, events: Iterable[TreasuryEvent]) -> TreasuryEffects:
        effects = super().handle(events)
        effects.rows = {key: row for key, row in effects.rows.items() if not key.startswith("waiting/") or row is None}
        return effects


class TrustsItsClock(Treasury):
    """Opens periods by the clock of its owner, which is two minutes ahead."""

    def _advance(self, at_ms: int) -> None:
        super()._advance(at_ms + 120_000)


class ReadsReportsTwice(Treasury):
    """Applies a report that it has read before."""

    def _reported(self, event: Any) -> None:
        lane = self._books.lanes.get(event.lane)
        if lane is not None and event.offset <= lane.offset:
            self._books.put_lane(event.lane, replace(lane, offset=event.offset - 1, reports=event.report.sequence - 1))
        super()._reported(event)


BUGS: dict[str, Actors] = {
    "apply a grant twice": Actors(purse=ReadsTwice),
    "lose a recall": Actors(purse=LosesARecall),
    "never answer a recall": Actors(purse=IgnoresARecall),
    "recall once, not as a mode": Actors(purse=RecallsOnce),
    "answer a recall before it comes": Actors(purse=AnswersTooEarly),
    "forget a parked query": Actors(purse=ForgetsAParkedQuery),
    "revive a deferred query": Actors(purse=RevivesADeferredQuery),
    "hold and wait": Actors(purse=HoldsAndWaits),
    "ask for one of several budgets": Actors(purse=AsksForOneBudget),
    "ask for a denied LLM again": Actors(purse=AsksTheDeniedAgain),
    "keep what is over": Actors(purse=KeepsWhatIsOver),
    "keep what is freed after a recall": Actors(purse=KeepsWhatIsFreed),
    "owe an overrun": Actors(purse=Owes),
    "free into the open period": Actors(purse=FreesIntoTheOpenPeriod),
    "free what a late answer costs less": Actors(purse=FreesACorrection),
    "use a paused LLM": Actors(purse=UsesAPausedLlm),
    "lose parked rows in a crash": Actors(purse=LosesParkedRows),
    "try only later LLMs after a denial": Actors(purse=OnlyLaterLlms),
    "dispatch at the price of before": Actors(lane=TakesNeedsOfBefore),
    "send to an LLM that failed": Actors(lane=AsksWhoFailed),
    "deny without a recall": with_parts(desk=DeniesWithoutRecall),
    "never say that money is back": with_parts(desk=NeverSaysAgain),
    "say it to one lane only": with_parts(desk=SaysAgainToOne),
    "grant beyond what is left": with_parts(desk=GrantsBeyond),
    "leave a lowered amount out": with_parts(desk=LeavesTheLowered),
    "give blocks while a lane is told dry": with_parts(desk=GivesBlocksWhileDry),
    "remember a hopeless need": with_parts(desk=RemembersTheHopeless),
    "book a return twice": with_parts(books=BooksAReturnTwice),
    "credit an old return to the new period": with_parts(books=CreditsTheNewPeriod),
    "carry over without the overrun": with_parts(books=CarriesNoOverrun),
    "send a grant twice": with_parts(outbox=SendsGrantsTwice),
    "grant money to a dead lane": with_parts(outbox=GrantsToTheDead),
    "open a period twice": with_parts(periods=OpensTwice),
    "open an old period again": with_parts(periods=OpensAnOldPeriod),
    "open periods by a clock": Actors(treasury=TrustsItsClock),
    "end scarcity while an ask waits": Actors(treasury=EndsScarcityEarly),
    "lose waiting asks in a crash": Actors(treasury=LosesRows),
    "apply a report twice": Actors(treasury=ReadsReportsTwice),
}
