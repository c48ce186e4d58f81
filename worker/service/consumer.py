"""Faust as the lanes use it: its consumer group, changed where it would lose records, money or time.

This is the only module that uses private attributes of Faust and aiokafka.

- Whole batches. One Faust event for each record costs about 0.2 ms; one event for each fetched batch makes Faust twelve
  times faster.
- read_committed. Faust reads read_uncommitted unless it runs its own transactions; a query that its producer aborted
  must not be routed.
- Positions. The ledger says which offsets are applied; `positions` decides where to read. The group's committed offsets
  are for lag monitors only.
- Lag. What is committed for lag monitors follows from what the lanes have applied, also when a lane opens. It goes past
  markers and aborted records: a drained partition has no lag. Faust would commit what was acknowledged, one by one.
- Answers that end membership. aiokafka gives them to the next fetch, and none comes before the group has assigned
  partitions; `_watch_the_group` looks for them.
- Members of one name. aiokafka does not tell the broker in heartbeats which instance it is. Of two workers with one
  `kafka.instance_id` it would join again each time that the other has put it out, for ever. Here the one that was put
  out leaves.
- Topics. aiokafka asks for its topics in a way that makes a broker create those that are missing, with one partition.
- Headers. aiokafka can neither read a record with a header whose name is not UTF-8, nor go past it; librdkafka can. So
  librdkafka reads those records again, with the records next to them and those that the failed call had taken of other
  partitions. A batch with a wrong checksum still ends the process: nobody can read it.
- No automatic reset. If the position to read is not in the topic, records were removed, or the topic is another one.
  The client would go on elsewhere without a word. Here the worker leaves; the lane that is opened next finds out what
  happened (`worker/service/home.py`).
- Assignment. Faust asks the broker's metadata for the partitions. The metadata of a broker that has just come back lack
  topics for a moment; a group that rebalances then would agree that nobody reads them, for some minutes.
- Port. Faust looks for a port when all else runs, and a port that is taken ends it with a traceback. Here the socket
  listens before anything starts.
- Files. Faust makes a data directory; lanes keep nothing on disk.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import aiokafka
import aiokafka.client
import faust
import structlog
from aiohttp.web_runner import SockSite
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from aiokafka.protocol.metadata import MetadataRequest
from faust.assignor import PartitionAssignor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message
from faust.web.drivers.aiohttp import Web
from mode import Service

from worker.contract.errors import LeaveProcess
from worker.contract.record import Record
from worker.kafka import answers
from worker.service.lanes import Lanes
from worker.service.positions import Fetch, FetchCounter, Handover, Positions, Seek

# One fetch at a time asks a broker for the drained partitions. A fetch that asks for quiet partitions holds up all
# others for this time; the driver's 1,500 ms would be a second and a half of latency.
FETCH_WAIT_MS = 20
# How many records of each partition librdkafka reads again; the next fetch is aiokafka's own.
AGAIN_RECORDS = 500
# While no partition may be read, this is how often that is looked at again.
PAUSED_SECONDS = 0.1
WATCH_SECONDS = 1.0

OUT_OF_RANGE = (
    "is not in the topic: its records were removed before they were read, or the topic was made anew. The worker that "
    "opens the partition next says which, and records what was lost"
)

log = structlog.get_logger()

# Committed records of a topic's partition, from an offset to before another.
Read = Callable[[str, int, int, int], Iterable[Record]]


def create_no_topics() -> None:
    """Make aiokafka ask for topics without having a missing one created. It has no setting for this."""
    aiokafka.client.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)


class LaneWeb(Web):  # type: ignore[misc]
    """Faust's web server on a socket that listens already."""

    def _new_transport_tcp(self) -> SockSite:
        return SockSite(self._runner, self.app.listening)


class LaneApp(faust.App):  # type: ignore[misc]
    """Faust's application without its data directory. `listening` is the socket of its web server."""

    listening: socket.socket

    def _new_web(self) -> LaneWeb:
        return LaneWeb(self)

    def _create_directories(self) -> None:
        pass


class FixedCluster(NamedTuple):
    """The one question that the assignor asks of a cluster, answered with `kafka.partitions`; workers check at start
    that the topics have so many."""

    partitions: int

    def partitions_for_topic(self, _: str) -> set[int]:
        """The partitions of any input topic."""
        return set(range(self.partitions))


class LaneAssignor(PartitionAssignor):  # type: ignore[misc]
    """Faust's co-partitioning assignor: it assigns partition p of all inputs to one worker."""

    def __init__(self, app: LaneApp, replicas: int = 0) -> None:
        # Lanes have no standbys. With standbys, a worker keeps what it has up to the largest share: three workers on
        # four partitions would stay at 2, 2 and 0 after one of them has come back.
        super().__init__(app, replicas=0)

    @property
    def _url(self) -> str:
        # The group assigns it with the partitions, and Faust ends a worker that has another one now. A static member
        # keeps its assignment when it starts again, perhaps on another port. Nothing here asks for it.
        return "tollgate:"

    def assign(self, cluster: object, member_metadata: Mapping[str, Any]) -> Any:
        """Called in the group's leader. The leader's metadata (`cluster`) are not asked."""
        return super().assign(FixedCluster(self.app.conf.topic_partitions), member_metadata)


class CommittedConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The driver's thread, reading read_committed. It counts fetches, because here nothing runs between a fetch and
    its count."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.counter = FetchCounter()

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # The driver has no setting for these two, and none for a client that never resets a position.
        consumer._auto_offset_reset = "none"
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def on_start(self) -> None:
        """Connect."""
        await super().on_start()
        coordinator = self._consumer._coordinator
        coordinator.reset_generation = partial(self._forgotten, coordinator.reset_generation)

    def _forgotten(self, join_again: Callable[[], None]) -> None:
        """The group does not know this member any more, or not as it is now."""
        self.consumer.leave_if_replaced()
        join_again()

    @property
    def member_id(self) -> str:
        """The name that the group has given to this member; empty if it has none."""
        return getattr(getattr(self._consumer, "_coordinator", None), "member_id", "")

    async def seek_and_count(self, seek: Seek) -> None:
        """Seek those of the partitions that are still assigned, and count fetches from here."""
        await self.call_thread(self._seek, self._ensure_consumer(), seek)

    async def _seek(self, consumer: aiokafka.AIOKafkaConsumer, seek: Seek) -> None:
        assigned = consumer.assignment()
        for place, offset in seek.starts.items():
            if place in assigned:
                consumer.seek(TP(*place), offset)
        self.counter.sought(seek.number, _assignment(consumer))

    async def _fetch_records(self, consumer: aiokafka.AIOKafkaConsumer, *args: Any, **options: Any) -> Fetch:
        records = await super()._fetch_records(consumer, *args, **options)
        assignment = _assignment(consumer)
        states = {TP(*tp): assignment.state_value(tp) for tp in assignment.tps} if assignment is not None else {}
        positions = {tp: state.position for tp, state in states.items() if state.has_valid_position}
        return self.counter.count(records, assignment, positions)

    def refusal(self) -> BaseException | None:
        """The answer that keeps this worker out of the group and that no fetch has been told, if there is one."""
        coordinator = getattr(self._consumer, "_coordinator", None)
        task = getattr(coordinator, "_coordination_task", None)
        if task is not None and task.done() and not task.cancelled():
            ended: BaseException | None = task.exception()
            return ended
        pending: BaseException | None = getattr(coordinator, "_pending_exception", None)
        return pending


def _assignment(consumer: aiokafka.AIOKafkaConsumer) -> Any:
    """Another object for each time that the group assigns partitions; None before the first time."""
    return consumer._subscription.subscription.assignment


class LaneConsumer(driver.Consumer):  # type: ignore[misc]
    """Hands whole fetched batches to the agents and asks the lanes for positions. `read` reads with librdkafka.

    `refused` is told the answer with which the broker has kept this worker out of the group. `is_replaced` says of a
    member id whether another process has joined under this one's name.
    """

    lanes: Lanes
    positions: Positions
    read: Read
    refused: Callable[[BaseException], None]
    is_replaced: Callable[[str], bool]

    def _new_consumer_thread(self) -> Any:
        return CommittedConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Before the group rebalances: no lane begins another transaction."""
        await self.lanes.pause()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """After the group has rebalanced. If this worker has no partition left, Faust seeks nothing."""
        if not assigned:
            await self.lanes.assign(set())
        await super().on_partitions_assigned(assigned, generation_id)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Faust's hook after an assignment: fence and restore the lanes. The seek itself comes with the next fetch."""
        await self.lanes.assign({tp.partition for tp in self.assignment()})
        return {tp: last + 1 for tp, last in self._applied().items()}

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """A seek of Faust's own. Its tables, which are not used here, seek when they recover."""
        await super().seek_wait(partitions)
        self.positions.lose()

    def resume_flow(self) -> None:
        """Faust's last step after an assignment; it has just dropped the batches that no agent had taken."""
        self.positions.lose()
        super().resume_flow()

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """One message for each partition and fetch; its value is a `Handover`."""
        for event in (self.can_resume_flow, self.lanes.ready):
            # Mode's `wait` makes three tasks, also for an event that is set.
            if not event.is_set():
                await self.wait(event)
        if self.should_stop:
            return
        if self.positions.needs_seek or self.lanes.has_opened():
            await self._thread.seek_and_count(self.positions.seek(self._applied()))
        for tp, batch in (await self._fetch(timeout)).items():
            yield tp, self._message(tp, batch)

    def _applied(self) -> dict[TP, int]:
        """The last applied offset of every assigned input whose lane is open."""
        offsets = {tp: self.lanes.applied(tp.partition, tp.topic) for tp in self.assignment()}
        return {tp: offset for tp, offset in offsets.items() if offset is not None}

    def settled(self) -> dict[TP, int]:
        """The offset of each assigned input below which everything is decided, where its lane is open."""
        return {TP(*place): offset for place, offset in self.positions.settled(self._applied()).items()}

    async def _fetch(self, timeout: float) -> Mapping[TP, Handover]:
        # A lane that is not open takes no records: they are fetched when it is.
        active = self._get_active_partitions() & self._applied().keys()
        if not active:
            await self.sleep(PAUSED_SECONDS)
            return {}
        try:
            fetch = await self._thread.getmany(active, timeout)
        except UnicodeDecodeError:
            return await self._read_again()
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as error:
            self._lost_position(error)
            return {}
        except KafkaError:
            # aiokafka has no name for the answer to an instance that was put out.
            self.leave_if_replaced()
            raise
        return self.positions.take(fetch)

    def leave_if_replaced(self) -> None:
        """Leave, if another process has this one's `kafka.instance_id`. Waits for the broker."""
        if (member_id := self._thread.member_id) and self.is_replaced(member_id):
            self.refused(answers.of_instance(self.app.conf.id))

    def _lost_position(self, error: KafkaError) -> None:
        """Leave, if the position is one that the lanes have asked for. Else it was the group's, before the seek."""
        places = error.args[0] if isinstance(error, OffsetOutOfRangeError) else {}
        expected = self.positions.next()
        gone = {tp: at for tp, at in places.items() if tp in expected and at >= expected[tp]}
        self.positions.lose()
        for tp, offset in gone.items():
            self.lanes.fail(LeaveProcess(f"{tp.topic}/{tp.partition} offset {offset}: {OUT_OF_RANGE}"))

    async def _read_again(self) -> Mapping[TP, Handover]:
        """The next batches of all partitions, read with librdkafka from where the reader has got to."""
        log.warning("unreadable_header_name", remedy="its record becomes a dead letter")
        starts = self.positions.next()
        blocks = await asyncio.gather(*(asyncio.to_thread(self._block, TP(*place), at) for place, at in starts.items()))
        seek, batches = self.positions.replace(dict(zip(starts, blocks, strict=True)))
        await self._thread.seek_and_count(seek)
        # A rebalance during the seek may have voided them.
        return {} if self.positions.needs_seek else batches

    def _block(self, tp: TP, start: int) -> list[Record]:
        return list(self.read(tp.topic, tp.partition, start, start + AGAIN_RECORDS))

    def _message(self, tp: TP, batch: Handover) -> Message:
        last = batch.records[-1]
        # Faust drops a message whose offset is not above the last that it remembers, which may be from before a seek.
        self._read_offset[tp] = None
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=last.offset,
            timestamp=last.timestamp / 1000,
            timestamp_type=None,
            headers=None,
            key=None,
            value=batch,
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _filter_tps_with_pending_acks(self, _: Any = None) -> Iterator[TP]:
        """The inputs whose offsets may be committed for lag monitors: all whose lanes are open."""
        return iter(self._applied())

    def _new_offset(self, tp: TP) -> int | None:
        """The offset to commit for lag monitors."""
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return self.settled().get(tp)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """The offsets between two acknowledged ones are of no interest."""

    @Service.task
    async def _watch_the_group(self) -> None:
        heard: BaseException | None = None
        async for _ in self.itertimer(WATCH_SECONDS, name="group"):
            refusal = self._thread.refusal()
            # A fetch may be about to take it; the second time, none has.
            if refusal is not None and (refusal is heard or not self.lanes.ready.is_set()):
                self.leave_if_replaced()
                self.refused(answers.of_group(refusal, self.app.conf.id))
            heard = refusal
