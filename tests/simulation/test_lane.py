"""One lane on the simulated log: batches that grow while a transaction commits, and what a reader may not do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.drive import LLMS, PRIOR, config
from tests.simulation.broker import Broker, SimulatedProducer, SimulatedReader
from tests.simulation.process import METRICS, Estimator, SimulatedClock, settings_for
from tests.simulation.steps import SimulatedLoop, SteppedExecutor
from tests.simulation.traffic import DIMENSION
from worker.contract.errors import LeaveProcess
from worker.contract.record import StoredRecord
from worker.core.events import Reconfigured
from worker.kafka.memory import Log
from worker.service.committer import Kafka, open_committer
from worker.service.intake import Input, Intake
from worker.service.lanes import Lane
from worker.service.prepare import Preparer

QUERY = msgspec.msgpack.encode({"embedding": np.ones(DIMENSION, "<f4").tobytes()})


class Bench:
    """A lane whose searches and commits run when the test says so."""

    def __init__(self) -> None:
        self.log = Log()
        broker = Broker(self.log, Random(0), lambda: 0.0, failures=0.0)
        kafka = Kafka(SimulatedReader(broker), lambda options: SimulatedProducer(broker, options))
        settings = settings_for(LLMS)
        estimator: Any = Estimator(LLMS)
        clock = SimulatedClock(lambda: 0, lambda: 0.0)
        intake = Intake(settings, Preparer(settings, estimator, None), kafka.reader, METRICS, clock)
        committer = open_committer(0, settings, PRIOR, METRICS, kafka, clock)
        committer.commit([Input(Reconfigured(0, config()))])
        self.searches, self.commits = SteppedExecutor(), SteppedExecutor()
        self.lane = Lane(committer, intake, self.searches, self.commits)
        self.failures: list[BaseException] = []
        self.acknowledged: list[int] = []
        self.lane.start(self.failures.append)

    def submit(self, first: int, last: int, after: int | None = None) -> asyncio.Task[None]:
        """Hand over the queries `first` to `last`."""
        records = [StoredRecord("queries", 0, offset, 0, None, QUERY, ()) for offset in range(first, last + 1)]
        reached = first - 1 if after is None else after
        return asyncio.ensure_future(self.lane.submit(records, reached, lambda: self.acknowledged.append(last)))

    async def step(self, executor: SteppedExecutor) -> None:
        """Run the next search or commit to its end."""
        await settle()
        while executor.pending and executor.step(0).at != "end":
            pass
        await settle()


async def settle() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    await loop.settle()


def run(story: Callable[[Bench], Awaitable[None]]) -> Bench:
    """Run one story of a lane and stop the lane."""

    async def whole() -> Bench:
        bench = Bench()
        await story(bench)
        bench.searches.kill()
        bench.commits.kill()
        return bench

    return SimulatedLoop().run(whole())


def test_what_is_prepared_while_a_transaction_commits_becomes_the_next() -> None:
    """Three batches of records in two transactions: the first alone, then the two that were prepared meanwhile."""

    async def story(bench: Bench) -> None:
        bench.submit(0, 1)
        await bench.step(bench.searches)
        for first in (2, 4):
            bench.submit(first, first + 1)
            await bench.step(bench.searches)
        before = bench.lane.committer.view.sequence
        await bench.step(bench.commits)
        await bench.step(bench.commits)
        applied = bench.lane.committer.view
        assert applied.sequence - before == 2
        assert applied.offsets.queries == 5
        assert bench.acknowledged == [1, 3, 5]

    assert run(story).failures == []


def test_nothing_is_acknowledged_before_it_is_committed() -> None:
    """Prepared is not done."""

    async def story(bench: Bench) -> None:
        bench.submit(0, 1)
        await bench.step(bench.searches)
        before = list(bench.acknowledged)
        await bench.step(bench.commits)
        assert (before, bench.acknowledged) == ([], [1])

    run(story)


def test_records_that_were_never_handed_over_are_not_passed_by() -> None:
    """A reader that comes with records after a gap would lose those in it: the process must end."""

    async def story(bench: Bench) -> None:
        await bench.submit(0, 1)
        with pytest.raises(LeaveProcess, match="records 2 to 4 were never handed over"):
            await bench.submit(5, 6)

    run(story)


def test_records_may_be_handed_over_twice() -> None:
    """As after a rebalance, when reading begins again at what was applied."""

    async def story(bench: Bench) -> None:
        for first, last in ((0, 3), (2, 5)):
            bench.submit(first, last, after=first - 1)
            await bench.step(bench.searches)
            await bench.step(bench.commits)
        router = bench.lane.committer.view
        assert (router.offsets.queries, router.seen) == (5, 6)

    run(story)


def test_small_fetches_that_came_while_a_search_ran_are_searched_at_once() -> None:
    """So that a lane that was held up makes one batch of what came meanwhile."""

    async def story(bench: Bench) -> None:
        for offset in range(5):
            bench.submit(offset, offset)
            await settle()
        for executor in (bench.searches, bench.searches, bench.commits, bench.commits):
            await bench.step(executor)
        assert (bench.acknowledged, len(bench.searches.pending)) == ([0, 1, 2, 3, 4], 0)

    run(story)


def test_a_lane_that_stops_lets_go_of_those_who_wait() -> None:
    """An agent that waits to hand over records must not wait for a lane that has moved away."""

    async def story(bench: Bench) -> None:
        waiting = [bench.submit(first, first + 599) for first in range(0, 3_000, 600)]
        await settle()
        before = [task.done() for task in waiting]
        bench.searches.kill()
        await bench.lane.stop()
        await settle()
        assert (before, [task.done() for task in waiting]) == ([True, True, True, True, False], [True] * 5)

    run(story)


def test_a_pause_waits_for_the_transaction_under_way_and_begins_no_other() -> None:
    """Until it is resumed."""

    async def story(bench: Bench) -> None:
        bench.submit(0, 0)
        await bench.step(bench.searches)
        await settle()
        pause = asyncio.ensure_future(bench.lane.pause())
        bench.submit(1, 1)
        await bench.step(bench.searches)
        during = pause.done()
        await bench.step(bench.commits)
        paused = (pause.done(), len(bench.commits.pending))
        bench.lane.resume()
        await bench.step(bench.commits)
        assert not during
        assert paused == (True, 0)
        assert bench.acknowledged == [0, 1]

    run(story)
