"""Faust's consumer, changed in five places: whole batches, read_committed, positions, acknowledgement and headers.

- One Faust event per record costs about 0.2 ms; one event per fetched batch makes Faust twelve times faster.
- Faust reads read_uncommitted unless it runs its own transactions; a producer's aborted query must not be routed.
- The position of an input is what the ledger says was applied; committed group offsets are for lag monitors only.
  Whenever it is not certain that the next fetch follows what was handed over last, the reader is sought there first.
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

from worker.contract.record import Record
from worker.service.lanes import Lanes

# One fetch at a time asks a broker for the partitions that are drained. One that asks for quiet partitions only holds
# up all others for this long; the driver's 1,500 ms would be a second and a half of latency.
FETCH_WAIT_MS = 20
# Of each partition, when a fetch is read again; the next fetch is aiokafka's own.
AGAIN_RECORDS = 500
# Until it is asked again whether a partition may be read, while none may.
PAUSED_SECONDS = 0.1

log = structlog.get_logger()

# Committed records of a topic's partition, from an offset to before another.
Read = Callable[[str, int, int, int], Iterable[Record]]


class Fetched(NamedTuple):
    """Records of one partition in their order; `after` is the offset that the reader had reached before them, `seeks`
    how often it had been sought to what the lanes have applied."""

    records: list[Record]
    after: int
    seeks: int


class Fetch(NamedTuple):
    """What one fetch took, by partition; `number` counts those that took something since the last seek, 0 if the group
    has assigned the partitions anew since: then it began at the group's offsets."""

    records: Mapping[TP, list[Record]]
    number: int


class CommittedConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The driver's thread, reading read_committed. What moves the reader is counted here, where it moves."""

    _sought: object = None
    _number = 0

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # The driver offers no setting for these two. tests/kafka checks that an aborted query is not routed.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Seek those of these partitions that are still assigned, and count fetches from here."""
        await self.call_thread(self._seek, self._ensure_consumer(), partitions)

    async def _seek(self, consumer: aiokafka.AIOKafkaConsumer, partitions: Mapping[TP, int]) -> None:
        assigned = consumer.assignment()
        for tp, offset in partitions.items():
            if tp in assigned:
                consumer.seek(tp, offset)
        self._sought, self._number = _assignment(consumer), 0

    async def _fetch_records(self, consumer: aiokafka.AIOKafkaConsumer, *args: Any, **options: Any) -> Fetch:
        records = await super()._fetch_records(consumer, *args, **options)
        # Nothing runs in this thread between the moment that the records were taken and here.
        self._number += bool(records)
        return Fetch(records, self._number if _assignment(consumer) is self._sought else 0)


def _assignment(consumer: aiokafka.AIOKafkaConsumer) -> object:
    """An object for each time that the group assigns partitions."""
    return consumer._subscription.subscription.assignment


class LaneConsumer(driver.Consumer):  # type: ignore[misc]
    """Hands whole fetched batches to the agents and asks the lanes for positions. `read` is the other client.

    Faust drops what was fetched in many places while the group rebalances, and calls for partitions twice at once when
    it rebalances again; a fetch whose caller was cancelled goes on in the driver's thread. So every fetch proves by its
    number that it follows the one handed over before it; else the reader is sought to what the lanes have applied.
    """

    lanes: Lanes
    read: Read
    _astray = True
    _number = 0
    _reached: dict[TP, int]

    def _new_consumer_thread(self) -> Any:
        return CommittedConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Before the group rebalances: no lane begins another transaction."""
        await self.lanes.pause()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """After the group has rebalanced. With no partition left to this worker, Faust seeks nothing."""
        if not assigned:
            await self.lanes.assign(set())
        await super().on_partitions_assigned(assigned, generation_id)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Faust's hook after an assignment: fence and restore its lanes. The seek itself comes with the next fetch."""
        await self.lanes.assign({tp.partition for tp in self.assignment()})
        return {tp: last + 1 for tp, last in self._applied().items()}

    def resume_flow(self) -> None:
        """Faust's last step after an assignment; a moment ago it dropped what was fetched and not yet taken."""
        self._astray = True
        super().resume_flow()

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """One message per partition and fetch, its value a `Fetched`."""
        for event in (self.can_resume_flow, self.lanes.ready):
            # Mode's `wait` makes three tasks, also for what has happened already.
            if not event.is_set():
                await self.wait(event)
        if self.should_stop:
            return
        if self._astray:
            await self._go_back()
        for tp, records in (await self._fetch(timeout)).items():
            if tp in self._reached:
                yield tp, self._batch_message(tp, records)

    async def _go_back(self) -> None:
        """Seek to what the lanes have applied; what was handed over and not submitted yet is void."""
        # Before the seek: who finds meanwhile that another is needed says so again.
        self._astray = False
        self.lanes.seeks += 1
        await self._seek(self._applied())

    async def _seek(self, reached: dict[TP, int]) -> None:
        self._reached, self._number = reached, 0
        await self.seek_wait({tp: last + 1 for tp, last in reached.items()})

    def _applied(self) -> dict[TP, int]:
        """The last applied offset of every assigned input whose lane is open."""
        offsets = {tp: self.lanes.applied(tp.partition, tp.topic) for tp in self.assignment()}
        return {tp: offset for tp, offset in offsets.items() if offset is not None}

    async def _fetch(self, timeout: float) -> Mapping[TP, list[Record]]:
        """The next records by partition; none if it is not certain that they are the next."""
        active = self._get_active_partitions()
        if not active:
            await self.sleep(PAUSED_SECONDS)
            return {}
        try:
            fetch = await self._thread.getmany(active, timeout)
        except UnicodeDecodeError:
            return await self._read_again()
        expected, self._number = self._number + bool(fetch.records), fetch.number
        self._astray |= fetch.number != expected
        return {} if self._astray else fetch.records

    async def _read_again(self) -> Mapping[TP, list[Record]]:
        """The next records of all partitions, read with the other client from where the reader has got to."""
        log.warning("unreadable_header_name", remedy="its record becomes a dead letter")
        reached = dict(self._reached)
        blocks = await asyncio.gather(*(asyncio.to_thread(self._block, tp, last + 1) for tp, last in reached.items()))
        batches = {tp: records for tp, records in zip(reached, blocks, strict=True) if records}
        await self._seek(reached | {tp: records[-1].offset for tp, records in batches.items()})
        self._reached = reached
        return batches

    def _block(self, tp: TP, start: int) -> list[Record]:
        return list(self.read(tp.topic, tp.partition, start, start + AGAIN_RECORDS))

    def _batch_message(self, tp: TP, records: list[Record]) -> Message:
        last, fetched = records[-1], Fetched(records, self._reached[tp], self.lanes.seeks)
        self._reached[tp] = last.offset
        # Faust's drainer drops what is not behind the last offset that it remembers, which may be of before a seek.
        self._read_offset[tp] = None
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

    def _new_offset(self, tp: TP) -> int | None:
        """The offset to commit for lag monitors: behind the last batch that the lane has acknowledged."""
        acked: list[int] = self._acked[tp]
        last = max(acked, default=None)
        acked.clear()
        self._acked_index[tp].clear()
        return None if last is None else last + 1

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """What lies between two acknowledged offsets was acknowledged with the later one."""
