"""Lanes and a treasury in simulated time: messages take milliseconds, answers take seconds, actors die and come back.

It measures what the protocol is worth: how often lanes ask, how long queries wait, how much of a budget is used.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from worker.contract.budgets import BudgetDefinition
from worker.contract.calendar import period_at
from worker.contract.leases import GrantMessage, LaneReport, Need
from worker.contract.purse_rows import ParkedQuery
from worker.core.leasing import Closing, Option, Parked, Reserved, Wish
from worker.core.purse import Purse
from worker.treasury.events import Publish, Reported, SettingsRead, Silence, TreasuryEvent
from worker.treasury.treasury import Treasury

START_MS = 1_800_000_000_000
LIMIT_MS, SILENCE_MS, PUBLISH_MS = 1_000, 500, 100
# How long a message is on its way, and how long a dead actor has no owner.
FASTEST_MS, SLOWEST_MS = 8, 25
DOWN_MS = 5_000


class Query(NamedTuple):
    """A query: its needs at each LLM, the best LLM first, and what it is worth there."""

    at_ms: int
    lane: int
    options: tuple[tuple[str, tuple[Need, ...], float], ...]


class Lane:
    """One lane, and the messages that wait for it."""

    def __init__(self) -> None:
        self.purse = Purse()
        self.rows: dict[str, bytes] = {}
        self.messages: list[GrantMessage] = []
        self.reports: list[LaneReport] = []
        self.up_ms = 0
        self.arrived = 0


class LeaseRun:
    """One run. `share` draws which part of its reservation an answer costs; `skew_ms` is each lane's clock."""

    def __init__(
        self,
        definitions: Sequence[BudgetDefinition],
        queries: Iterable[Query],
        lanes: int,
        random: Random,
        answer_ms: int = 2_000,
        skew_ms: Callable[[int], int] = lambda _: 0,
        crashes_ms: Iterable[int] = (),
    ) -> None:
        self.random, self.answer_ms, self.skew_ms = random, answer_ms, skew_ms
        self.now_ms, self._number = START_MS, 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self.treasury, self._rows = Treasury(period_at), dict[str, bytes]()
        self._down_ms = 0
        self._waiting_since: tuple[int, int] = (0, 0)
        self._queries = iter(queries)
        self._parked: dict[tuple[int, int], Query] = {}
        self.lanes = [Lane() for _ in range(lanes)]
        self._read = [0] * lanes
        self.counts, self.worth = Counter[str](), 0.0
        self.waits_ms: list[int] = []
        # What open dispatches hold and closed ones have spent, by budget and period, and the most of both at a time.
        self.reserved, self.spent = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        self.most_used = Counter[tuple[int, int]]()
        self._handle(SettingsRead(START_MS, tuple(definitions)))
        for number in range(lanes):
            self._commit(number)
        for at_ms in crashes_ms:
            self._at(at_ms, self._crash)
        self._next_arrival()
        self._at(START_MS + PUBLISH_MS, self._look)

    def run(self) -> None:
        """Until nothing happens any more."""
        while self._heap:
            self.now_ms, _, happens = heapq.heappop(self._heap)
            happens()

    # Queries

    def _next_arrival(self) -> None:
        query = next(self._queries, None)
        if query is not None:
            self._at(query.at_ms, lambda: self._arrive(query))

    def _arrive(self, query: Query) -> None:
        lane = self.lanes[query.lane]
        if self.now_ms < lane.up_ms or not lane.purse.is_ready:
            # It waits in its topic.
            self._at(max(lane.up_ms, self.now_ms + SLOWEST_MS), lambda: self._arrive(query))
            return
        self._next_arrival()
        lane.arrived += 1
        lane.purse.seen()
        self._serve(
            query, Wish(str(lane.arrived), lane.arrived, 1, _options(query), self._clock(query.lane) + LIMIT_MS)
        )
        self._commit(query.lane)

    def _serve(self, query: Query, wish: Wish) -> None:
        lane = self.lanes[query.lane]
        served = lane.purse.serve(wish)
        match served:
            case Reserved():
                self._dispatched(query, served)
            case Parked(ask):
                self.counts["asks"] += 1
                self._parked[query.lane, wish.offset] = query
                self._at(query.at_ms + LIMIT_MS + 1, lambda: self._limit(query.lane, ask))
            case _:
                self.counts[f"deferred: {served.reason}"] += 1
        lane.purse.give_back()

    def _dispatched(self, query: Query, served: Reserved) -> None:
        self.counts["dispatched"] += 1
        self.worth += next(worth for llm, _, worth in query.options if llm == served.llm)
        self.waits_ms.append(self.now_ms - query.at_ms)
        for budget, period, amount in served.entries:
            self.reserved[budget, period] += amount
            used = self.reserved[budget, period] + self.spent[budget, period]
            self.most_used[budget, period] = max(self.most_used[budget, period], used)
        delay_ms = self.random.randrange(self.answer_ms // 2, 3 * self.answer_ms // 2)
        self._at(self.now_ms + delay_ms, lambda: self._close(query.lane, served))

    def _close(self, number: int, served: Reserved) -> None:
        lane = self.lanes[number]
        if self.now_ms < lane.up_ms:
            self._at(lane.up_ms, lambda: self._close(number, served))
            return
        share = self.random.choice((0.7, 0.85, 0.95, 1.0, 1.0))
        closings = []
        for budget, period, amount in served.entries:
            spent = round(amount * share)
            closings.append(Closing(budget, period, amount, spent))
            self.reserved[budget, period] -= amount
            self.spent[budget, period] += spent
        lane.purse.close(closings)
        lane.purse.give_back()
        self._commit(number)

    def _limit(self, number: int, ask: int) -> None:
        lane = self.lanes[number]
        back = lane.purse.give_up(ask) if self.now_ms >= lane.up_ms else None
        if back is not None:
            self._serve_again(number, back.query)
            self._commit(number)

    def _serve_again(self, number: int, parked: ParkedQuery) -> None:
        query = self._parked.pop((number, parked.offset))
        wish = Wish(parked.query_id, parked.offset, 1, _options(query), parked.limit_ms, parked.refused)
        self._serve(query, wish)

    # Messages

    def _commit(self, number: int) -> None:
        lane = self.lanes[number]
        report = lane.purse.report(self._clock(number))
        _keep(lane.rows, lane.purse.take_rows())
        lane.purse.take_ended()
        if report is not None:
            self.counts["reports"] += 1
            lane.reports.append(report)
            at_ms = self.now_ms
            self._at(self._later(), lambda: self._take(number, report, at_ms))

    def _take(self, number: int, report: LaneReport, at_ms: int) -> None:
        """The treasury reads a report, in the order of its partition."""
        if self.now_ms < self._down_ms:
            self._at(self._down_ms, lambda: self._take(number, report, at_ms))
            return
        read = self._read[number]
        if report.sequence > read + 1:
            # Another report of the lane is before it.
            self._at(self.now_ms + 1, lambda: self._take(number, report, at_ms))
            return
        self._read[number] = report.sequence
        self._handle(Reported(number, report.sequence - 1, at_ms, report))

    def _handle(self, event: TreasuryEvent) -> None:
        effects = self.treasury.handle([event])
        _keep(self._rows, effects.rows)
        for lane, message in effects.messages.items():
            self.lanes[lane].messages.append(message)
            self._at(self._later(), lambda lane=lane, message=message: self._hear(lane, message))  # type: ignore[misc]
        waited_for = self.treasury.waited_for
        if waited_for != self._waiting_since[0]:
            self._waiting_since = waited_for, self.now_ms

    def _hear(self, number: int, message: GrantMessage) -> None:
        lane = self.lanes[number]
        offset = message.sequence - 1
        if self.now_ms < lane.up_ms or offset > lane.purse.offset + 1:
            self._at(max(lane.up_ms, self.now_ms + 1), lambda: self._hear(number, message))
            return
        for item in lane.purse.read(offset, message):
            back = lane.purse.apply(item)
            if back is not None:
                self._serve_again(number, back.query)
            lane.purse.give_back()
        self._commit(number)

    def _look(self) -> None:
        """What the treasury's owner does by its clock."""
        if self.now_ms >= self._down_ms:
            if self.treasury.has_news:
                self._handle(Publish())
            recall, since_ms = self._waiting_since
            if recall and self.now_ms - since_ms >= SILENCE_MS:
                self._handle(Silence(recall))
        if self._heap:
            self._at(self.now_ms + PUBLISH_MS, self._look)

    def _crash(self) -> None:
        """An actor dies: its next owner goes on from the rows, after a while."""
        self.counts["crashes"] += 1
        number = self.random.randrange(-1, len(self.lanes))
        if number < 0:
            self.treasury = Treasury.restored(self._rows, period_at)
            self._down_ms = self.now_ms + DOWN_MS
        else:
            lane = self.lanes[number]
            lane.purse, lane.up_ms = Purse.restored(lane.rows), self.now_ms + DOWN_MS

    # Time

    def _at(self, at_ms: int, happens: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (max(at_ms, self.now_ms), self._number, happens))

    def _later(self) -> int:
        return self.now_ms + self.random.randrange(FASTEST_MS, SLOWEST_MS)

    def _clock(self, number: int) -> int:
        return self.now_ms + self.skew_ms(number)


def _options(query: Query) -> tuple[Option, ...]:
    return tuple(Option(llm, needs) for llm, needs, _ in query.options)


def _keep(rows: dict[str, bytes], changed: Mapping[str, bytes | None]) -> None:
    for key, row in changed.items():
        if row is None:
            rows.pop(key, None)
        else:
            rows[key] = row
