"""The lanes of one worker process: which partitions it owns, opened and closed as the consumer group decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from worker.contract.record import Record
from worker.service.committer import Committer
from worker.service.intake import Intake
from worker.service.lane import Lane

log = structlog.get_logger()


class Lanes:
    """Owned lanes by partition. `open_committer` fences and restores one; `on_failure` hears of the first error."""

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
        self._searchers = ThreadPoolExecutor(search_threads, thread_name_prefix="search")
        self._committers = ThreadPoolExecutor(thread_name_prefix="commit", max_workers=64)
        # Set from when the lanes are what the group has assigned until it rebalances.
        self.ready = asyncio.Event()
        self._pauses = 0
        self._changing = asyncio.Lock()
        # How often the reader was sought to what the lanes have applied: what it had read before is read again.
        self.seeks = 0

    @property
    def open(self) -> list[Lane]:
        """The lanes that this worker owns now."""
        return list(self._lanes.values())

    async def assign(self, partitions: set[int]) -> None:
        """Own exactly these partitions: stop lanes that went, keep those that stay, fence and restore new ones."""
        pauses = self._pauses
        async with self._changing:
            for partition in self._lanes.keys() - partitions:
                await self._lanes.pop(partition).stop()
            for lane in self.open:
                lane.resume()
            try:
                await asyncio.gather(*(self._open(partition) for partition in sorted(partitions - self._lanes.keys())))
            except Exception as error:
                self._on_failure(error)
                raise
        log.info("lanes_assigned", partitions=sorted(self._lanes))
        # Else the group has begun to rebalance again meanwhile, and will assign anew.
        if pauses == self._pauses:
            self.ready.set()

    async def pause(self) -> None:
        """Let all that is under way finish, and begin no transaction until the next `assign`.

        Also lanes that are being opened: the next owner of one must not be fenced by us a moment later.
        """
        self._pauses += 1
        self.ready.clear()
        async with self._changing:
            await asyncio.gather(*(lane.pause() for lane in self.open))

    async def stop(self) -> None:
        """Finish the transactions under way and end all lanes."""
        await asyncio.gather(*(lane.stop() for lane in self.open))
        self._lanes.clear()

    def applied(self, partition: int, topic: str) -> int | None:
        """The last offset of an input topic that the lane of `partition` has applied, -1 for none; None: not ours."""
        lane = self._lanes.get(partition)
        return None if lane is None else lane.applied(topic)

    async def submit(
        self, partition: int, records: Sequence[Record], after: int, acknowledge: Callable[[], None]
    ) -> None:
        """Hand records to their lane; those of a partition that has moved away are the new owner's."""
        if lane := self._lanes.get(partition):
            await lane.submit(records, after, acknowledge)

    async def _open(self, partition: int) -> None:
        committer = await asyncio.get_running_loop().run_in_executor(self._committers, self._open_committer, partition)
        lane = Lane(committer, self._intake, self._searchers, self._committers)
        lane.start(self._on_failure)
        self._lanes[partition] = lane
