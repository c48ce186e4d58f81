"""Decides asks: granted, denied, or waiting until a recall has brought back what there is. Pure.

A budget is in one of two modes. Plenty: lanes hold a block each and mostly need no message. Scarce: lanes hold nothing,
and each grant is the exact need of one query. Everything that is hard (a recall, a settlement after it, a lowered
amount, a pause) is a switch to scarce. The rules are T3, T4, T5 and T7 of docs/concepts/treasury.md.
"""

from __future__ import annotations

from msgspec.structs import replace

from worker.contract.leases import Ask, Denied, Granted, GrantEntry, MoneyIsBack, Need, Recalled, Shortage
from worker.contract.treasury_records import BudgetRow, WaitingAsk
from worker.treasury.books import Books
from worker.treasury.outbox import Outbox

# T7: a quarter of what is left is out as blocks when every lane has taken one. A block that would not pay for one more
# query is none. With three queries as the least, 64 lanes with 125 queries each asked for every dispatch.
BLOCKS_OF_LEFT = 4
# Older needs weigh less: when so many were added up, sum and count are halved.
MOST_NEEDS = 1_024


class Desk:
    """Decides on the books, and says the answers."""

    def __init__(self, books: Books, outbox: Outbox) -> None:
        self._books = books
        self._outbox = outbox
        self._fresh: list[int] = []

    def take(self, lane: int, asks: tuple[Ask, ...]) -> None:
        """Put a lane's asks behind those that wait; `settle` decides them."""
        for ask in asks:
            self._fresh.append(self._books.wait(WaitingAsk(lane, ask)))

    def settle(self) -> None:
        """Bring everything in order after an event (T5).

        An answer can make another budget short, so it ends only when nothing changes any more. Then no ask that waits
        could be answered, whatever changed before: a restored treasury need not know it.
        """
        books = self._books
        while books.changed or self._fresh:
            changed, fresh = sorted(books.changed), self._fresh
            books.changed, self._fresh = set(), []
            for number in changed:
                self._recall_overspent(number)
            for place in sorted({*fresh, *(place for number in changed for place in books.waits_for(number))}):
                if self._decide(books.waiting[place]):
                    books.answered(place)
            for number in changed:
                self._end_scarcity(number)

    def offer_blocks(self, lane: int, low: tuple[int, ...]) -> None:
        """A block of each budget that the lane has little of, if there is enough for blocks (T7)."""
        for number in low:
            key = self._books.open_key(number)
            if key is None or not self._is_plenty(number):
                continue
            block = self._block(number, self._books.accounts[key].left)
            if block:
                self._books.grant(key, block)
                self._outbox.tell(lane, Granted(0, (GrantEntry(*key, block, is_scarce=False),)))

    def say_again(self) -> None:
        """Tell lanes that were told dry which budgets may have money again (T5)."""
        for number in self.due():
            budget = self._books.budgets[number]
            self._outbox.tell_all(budget.told, MoneyIsBack(number))
            self._books.put_budget(number, replace(budget, dry=None, told=()))

    def due(self) -> list[int]:
        """The budgets that were dry and may have money again."""
        return [number for number, budget in self._books.open_budgets() if self._is_back(number, budget)]

    def waited_for(self) -> int:
        """The newest recall whose answers an ask waits for; 0 if none waits."""
        budgets = {need.budget for waiting in self._books.waiting.values() for need in waiting.ask.needs}
        recalled = [number for number in budgets if self._is_open_and_scarce(number) and not self._all_back(number)]
        return max((self._books.budgets[number].recall for number in recalled), default=0)

    # Asks

    def _decide(self, waiting: WaitingAsk) -> bool:
        """Answer an ask, or leave it waiting (T3). All budgets or none: nobody holds a part and waits."""
        books, ask = self._books, waiting.ask
        needs = [need for need in ask.needs if books.open_key(need.budget) is not None]
        if any(books.budgets[need.budget].is_paused for need in needs):
            self._outbox.tell(waiting.lane, Denied(ask.number, "paused"))
            return True
        short = [need for need in needs if books.open_account(need.budget).left < need.amount]
        if not short:
            entries = tuple(self._granted(need) for need in needs)
            self._outbox.tell(waiting.lane, Granted(ask.number, entries))
            return True
        if any(self._is_hopeless(need) for need in short):
            # Nothing is recalled and nothing remembered: else one huge query would end the blocks of all.
            self._outbox.tell(waiting.lane, Denied(ask.number, "too_large"))
            return True
        for need in short:
            if not books.budgets[need.budget].is_scarce:
                self._recall(need.budget)
        gone = [need for need in short if self._all_back(need.budget)]
        if gone:
            shortages = tuple(self._dry(need, waiting.lane) for need in gone)
            self._outbox.tell(waiting.lane, Denied(ask.number, "dry", shortages))
        return bool(gone)

    def _granted(self, need: Need) -> GrantEntry:
        """The need, and a block where there is plenty."""
        key = self._books.open_key(need.budget)
        assert key is not None, f"budget {need.budget} is open"
        self._count(need)
        amount = need.amount
        if self._is_plenty(need.budget):
            amount += self._block(need.budget, self._books.accounts[key].left - need.amount)
        self._books.grant(key, amount)
        return GrantEntry(*key, amount, self._books.budgets[need.budget].is_scarce)

    def _dry(self, need: Need, lane: int) -> Shortage:
        budget = self._books.budgets[need.budget]
        dry = need.amount if budget.dry is None else min(budget.dry, need.amount)
        told = budget.told if lane in budget.told else tuple(sorted((*budget.told, lane)))
        self._books.put_budget(need.budget, replace(budget, dry=dry, told=told))
        assert budget.period is not None, f"budget {need.budget} is open"
        return Shortage(need.budget, budget.period.number, need.amount)

    def _is_hopeless(self, need: Need) -> bool:
        """Whether the need is above all that can come back."""
        account = self._books.open_account(need.budget)
        return need.amount > account.left + account.out

    def _count(self, need: Need) -> None:
        """Learn what a grant is like. What is denied teaches nothing: one huge need would end the blocks of all."""
        budget = self._books.budgets[need.budget]
        total, count = budget.needs_sum + need.amount, budget.needs_count + 1
        if count >= MOST_NEEDS:
            total, count = total // 2, count // 2
        self._books.put_budget(need.budget, replace(budget, needs_sum=total, needs_count=count))

    # Modes

    def _recall(self, number: int) -> None:
        """Lanes give back what they have, now and whenever some becomes free (T4)."""
        books = self._books
        recall = books.row.recall + 1
        books.put_row(replace(books.row, recall=recall))
        books.put_budget(number, replace(books.budgets[number], is_scarce=True, recall=recall))
        self._outbox.tell_all(books.lanes, Recalled(number, recall))

    def _recall_overspent(self, number: int) -> None:
        key = self._books.open_key(number)
        if key is not None and self._books.accounts[key].left < 0 and not self._books.budgets[number].is_scarce:
            self._recall(number)

    def _all_back(self, number: int) -> bool:
        """Whether nothing more can come back of a scarce budget, but from lanes that are silent."""
        if self._books.open_account(number).out == 0:
            return True
        recall = self._books.budgets[number].recall
        return all(lane.is_silent or lane.heard >= recall for lane in self._books.lanes.values())

    def _is_open_and_scarce(self, number: int) -> bool:
        budget = self._books.budgets.get(number)
        return budget is not None and budget.period is not None and budget.is_scarce

    def _is_plenty(self, number: int) -> bool:
        budget = self._books.budgets[number]
        return not budget.is_scarce and not budget.is_paused and budget.dry is None

    def _block(self, number: int, left: int) -> int:
        """The block of a budget of which so much is left; 0 if that is not enough for blocks."""
        budget = self._books.budgets[number]
        if budget.needs_count == 0 or left <= 0:
            return 0
        block = left // (BLOCKS_OF_LEFT * max(1, len(self._books.lanes)))
        return block if block * budget.needs_count >= budget.needs_sum else 0

    def _is_back(self, number: int, budget: BudgetRow) -> bool:
        if budget.dry is None or budget.is_paused:
            return False
        left = self._books.open_account(number).left
        return left >= budget.dry or self._block(number, left) > 0

    def _end_scarcity(self, number: int) -> None:
        """Scarce ends only when no ask waits and nobody is told dry: else what is left went to others as blocks."""
        if not self._is_open_and_scarce(number) or self._books.waits_for(number):
            return
        budget, left = self._books.budgets[number], self._books.open_account(number).left
        if budget.dry is None and self._block(number, left):
            self._books.put_budget(number, replace(budget, is_scarce=False))
