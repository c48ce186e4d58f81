"""Which lanes a worker owns while the group rebalances, once and again."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

from worker.kafka.clock import SYSTEM_CLOCK
from worker.service.committer import Committer
from worker.service.intake import Intake
from worker.service.lanes import Lanes


class Opening:
    """Lanes whose opening takes until the test lets it end."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.failed: list[BaseException] = []
        nothing: Any = None
        intake = Intake(nothing, nothing, nothing, nothing)
        self.lanes = Lanes(intake, self._open, self.failed.append, search_threads=1)

    def _open(self, partition: int) -> Committer:
        self.begun.set()
        assert self.may_end.wait(10), "never let to end"
        committer: Any = SimpleNamespace(partition=partition, clock=SYSTEM_CLOCK)
        return cast(Committer, committer)

    async def has_begun(self) -> None:
        """Until a lane is being opened."""
        assert await asyncio.to_thread(self.begun.wait, 10), "never begun"


def test_a_rebalance_waits_for_lanes_that_are_being_opened() -> None:
    """Their next owner is not fenced by us a moment later; and what was assigned before is not said to be ready."""

    async def rebalance_twice() -> tuple[bool, list[int], bool, bool]:
        opening = Opening()
        lanes = opening.lanes
        assigning = asyncio.create_task(lanes.assign({0, 1}))
        await opening.has_begun()
        pausing = asyncio.create_task(lanes.pause())
        await asyncio.sleep(0)
        waited = not pausing.done()
        opening.may_end.set()
        await asyncio.gather(assigning, pausing)
        superseded = lanes.ready.is_set()
        owned = sorted(lane.partition for lane in lanes.open)
        await lanes.assign({1})
        ready = lanes.ready.is_set()
        await lanes.stop()
        return waited, owned, superseded, ready

    assert asyncio.run(rebalance_twice()) == (True, [0, 1], False, True)


def test_a_worker_without_partitions_is_ready() -> None:
    """More workers than partitions: the others wait, and are healthy."""

    async def assign_none() -> tuple[bool, int]:
        lanes = Opening().lanes
        await lanes.assign(set())
        return lanes.ready.is_set(), len(lanes.open)

    assert asyncio.run(assign_none()) == (True, 0)
