"""The lanes of one worker process. A lane is the single writer of all records that follow from one partition.

    submit -> [prepare: decode, embed, search]  -> [commit: decide, publish, one Kafka transaction] -> acknowledge
               of the next batch, meanwhile         of this batch

Records that arrive while a transaction commits become the next transaction (group commit), so batches grow under load.
A lane has one transaction at a time. Anything but a clean commit ends the process (LeaveProcess): the next owner
restores from Kafka.

A lane that cannot open is quarantined: the other lanes go on, and it is tried again. Its records wait in Kafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

import structlog

from worker.contract.errors import LeaveProcess, TollgateError
from worker.contract.record import Record
from worker.service.committer import Committer
from worker.service.intake import Input, Intake
from worker.service.overdue import Overdue

log = structlog.get_logger()

# Two prepared batches and the one that commits keep both stages busy; more would only add latency.
PREPARED_BATCHES = 2
# As many as one fetch brings. The records that wait become one batch. Otherwise the small fetches of a lane that was
# held up would stay a queue of batches with one record each.
WAITING_RECORDS = 1_000
# A lane that could not open is tried again so often.
REOPEN_SECONDS = 15.0


class SkippedRecords(LeaveProcess):
    """The reader has gone past records that the lane never got. `positions` never lets this happen."""


class Submitted(NamedTuple):
    """Records of one topic in their order, and the callback to call when they are committed."""

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
        self._overdue = Overdue(committer.partition, intake)
        self._searchers, self._committers = searchers, committers
        self._waiting: list[Submitted] = []
        self._changed = asyncio.Condition()
        self._prepared: asyncio.Queue[Batch] = asyncio.Queue(maxsize=PREPARED_BATCHES)
        self._committing = asyncio.Lock()
        self._paused = self._stopped = False
        self._submitted: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, on_failure: Callable[[BaseException], None]) -> None:
        """Begin. `on_failure` is called with the first error; after it the lane does nothing more."""
        for stage in (self._prepare(), self._commit(), self._tick()):
            task = asyncio.ensure_future(stage)
            task.add_done_callback(lambda done: _report(done, on_failure))
            self._tasks.append(task)

    def applied(self, topic: str) -> int:
        """The last applied offset of an input topic; -1 before the first."""
        offsets = self.committer.view.offsets
        return offsets.queries if topic == self._intake.settings.topics.queries else offsets.completions

    async def submit(self, records: Sequence[Record], after: int, acknowledge: Callable[[], None]) -> None:
        """Hand over records of one topic in their order. Waits while the lane has enough to do.

        `after` is the offset that the reader had reached before these records. Raises SkippedRecords if that is beyond
        the last offset that the lane has: the records between were never handed over, and would be lost.
        """
        topic = records[0].topic
        reached = max(self._submitted.get(topic, -1), self.applied(topic))
        if after > reached:
            raise SkippedRecords(f"{topic}/{self.partition}: records {reached + 1} to {after} were never handed over")
        self._submitted[topic] = max(reached, records[-1].offset)
        async with self._changed:
            await self._changed.wait_for(lambda: self._stopped or self._waits < WAITING_RECORDS)
            self._waiting.append(Submitted(records, acknowledge))
            self._changed.notify_all()

    @property
    def _waits(self) -> int:
        return sum(len(submitted.records) for submitted in self._waiting)

    async def pause(self) -> None:
        """Finish the transaction that has begun, and begin no other until `resume`."""
        if not self._paused:
            self._paused = True
            await self._committing.acquire()

    def resume(self) -> None:
        """Go on after a `pause`."""
        if self._paused:
            self._paused = False
            self._committing.release()

    async def stop(self) -> None:
        """Finish the transaction that has begun, drop all other batches, and end."""
        await self.pause()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Callers that wait in `submit` return; the next owner reads their records.
        async with self._changed:
            self._stopped = True
            self._changed.notify_all()

    async def _prepare(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = Batch()
            for records, acknowledge in _by_topic(await self._take()):
                inputs = await loop.run_in_executor(
                    self._searchers, self._intake.prepare, records, self.committer.may_retry
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
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0)
            now_ms, lane = self._intake.clock.now_ms(), self.committer.view
            due_ms = lane.next_due_ms
            if due_ms is not None and due_ms <= now_ms:
                due = await loop.run_in_executor(self._searchers, self._overdue.look, lane, now_ms)
                if due:
                    await self._prepared.put(Batch(due))


class Lanes:
    """The lanes that this worker owns. The consumer group decides which partitions these are.

    `open_committer` fences and restores a partition. `on_failure` is called with the first error that ends the process:
    one of an open lane, or that no lane could be opened at all.
    """

    def __init__(
        self,
        intake: Intake,
        open_committer: Callable[[int], Committer],
        on_failure: Callable[[BaseException], None],
        search_threads: int,
    ) -> None:
        self._intake = intake
        self._open_committer = open_committer
        self._on_failure = on_failure
        self._lanes: dict[int, Lane] = {}
        # Why each lane that the group has assigned to this worker is not open.
        self._quarantined: dict[int, str] = {}
        self._reopening: asyncio.Task[None] | None = None
        self._opened_late = False
        self._searchers = ThreadPoolExecutor(search_threads, thread_name_prefix="search")
        self._committers = ThreadPoolExecutor(thread_name_prefix="commit", max_workers=64)
        # Set while the open lanes are those that the group has assigned; cleared when it rebalances.
        self.ready = asyncio.Event()
        self._pauses = 0
        self._changing = asyncio.Lock()

    @property
    def open(self) -> list[Lane]:
        """The lanes that this worker owns now."""
        return list(self._lanes.values())

    @property
    def quarantined(self) -> dict[int, str]:
        """The partitions that this worker owns and whose lanes could not be opened, with the reason of each."""
        return dict(self._quarantined)

    def has_opened(self) -> bool:
        """Whether a lane has come out of quarantine since the last call: its inputs are to be sought."""
        opened, self._opened_late = self._opened_late, False
        return opened

    async def assign(self, partitions: set[int]) -> None:
        """Own exactly these partitions: stop the lanes of others, keep lanes that stay, fence and restore new ones."""
        pauses = self._pauses
        async with self._changing:
            for partition in self._lanes.keys() - partitions:
                await self._lanes.pop(partition).stop()
            for lane in self.open:
                lane.resume()
            self._quarantined = {}
            await self._open_all(partitions - self._lanes.keys())
        log.info("lanes_assigned", partitions=sorted(self._lanes), quarantined=sorted(self._quarantined))
        # If the group has begun to rebalance again in the meantime, it will assign again.
        if pauses == self._pauses:
            self.ready.set()

    async def pause(self) -> None:
        """Let open transactions finish, and begin no other until the next `assign`.

        This also waits for lanes that are being opened: they must not fence their next owner a moment later.
        """
        self._pauses += 1
        self.ready.clear()
        await self._stop_reopening()
        async with self._changing:
            await asyncio.gather(*(lane.pause() for lane in self.open))

    async def stop(self) -> None:
        """Finish the open transactions and end all lanes."""
        await self._stop_reopening()
        await asyncio.gather(*(lane.stop() for lane in self.open))
        self._lanes.clear()

    def fail(self, error: BaseException) -> None:
        """The reader cannot go on: as an error of a lane."""
        self._on_failure(error)

    def applied(self, partition: int, topic: str) -> int | None:
        """The last offset of an input topic that the lane of `partition` has applied; -1 before the first.

        None if this worker does not own the partition.
        """
        lane = self._lanes.get(partition)
        return None if lane is None else lane.applied(topic)

    async def submit(
        self, partition: int, records: Sequence[Record], after: int, acknowledge: Callable[[], None]
    ) -> None:
        """Hand records to their lane. Records of a partition that is not owned are dropped: its owner reads them."""
        if lane := self._lanes.get(partition):
            await lane.submit(records, after, acknowledge)

    async def _open_all(self, partitions: set[int]) -> None:
        """Open these lanes. Those that cannot open are quarantined. If no lane is open then, the process ends."""
        opening = sorted(partitions)
        results = await asyncio.gather(*map(self._open, opening), return_exceptions=True)
        failed = {number: result for number, result in zip(opening, results, strict=True) if result is not None}
        for partition, error in failed.items():
            if not isinstance(error, TollgateError):
                self._on_failure(error)
                raise error
            self._quarantined[partition] = str(error)
            log.error("lane_quarantined", partition=partition, error=str(error), again_seconds=REOPEN_SECONDS)
        if failed and not self._lanes:
            error = failed[min(failed)]
            self._on_failure(error)
            raise error
        if failed:
            self._reopening = asyncio.ensure_future(self._reopen())
            self._reopening.add_done_callback(lambda done: _report(done, self._on_failure))

    async def _open(self, partition: int) -> None:
        committer = await asyncio.get_running_loop().run_in_executor(self._committers, self._open_committer, partition)
        lane = Lane(committer, replace(self._intake, clock=committer.clock), self._searchers, self._committers)
        lane.start(self._on_failure)
        self._lanes[partition] = lane

    async def _reopen(self) -> None:
        """Try the quarantined lanes again and again, until all are open."""
        while self._quarantined:
            await asyncio.sleep(REOPEN_SECONDS)
            async with self._changing:
                for partition in sorted(self._quarantined):
                    try:
                        await asyncio.shield(self._open(partition))
                    except TollgateError as error:
                        self._quarantined[partition] = str(error)
                        continue
                    del self._quarantined[partition]
                    self._opened_late = True
                    log.info("lane_opened", partition=partition)

    async def _stop_reopening(self) -> None:
        task, self._reopening = self._reopening, None
        if task is not None:
            async with self._changing:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _by_topic(submitted: Sequence[Submitted]) -> Iterator[tuple[list[Record], list[Callable[[], None]]]]:
    """Join neighbours of the same topic."""
    for _, group in groupby(submitted, key=lambda each: each.records[0].topic):
        several = list(group)
        yield [record for each in several for record in each.records], [each.acknowledge for each in several]


def _report(task: asyncio.Task[None], on_failure: Callable[[BaseException], None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        on_failure(error)
