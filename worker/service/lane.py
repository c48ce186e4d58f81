"""A lane: the single writer of everything that follows from one partition. Two stages, one transaction at a time.

    submit -> [prepare: decode, embed, search]  -> [commit: decide, publish, one Kafka transaction] -> acknowledge
                 of the next batch, meanwhile          of this batch

What arrives while a transaction commits becomes the next one (group commit), so batches grow by themselves under load.
Anything that is not a clean commit ends the process (LeaveProcess): what is true is in Kafka, and the next owner
restores it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from worker.contract.errors import LeaveProcess
from worker.contract.record import Record
from worker.core.events import Ticked
from worker.service.committer import Committer
from worker.service.intake import Input, Intake

# Two batches beside the one that commits keep both stages busy; more would only add latency.
PREPARED_BATCHES = 2
# As much as one fetch brings. Many small fetches make one batch of it: else those that came while the lane was held up
# would stay a queue of batches of one record each.
WAITING_RECORDS = 1_000


class Submitted(NamedTuple):
    """Records of one topic in their order, and who wants to hear when they are committed."""

    records: Sequence[Record]
    acknowledge: Callable[[], None]


@dataclass
class Batch:
    """Inputs ready to be decided, and the callbacks to call when they are committed."""

    inputs: list[Input] = field(default_factory=list)
    acknowledge: list[Callable[[], None]] = field(default_factory=list)

    def add(self, other: Batch) -> None:
        self.inputs += other.inputs
        self.acknowledge += other.acknowledge


class Lane:
    """Runs one partition's two stages as tasks on the event loop; the work itself is in threads."""

    def __init__(self, committer: Committer, intake: Intake, searchers: Executor, committers: Executor) -> None:
        self.partition = committer.partition
        self.committer = committer
        self._intake = intake
        self._searchers, self._committers = searchers, committers
        self._waiting: list[Submitted] = []
        self._changed = asyncio.Condition()
        self._prepared: asyncio.Queue[Batch] = asyncio.Queue(maxsize=PREPARED_BATCHES)
        self._committing = asyncio.Lock()
        self._paused = self._stopped = False
        self._submitted: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, on_failure: Callable[[BaseException], None]) -> None:
        """Begin; `on_failure` hears of the first error, after which the lane does nothing more."""
        for stage in (self._prepare(), self._commit(), self._tick()):
            task = asyncio.ensure_future(stage)
            task.add_done_callback(lambda done: _report(done, on_failure))
            self._tasks.append(task)

    def applied(self, topic: str) -> int:
        """The last applied offset of an input topic; -1 before the first."""
        offsets = self.committer.router.offsets
        return offsets.queries if topic == self._intake.settings.topics.queries else offsets.completions

    async def submit(self, records: Sequence[Record], after: int, acknowledge: Callable[[], None]) -> None:
        """Hand over records of one topic in their order; waits while the lane has enough to do.

        `after` is the offset that the reader had reached before them. Raises LeaveProcess if records between what the
        lane has and these were never handed over: going on would lose them.
        """
        topic = records[0].topic
        reached = max(self._submitted.get(topic, -1), self.applied(topic))
        if after > reached:
            raise LeaveProcess(f"{topic}/{self.partition}: records {reached + 1} to {after} were never handed over")
        self._submitted[topic] = max(reached, records[-1].offset)
        async with self._changed:
            await self._changed.wait_for(lambda: self._stopped or self._waits < WAITING_RECORDS)
            self._waiting.append(Submitted(records, acknowledge))
            self._changed.notify_all()

    @property
    def _waits(self) -> int:
        return sum(len(submitted.records) for submitted in self._waiting)

    async def pause(self) -> None:
        """Finish the transaction under way and begin no other until `resume`."""
        if not self._paused:
            self._paused = True
            await self._committing.acquire()

    def resume(self) -> None:
        """Go on after a `pause`."""
        if self._paused:
            self._paused = False
            self._committing.release()

    async def stop(self) -> None:
        """Finish the transaction under way, drop what was not begun, and end."""
        await self.pause()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Those who wait in `submit` go on; their records are the next owner's.
        async with self._changed:
            self._stopped = True
            self._changed.notify_all()

    async def _prepare(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = Batch()
            for records, acknowledge in _by_topic(await self._take()):
                inputs = await loop.run_in_executor(
                    self._searchers, self._intake.prepare, records, self.committer.is_open
                )
                batch.add(Batch(inputs, acknowledge))
            await self._prepared.put(batch)

    async def _take(self) -> list[Submitted]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting)
            taken, self._waiting = self._waiting, []
            self._changed.notify_all()
        return taken

    async def _commit(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._prepared.get()
            async with self._committing:
                while not self._prepared.empty():
                    batch.add(self._prepared.get_nowait())
                await loop.run_in_executor(self._committers, self.committer.commit, batch.inputs)
            for acknowledge in batch.acknowledge:
                acknowledge()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now_ms = self._intake.clock.now_ms()
            deadline_ms = self.committer.router.ledger.next_deadline_ms()
            if deadline_ms is not None and deadline_ms <= now_ms:
                await self._prepared.put(Batch([Input(Ticked(now_ms))]))


def _by_topic(submitted: Sequence[Submitted]) -> Iterator[tuple[list[Record], list[Callable[[], None]]]]:
    """Neighbours of the same topic as one."""
    for _, group in groupby(submitted, key=lambda each: each.records[0].topic):
        several = list(group)
        yield [record for each in several for record in each.records], [each.acknowledge for each in several]


def _report(task: asyncio.Task[None], on_failure: Callable[[BaseException], None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        on_failure(error)
