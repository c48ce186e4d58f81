"""Looks now and then at whether an inference worker still moves. One that does not move says so, or ends.

A thread that waits for Kafka for ever, and a worker that has fallen out of its group for good, look from outside like a
worker without work. Their process ends, and the next one starts from what is in Kafka.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from worker.contract.errors import LeaveProcess
from worker.inference.consumer import DispatchConsumer
from worker.inference.threads import Threads

LOOK_SECONDS = 10.0
# A group gives out its partitions within its session timeout and some seconds; a broker that starts takes up to a
# minute.
IDLE_SECONDS = 60.0
# After this time without membership, librdkafka is not trusted to join by itself.
OUTSIDE_SECONDS = 300.0

logger = structlog.get_logger()


class Watch:
    """`owned` says how many partitions the worker has; `leave` ends the process with an error."""

    def __init__(
        self,
        threads: Threads,
        consumer: DispatchConsumer,
        owned: Callable[[], int],
        leave: Callable[[BaseException], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads, self._consumer = threads, consumer
        self._owned, self._leave = owned, leave
        self._monotonic = monotonic
        self._idle_since: float | None = None
        self._outside_since: float | None = None
        self._has_said = False

    async def run(self) -> None:
        """Look every LOOK_SECONDS."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Look once. Waits for nothing."""
        if (stuck := self._threads.stuck()) is not None:
            self._leave(LeaveProcess(f"inference: {stuck}"))
        now = self._monotonic()
        self._look_at_partitions(now)
        self._outside_since = None if self._consumer.is_member else self._outside_since or now
        if self._outside_since is not None and now - self._outside_since > OUTSIDE_SECONDS:
            self._leave(LeaveProcess(f"inference: not in its consumer group for {OUTSIDE_SECONDS:.0f} s"))

    def _look_at_partitions(self, now: float) -> None:
        if self._owned():
            self._idle_since, self._has_said = None, False
            return
        self._idle_since = self._idle_since or now
        if now - self._idle_since >= IDLE_SECONDS and not self._has_said:
            self._has_said = True
            remedy = "none, if other workers take all partitions; else look at the group and at the broker"
            is_member = self._consumer.is_member
            logger.warning("no_partitions", seconds=IDLE_SECONDS, in_group=is_member, remedy=remedy)
