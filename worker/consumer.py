"""Faust's consumer, changed in five places: whole batches, read_committed, positions, acknowledgement and headers.

- One Faust event per record costs about 0.2 ms; one event per fetched batch makes Faust twelve times faster.
- Faust reads read_uncommitted unless it runs its own transactions; a producer's aborted query must not be routed.
- On assignment the position of an input is what the ledger says was applied; committed group offsets are for lag
  monitors only. `seek_to_committed` is the hook that runs after assignment and before the first fetch.
- A lane acknowledges its batches in their order, by the last offset of each. Faust would look for gaps between
  acknowledged offsets on the event loop, record by record.
- aiokafka cannot read a record with a header whose name is not UTF-8, nor go past it; librdkafka can. What it fails on,
  what stands next to it, and what the failed call had taken of other partitions is read again with that one. A batch
  whose checksum is wrong (the broker accepts none, so a disk has failed) still ends the process: nobody can read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, NamedTuple

import aiokafka
import structlog
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message

from worker.lanes import Lanes
from worker.record import Record

# One fetch at a time asks a broker for the partitions that are drained. One that asks for quiet partitions only holds
# up all others for this long; the driver's 1,500 ms would be a second and a half of latency.
FETCH_WAIT_MS = 20
# Of each partition, when a fetch is read again; the next fetch is aiokafka's own.
AGAIN_RECORDS = 500

log = structlog.get_logger()

# Committed records of a topic's partition, from an offset to before another.
Read = Callable[[str, int, int, int], Iterable[Record]]


class Fetched(NamedTuple):
    """Records of one partition in their order; `after` is the offset that the reader had reached before them, `seeks`
    how often it had been sought to what the lanes have applied."""

    records: list[Record]
    after: int
    seeks: int


class CommittedConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The driver's thread, reading read_committed."""

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # The driver offers no setting for these two. tests/kafka checks that an aborted query is not routed.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer


class LaneConsumer(driver.Consumer):  # type: ignore[misc]
    """Hands whole fetched batches to the agents and asks the lanes for positions. `read` is the other client."""

    lanes: Lanes
    read: Read

    def _new_consumer_thread(self) -> Any:
        return CommittedConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Before the group rebalances: no lane begins another transaction."""
        await self.lanes.pause()
        await super().on_partitions_revoked(revoked)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Fence and restore the lanes of the new assignment, then seek each input to what its ledger has applied."""
        positions = await super().seek_to_committed()
        await self.lanes.assign({tp.partition for tp in positions})
        reached = {tp: self.lanes.applied(tp.partition, tp.topic) for tp in positions}
        wanted = {tp: applied + 1 for tp, applied in reached.items()}
        # In the driver's thread: its plain `seek` would take records away from under a fetch that is running there.
        await self.seek_wait(wanted)
        # Only now: a fetch that returned meanwhile is told by its `after` to follow what was read before.
        self._reached: dict[TP, int] = reached
        self.lanes.seeks += 1
        return wanted

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """One message per partition and fetch, its value a `Fetched`."""
        seeks = self.lanes.seeks
        try:
            batches, _ = await self._wait_next_records(timeout)
            generation = self.app.consumer_generation_id
        except UnicodeDecodeError:
            generation = self.app.consumer_generation_id
            batches = await self._read_again(generation)
        if seeks != self.lanes.seeks:
            # Begun before the seek: it may hold what stood behind it, and took the reader past what it holds.
            await self._seek_again()
            return
        for tp, records in (batches or {}).items():
            if self.should_stop or not self.flow_active:
                return
            if (self.app.consumer_generation_id, self.lanes.seeks) != (generation, seeks):
                return
            if records and tp in self._reached:
                yield tp, self._batch_message(tp, records)

    async def _seek_again(self) -> None:
        owned = self.assignment()
        await self.seek_wait({tp: last + 1 for tp, last in self._reached.items() if tp in owned})

    def _new_offset(self, tp: TP) -> int | None:
        """The offset to commit for lag monitors: behind the last batch that the lane has acknowledged."""
        acked: list[int] = self._acked[tp]
        last = max(acked, default=None)
        acked.clear()
        self._acked_index[tp].clear()
        return None if last is None else last + 1

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """What lies between two acknowledged offsets was acknowledged with the later one."""

    async def _read_again(self, generation: int) -> dict[TP, list[Record]]:
        """The next records of all partitions, read with the other client from where the lanes have got to."""
        log.warning("unreadable_header_name", remedy="its record becomes a dead letter")
        reached = dict(self._reached)
        blocks = await asyncio.gather(*(asyncio.to_thread(self._block, tp, last + 1) for tp, last in reached.items()))
        batches = dict(zip(reached, blocks, strict=True))
        if self.app.consumer_generation_id == generation:
            ends = {tp: records[-1].offset if records else reached[tp] for tp, records in batches.items()}
            await self.seek_wait({tp: end + 1 for tp, end in ends.items()})
            # The seek has told Faust's drainer that all before its target was handed over.
            self._read_offset.update(dict.fromkeys(ends))
        return batches

    def _block(self, tp: TP, start: int) -> list[Record]:
        return list(self.read(tp.topic, tp.partition, start, start + AGAIN_RECORDS))

    def _batch_message(self, tp: TP, records: list[Record]) -> Message:
        last, fetched = records[-1], Fetched(records, self._reached[tp], self.lanes.seeks)
        self._reached[tp] = last.offset
        # Faust's drainer looks up every partition here, also one revoked a moment ago.
        self._read_offset.setdefault(tp, None)
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=last.offset,
            timestamp=last.timestamp / 1000,
            timestamp_type=None,
            headers=None,
            key=None,
            value=fetched,
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )
