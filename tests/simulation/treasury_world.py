"""A world of one treasury and some lanes, from one seed: messages that take their time, crashes, clocks, control.

A step is one transaction of one actor, or something that happens to it. A crash drops a transaction that was not
committed: the next owner goes on from the rows. A message waits in its log as long as nobody takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import NamedTuple

from tests.simulation.treasury_auditor import TreasuryAuditor
from tests.simulation.treasury_inputs import MEDIUM, MIXED, SMALL, START_MS, control_bytes, definitions, query
from tests.simulation.treasury_lane import Arrival, SimulatedLane, Stored
from worker.contract import codec
from worker.contract.calendar import period_at
from worker.contract.control import read_control
from worker.contract.leases import decode_report
from worker.core.purse import REPORT_MS, Purse
from worker.treasury.events import Controlled, Publish, Reported, SettingsRead, Silence, TreasuryEvent
from worker.treasury.periods import Calendar
from worker.treasury.treasury import Treasury

STEPS = 300
CALM_STEPS = 1_000
LATEST_SKEW_MS = 120_000


class Step(NamedTuple):
    """One thing that happens. Each step has a seed of its own, so a run without some of them keeps the others."""

    number: int
    action: str
    seed: int


@dataclass(frozen=True)
class Actors:
    """The classes of the actors. A planted bug replaces one."""

    purse: type[Purse] = Purse
    treasury: type[Treasury] = Treasury
    lane: type[SimulatedLane] = SimulatedLane
    calendar: Calendar = period_at


SOUND = Actors()

USUAL = (("arrive", "lane_works", "treasury_works", "wait"), (14, 50, 30, 6))
FAULTS = {
    "crash_lane": 12,
    "crash_treasury": 12,
    "stop_lane": 4,
    "stop_treasury": 4,
    "start": 14,
    "reread": 8,
    "skew": 4,
    "switch": 6,
    "change": 20,
    "leap": 8,
}


def plan(seed: int) -> list[Step]:
    """The steps of a run."""
    random = Random(f"the steps of {seed}")
    steps = []
    for number in range(STEPS):
        actions, weights = (list(FAULTS), list(FAULTS.values())) if random.random() < 0.12 else USUAL
        [action] = random.choices(actions, weights)
        steps.append(Step(number, action, random.getrandbits(64)))
    return steps


class TreasuryWorld:
    """The logs, the actors, and what happens to them. `run` raises Violation or BrokenInvariant."""

    def __init__(self, seed: int, actors: Actors, tell: Callable[[str], None]) -> None:
        self.random = Random(seed)
        self.seed, self.actors, self.tell = seed, actors, tell
        self.now_ms = START_MS
        self.count = self.random.randrange(1, 4)
        self.amounts = self.random.choice((SMALL, MEDIUM, MIXED))
        self.settings = definitions(self.random, self.amounts)
        # How soon the treasury says that money is back, and how soon it waits no longer for lanes.
        self.eagerness, self.impatience = self.random.choice((0.02, 0.2, 0.5)), 0.1
        self.asks: list[list[tuple[bytes, int]]] = [[] for _ in range(self.count)]
        self.grants: list[list[bytes]] = [[] for _ in range(self.count)]
        self.control: list[tuple[bytes, int]] = []
        self.arrivals: list[list[Arrival]] = [[] for _ in range(self.count)]
        self.rows: dict[str, bytes] = {}
        self.stored = [Stored() for _ in range(self.count)]
        # The owners that run, and where their readers stand.
        self.owner: Treasury | None = None
        self.lanes: list[SimulatedLane | None] = [None] * self.count
        self.asks_read, self.grants_read, self.control_read = [0] * self.count, [0] * self.count, 0
        self.has_settings = False
        self.skew_ms = [0] * self.count
        self.auditor = TreasuryAuditor(self)
        self.start()

    def run(self, steps: Iterable[Step]) -> None:
        """Faults and traffic; then calm, until nothing moves; then the last checks."""
        for step in steps:
            self.random.seed(step.seed)
            told = getattr(self, step.action)()
            self.tell(f"step {step.number:>3}  {self.now_ms - START_MS:>8} ms  {step.action:<14} {told or 'nothing'}")
        self.tell("calm: everybody works, until nothing moves")
        self.random.seed(self.seed)
        self.start()
        # A record of now: no period ends while the probes are answered.
        self.control.append((b"", self.now_ms))
        self._calm()
        for number in (*range(self.count), *range(self.count), *range(self.count)):
            self._probe(number)
        # Long enough for the regular reports, which tell what open periods have spent, after a clock that was ahead.
        self.now_ms += REPORT_MS + 2 * LATEST_SKEW_MS
        for number in range(self.count):
            self._commit_lane(number)
        self._calm()
        self.auditor.check_end()

    # What can happen. Each action says what it did; None if there was nothing to do.

    def arrive(self) -> str:
        """A query arrives in the log of a lane."""
        number = self.random.randrange(self.count)
        return f"lane {number}: {self._arrive(number)}"

    def lane_works(self) -> str | None:
        """A lane commits a transaction."""
        number = self.random.randrange(self.count)
        did = self._lane_inputs(number, self.random.randrange(1, 4))
        if not did:
            return None
        self._commit_lane(number)
        return f"lane {number}: {', '.join(did)}"

    def treasury_works(self) -> str | None:
        """The treasury commits a transaction."""
        if self.owner is None:
            return None
        events = list(self._events(self.random.randrange(1, 4)))
        if not events:
            return None
        self._commit_treasury(events)
        return ", ".join(map(_named, events))

    def wait(self) -> str:
        """Time goes by."""
        self.now_ms += self.random.choice((1, 100, 700, 3_000))
        return ""

    # Faults

    def leap(self) -> str:
        """Nothing happens for a while: periods end."""
        self.now_ms += self.random.choice((11_000, 40_000, 70_000, 200_000))
        return ""

    def crash_lane(self) -> str | None:
        """A lane dies before it commits; its next owner goes on from the rows."""
        number = self.random.randrange(self.count)
        did = self._lane_inputs(number, self.random.randrange(1, 4))
        self._start_lane(number)
        return f"lane {number}, amid {', '.join(did)}"

    def crash_treasury(self) -> str | None:
        """The treasury dies before it commits; its next owner goes on from the rows."""
        if self.owner is None:
            return None
        events = list(self._events(self.random.randrange(1, 4)))
        self.owner.handle(events)
        self._start_treasury()
        return f"amid {', '.join(map(_named, events))}"

    def stop_lane(self) -> str:
        """A lane has no owner for a while."""
        number = self.random.randrange(self.count)
        self.lanes[number] = None
        return f"lane {number}"

    def stop_treasury(self) -> str:
        """The treasury has no owner for a while."""
        self.owner = None
        return ""

    def start(self) -> str:
        """Whoever has no owner gets one."""
        for number, lane in enumerate(self.lanes):
            if lane is None:
                self._start_lane(number)
        if self.owner is None:
            self._start_treasury()
        return ""

    def reread(self) -> str:
        """A reader reads again what was applied."""
        number = self.random.randrange(self.count)
        self.grants_read[number] = self.random.randrange(self.grants_read[number] + 1)
        self.asks_read[number] = self.random.randrange(self.asks_read[number] + 1)
        self.control_read = self.random.randrange(self.control_read + 1)
        return f"lane {number}"

    def skew(self) -> str:
        """The clock of a lane jumps."""
        number = self.random.randrange(self.count)
        self.skew_ms[number] = self.random.choice((-LATEST_SKEW_MS, -2_000, 0, 2_000, LATEST_SKEW_MS))
        return f"lane {number}: {self.skew_ms[number]} ms"

    def switch(self) -> str | None:
        """An LLM fails in one lane, or is back there."""
        number = self.random.randrange(self.count)
        lane = self.lanes[number]
        if lane is None:
            return None
        llm = self.random.choice(("large", "small"))
        lane.switch(llm)
        self._commit_lane(number)
        return f"lane {number}: {llm}"

    def change(self) -> str:
        """Somebody writes a control record, right or wrong."""
        value = control_bytes(self.random, self.amounts)
        self.control.append((value, self.now_ms))
        return repr(read_control(value))

    # Lanes

    def _start_lane(self, number: int) -> None:
        lane = self.actors.lane(number, self.stored[number], self.arrivals[number], self.actors.purse, self.auditor)
        self.lanes[number] = lane
        self.grants_read[number] = lane.purse.offset + 1

    def _lane_inputs(self, number: int, most: int) -> list[str]:
        """Let a lane take up to `most` inputs; returns what they were."""
        lane = self.lanes[number]
        if lane is None:
            return []
        if not lane.purse.is_ready and self.grants_read[number] >= len(self.grants[number]):
            return ["hello"]
        did = []
        for _ in range(most):
            choices = list(self._choices(number, lane))
            if not choices:
                break
            name, take = self.random.choice(choices)
            take()
            did.append(name)
        return did

    def _choices(self, number: int, lane: SimulatedLane) -> Iterator[tuple[str, Callable[[], None]]]:
        now_ms = self.now_ms + self.skew_ms[number]
        if self.grants_read[number] < len(self.grants[number]):
            yield "grants", partial(self._read_grants, number, lane, now_ms)
        if not lane.purse.is_ready:
            return
        if lane.work.arrivals < len(lane.arrivals):
            yield "arrival", partial(lane.arrive, now_ms)
        for query_id in lane.open[:2]:
            expires = self.random.random() < 0.3
            yield f"close {query_id}", partial(lane.close, query_id, self.random, expires)
        if lane.closed and self.random.random() < 0.1:
            late = self.random.choice(lane.closed)
            yield f"late {late}", partial(lane.correct, late, self.random)
        for ask in lane.purse.overdue(now_ms)[:1]:
            yield f"limit of ask {ask}", partial(lane.give_up, ask, now_ms)

    def _read_grants(self, number: int, lane: SimulatedLane, now_ms: int) -> None:
        offset = self.grants_read[number]
        self.grants_read[number] += 1
        lane.read(offset, self.grants[number][offset], now_ms)

    def _commit_lane(self, number: int) -> None:
        lane = self.lanes[number]
        assert lane is not None, f"lane {number} has an owner"
        report = lane.commit(self.now_ms + self.skew_ms[number])
        self.stored[number] = lane.stored
        if report is not None:
            self.asks[number].append((codec.encode(report), self.now_ms))
        self.auditor.lane_committed(lane, report)

    def _arrive(self, number: int) -> str:
        arrival = query(self.random, f"{number}-{len(self.arrivals[number])}")
        self.arrivals[number].append(arrival)
        return f"{arrival.query_id}: {arrival.size} for {', '.join(arrival.llms)} {arrival.tags or ''}"

    # The treasury

    def _start_treasury(self) -> None:
        self.owner = self.actors.treasury.restored(self.rows, self.actors.calendar)
        self.control_read = self.owner.control_offset + 1
        rows = self.owner.lanes
        self.asks_read = [rows[lane].offset + 1 if lane in rows else 0 for lane in range(self.count)]
        self.has_settings = False

    def _events(self, most: int) -> Iterator[TreasuryEvent]:
        assert self.owner is not None, "the treasury has an owner"
        if not self.has_settings:
            self.has_settings = True
            times = [at_ms for log in (*self.asks, self.control) for _, at_ms in log]
            yield SettingsRead(max(times, default=START_MS), self.settings)
        for _ in range(most):
            unread = [lane for lane in range(self.count) if self.asks_read[lane] < len(self.asks[lane])]
            kinds = [*unread, *([-1] if self.control_read < len(self.control) else [])]
            if self.owner.has_news and self.random.random() < self.eagerness:
                yield Publish()
                return
            if self.owner.waited_for and self.random.random() < self.impatience:
                yield Silence(self.owner.waited_for)
                return
            if not kinds:
                return
            yield self._next(self.random.choice(kinds))

    def _next(self, lane: int) -> TreasuryEvent:
        """The next record of a lane's partition, or of `control` (-1)."""
        if lane < 0:
            offset, self.control_read = self.control_read, self.control_read + 1
            value, at_ms = self.control[offset]
            return Controlled(offset, at_ms, read_control(value))
        offset, self.asks_read[lane] = self.asks_read[lane], self.asks_read[lane] + 1
        value, at_ms = self.asks[lane][offset]
        return Reported(lane, offset, at_ms, decode_report(value))

    def _commit_treasury(self, events: list[TreasuryEvent]) -> None:
        assert self.owner is not None, "the treasury has an owner"
        before = dict(self.rows)
        effects = self.owner.handle(events)
        for key, row in effects.rows.items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        for lane, message in effects.messages.items():
            self.grants[lane].append(codec.encode(message))
        self.auditor.treasury_committed(events, effects, before)

    # The end

    def _calm(self) -> None:
        """Everybody works without faults until nothing moves. No query waits for its limit, nobody is silent."""
        self.eagerness, self.impatience = 0.5, 0.0
        for _ in range(CALM_STEPS):
            if self.auditor.is_quiet() and not any(lane.open for lane in self.lanes if lane is not None):
                return
            for number in range(self.count):
                self._lane_in_calm(number)
            self.treasury_works()
        self.auditor.stuck()

    def _lane_in_calm(self, number: int) -> None:
        lane = self.lanes[number]
        assert lane is not None, f"lane {number} has an owner"
        now_ms = self.now_ms + self.skew_ms[number]
        if self.grants_read[number] < len(self.grants[number]):
            self._read_grants(number, lane, now_ms)
        elif lane.purse.is_ready and lane.work.arrivals < len(lane.arrivals):
            lane.arrive(now_ms)
        elif lane.open:
            lane.close(lane.open[0], self.random, expires=False)
        self._commit_lane(number)

    def _probe(self, number: int) -> None:
        """A query that comes when all is quiet is dispatched if it fits the money that is free anywhere."""
        self._arrive(number)
        arrival = self.arrivals[number][-1]
        fits = self.auditor.fits(number, arrival)
        self._calm()
        self.auditor.check_probe(number, arrival, fits)


def _named(event: TreasuryEvent) -> str:
    match event:
        case Reported():
            return f"report {event.report.sequence} of lane {event.lane}"
        case Controlled():
            return f"control {event.offset}"
        case _:
            return repr(event)


def simulate(
    seed: int, actors: Actors = SOUND, steps: Iterable[Step] | None = None, tell: Callable[[str], None] = lambda _: None
) -> TreasuryWorld:
    """One run, of all steps of a seed or of these. Raises Violation or BrokenInvariant."""
    world = TreasuryWorld(seed, actors, tell)
    world.run(plan(seed) if steps is None else steps)
    return world
