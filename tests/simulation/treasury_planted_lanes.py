"""Bugs planted on purpose in lanes that lease money, each in one part: what the simulator must find."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from tests.simulation.treasury_lane import Arrival, SimulatedLane
from worker.contract.leases import Denied, GrantMessage, Item, LaneReport, Recalled
from worker.contract.purse_rows import ParkedQuery
from worker.core.leasing import Closing, Entry, HandedBack, Option, Parked, Wish
from worker.core.purse import Purse
from worker.treasury.books import AccountKey


class ReadsTwice(Purse):
    """Applies a message that it has read before."""

    def read(self, offset: int, message: GrantMessage) -> tuple[Item, ...]:
        row = self._state.row
        self._state.put_row(replace(row, offset=max(offset, row.offset), messages=message.sequence))
        return message.items


class LosesARecall(Purse):
    """Answers a recall, and keeps what it has."""

    def apply(self, item: Item) -> HandedBack | None:
        if not isinstance(item, Recalled):
            return super().apply(item)
        self._state.put_row(replace(self._state.row, heard=item.number))
        self._must_answer = True
        return None


class IgnoresARecall(Purse):
    """Neither applies nor answers a recall."""

    def apply(self, item: Item) -> HandedBack | None:
        return None if isinstance(item, Recalled) else super().apply(item)


class RecallsOnce(Purse):
    """Gives back what it has when a recall comes, and keeps what becomes free later."""

    def give_back(self) -> None:
        super().give_back()
        for number, budget in list(self._state.budgets.items()):
            if budget.is_scarce:
                self._state.put_budget(number, replace(budget, is_scarce=False))


class AnswersTooEarly(Purse):
    """Says that it has applied a recall that has not come yet."""

    def report(self, now_ms: int) -> LaneReport | None:
        told = super().report(now_ms)
        return None if told is None else replace(told, heard=told.heard + 1)


class ForgetsAParkedQuery(Purse):
    """Takes a denial for the end of the matter."""

    def apply(self, item: Item) -> HandedBack | None:
        back = super().apply(item)
        if isinstance(item, Denied):
            self._handed_back = back = None
        return back


class RevivesADeferredQuery(Purse):
    """Waits for the answer of a query that has waited too long and is decided."""

    def give_up(self, ask: int) -> HandedBack | None:
        query = self._state.parked.get(ask)
        back = super().give_up(ask)
        if query is not None:
            self._state.park(replace(query, limit_ms=2**53))
        return back


class HoldsAndWaits(Purse):
    """A parked query keeps its part, and asks for the rest."""

    def _park(self, wish: Wish, option: Option) -> Parked:
        short = tuple(need for need in option.needs if self._state.lacks(need))
        return super()._park(wish, option._replace(needs=short))

    def _may_keep(self, key: AccountKey) -> bool:
        return bool(self._state.parked) or super()._may_keep(key)


class AsksForOneBudget(Purse):
    """Asks for the first of several budgets only."""

    def _park(self, wish: Wish, option: Option) -> Parked:
        return super()._park(wish, option._replace(needs=option.needs[:1]))


class AsksTheDeniedAgain(Purse):
    """Forgets which LLMs were denied to a query."""

    def _denied(self, item: Denied) -> HandedBack | None:
        back = super()._denied(item)
        if back is None:
            return None
        self._handed_back = back._replace(query=replace(back.query, refused=back.query.refused[:-1]))
        return self._handed_back


class KeepsWhatIsOver(Purse):
    """Keeps the leftover of a period that is over."""

    def _may_keep(self, key: AccountKey) -> bool:
        return key[1] != self._state.open_period(key[0]) or super()._may_keep(key)


class KeepsWhatIsFreed(Purse):
    """Keeps what a dispatch frees after a recall."""

    def close(self, closings: Iterable[Closing]) -> None:
        super().close(closings)
        self._loose = {key for key in self._loose if self._state.account(key).free < 0}


class Owes(Purse):
    """Does not draw what it has spent beyond its money."""

    def give_back(self) -> None:
        self._loose = {key for key in self._loose if self._state.account(key).free >= 0}
        super().give_back()


class FreesIntoTheOpenPeriod(Purse):
    """Books what a dispatch of an old period frees on the open one."""

    def close(self, closings: Iterable[Closing]) -> None:
        for one in closings:
            period = self._state.open_period(one.budget)
            super().close([one if period is None else one._replace(period=period)])


class FreesACorrection(Purse):
    """Keeps what an answer costs less than its expiry has booked, in whatever period."""

    def correct(self, costs: Iterable[Entry]) -> None:
        for budget, period, more in costs:
            old = self._state.account((budget, period))
            self._put((budget, period), replace(old, spent=old.spent + more, unreported=old.unreported + more))


class UsesAPausedLlm(Purse):
    """Does not look which LLMs are paused."""

    def _may_answer(self, option: Option, wish: Wish) -> bool:
        return option.llm not in wish.refused


class OnlyLaterLlms(Purse):
    """After a denial, never goes back to a better LLM that has money again."""

    def _may_answer(self, option: Option, wish: Wish) -> bool:
        llms = [one.llm for one in wish.options]
        is_later = not wish.refused or llms.index(option.llm) > llms.index(wish.refused[-1])
        return is_later and super()._may_answer(option, wish)


class LosesParkedRows(Purse):
    """Keeps parked queries in memory only."""

    def take_rows(self) -> dict[str, bytes | None]:
        return {key: row for key, row in super().take_rows().items() if not key.startswith("parked/")}


class TakesNeedsOfBefore(SimulatedLane):
    """Dispatches a query that waited with what it would have cost when it asked."""

    def _serve_again(self, query: ParkedQuery, now_ms: int) -> None:
        wish = Wish(query.query_id, query.offset, 1, (Option(query.llm, query.needs),), query.limit_ms, query.refused)
        self._serve(self.arrivals[query.offset], wish)


class AsksWhoFailed(SimulatedLane):
    """Sends queries to LLMs that have failed here."""

    def _options(self, arrival: Arrival) -> tuple[Option, ...]:
        return tuple(Option(llm, self._needs(arrival, llm)) for llm in arrival.llms)
