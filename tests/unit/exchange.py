"""A treasury and some lanes whose messages a test delivers one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.simulation.treasury_world import SOUND, Actors
from worker.contract.budgets import BudgetDefinition
from worker.contract.control import Control
from worker.contract.leases import GrantMessage, Item, LaneReport, Need
from worker.core.leasing import Closing, Entry, Option, Parked, Refused, Reserved, Wish
from worker.core.purse import Purse
from worker.treasury.events import Controlled, Publish, Reported, SettingsRead, Silence, TreasuryEffects, TreasuryEvent

START_MS = 1_800_000_000_000
# More deliveries than any of these plays needs.
MOST_DELIVERIES = 500

# What a query needs of each budget, by LLM, the best LLM first.
Needs = Mapping[str, Mapping[int, int]]


@dataclass
class LanePlay:
    """One lane: its purse, the outcome of each of its queries, and the messages on their way."""

    purse: Purse
    up: list[LaneReport] = field(default_factory=list)
    down: list[GrantMessage] = field(default_factory=list)
    sent: int = 0
    read: int = 0
    needs: dict[str, Needs] = field(default_factory=dict)
    outcomes: dict[str, Reserved | Parked | Refused] = field(default_factory=dict)
    out: set[str] = field(default_factory=set)


class Exchange:
    """One treasury with these budgets, numbered from 1, and so many lanes that have said hello."""

    def __init__(self, *budgets: BudgetDefinition, lanes: int = 2, actors: Actors = SOUND) -> None:
        self.now_ms = START_MS
        self.treasury = actors.treasury(actors.calendar)
        self.lanes = [LanePlay(actors.purse()) for _ in range(lanes)]
        self.items: list[Item] = []
        self._controls = 0
        self.handle(SettingsRead(START_MS, budgets))
        for number in range(lanes):
            self._commit(number)
        self.quiet()

    # Lanes

    def query(self, lane: int, query_id: str, needs: Needs) -> Reserved | Parked | Refused:
        """A query arrives, and its lane commits."""
        play = self.lanes[lane]
        play.needs[query_id] = needs
        self._serve(play, Wish(query_id, 0, len(play.needs), self._options(play, query_id), self.now_ms + 1_000))
        self._commit(lane)
        return play.outcomes[query_id]

    def close(self, lane: int, query_id: str, spent: Mapping[int, int]) -> None:
        """A dispatch is answered; what it has spent of each budget."""
        reserved = self.reserved(lane, query_id)
        closings = [Closing(one.budget, one.period, one.amount, spent.get(one.budget, 0)) for one in reserved.entries]
        self.lanes[lane].purse.close(closings)
        self._commit(lane)

    def correct(self, lane: int, query_id: str, more: Mapping[int, int]) -> None:
        """An answer comes after the closing; what it costs more of each budget."""
        reserved = self.reserved(lane, query_id)
        self.lanes[lane].purse.correct(
            [Entry(one.budget, one.period, more.get(one.budget, 0)) for one in reserved.entries]
        )
        self._commit(lane)

    def limit(self, lane: int, query_id: str) -> None:
        """A parked query has waited for its whole limit."""
        play = self.lanes[lane]
        [ask] = [ask for ask, query in play.purse.parked.items() if query.query_id == query_id]
        back = play.purse.give_up(ask)
        assert back is not None, "it was parked"
        self._serve_again(play, back.query.query_id, back.query.attempt, back.query.refused)
        self._commit(lane)

    def reserved(self, lane: int, query_id: str) -> Reserved:
        """What a dispatched query holds."""
        outcome = self.lanes[lane].outcomes[query_id]
        assert isinstance(outcome, Reserved), f"{query_id} is not dispatched: {outcome}"
        return outcome

    def down(self, lane: int) -> None:
        """A lane applies its next message, and commits."""
        play = self.lanes[lane]
        for item in play.purse.read(play.read, play.down[play.read]):
            self.items.append(item)
            back = play.purse.apply(item)
            if back is not None:
                self._serve_again(play, back.query.query_id, back.query.attempt, back.query.refused)
            play.purse.give_back()
        play.read += 1
        self._commit(lane)

    # The treasury

    def up(self, lane: int) -> None:
        """The treasury applies the next report of a lane."""
        play = self.lanes[lane]
        self.handle(Reported(lane, play.sent, self.now_ms, play.up[play.sent]))
        play.sent += 1

    def control(self, record: Control) -> TreasuryEffects:
        """Somebody changes something."""
        self._controls += 1
        return self.handle(Controlled(self._controls, self.now_ms, record))

    def silence(self) -> None:
        """Lanes have not answered a recall in time."""
        self.handle(Silence(self.treasury.waited_for))

    def handle(self, event: TreasuryEvent) -> TreasuryEffects:
        """The treasury takes one event and commits."""
        effects = self.treasury.handle([event])
        for lane, message in effects.messages.items():
            self.lanes[lane].down.append(message)
        return effects

    def left(self, budget: int) -> int:
        """What the treasury may still grant of the open period."""
        period = self.treasury.budgets[budget].period
        assert period is not None, "it is open"
        return self.treasury.accounts[budget, period.number].left

    def free(self, lane: int, budget: int) -> int:
        """What a lane holds free of a budget, in all periods."""
        accounts = self.lanes[lane].purse.accounts
        return sum(account.free for (number, _), account in accounts.items() if number == budget)

    def quiet(self, *lanes: int) -> int:
        """Deliver everything, and say that money is back, until nothing moves; only for these lanes if some are named.

        Returns the number of deliveries.
        """
        for count in range(MOST_DELIVERIES):
            if not self._deliver(lanes or range(len(self.lanes))):
                return count
        raise AssertionError(f"still not quiet after {MOST_DELIVERIES} deliveries")

    # Parts

    def _deliver(self, lanes: range | tuple[int, ...]) -> bool:
        for number in lanes:
            play = self.lanes[number]
            if play.sent < len(play.up):
                self.up(number)
                return True
            if play.read < len(play.down):
                self.down(number)
                return True
        if self.treasury.has_news:
            self.handle(Publish())
            return True
        return False

    def _serve_again(self, play: LanePlay, query_id: str, attempt: int, refused: tuple[str, ...]) -> None:
        wish = Wish(query_id, 0, attempt, self._options(play, query_id), self.now_ms + 1_000, refused)
        self._serve(play, wish)

    def _serve(self, play: LanePlay, wish: Wish) -> None:
        play.outcomes[wish.query_id] = play.purse.serve(wish)
        play.purse.give_back()

    def _options(self, play: LanePlay, query_id: str) -> tuple[Option, ...]:
        return tuple(
            Option(llm, tuple(Need(*need) for need in sorted(needs.items())))
            for llm, needs in play.needs[query_id].items()
            if llm not in play.out
        )

    def _commit(self, lane: int) -> None:
        play = self.lanes[lane]
        play.purse.give_back()
        report = play.purse.report(self.now_ms)
        if report is not None:
            play.up.append(report)
