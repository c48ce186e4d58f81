"""Faust's consumer, changed in three places: whole batches, read_committed, and positions from the ledger.

- One Faust event per record costs about 0.2 ms; one event per fetched batch makes Faust twelve times faster.
- Faust reads read_uncommitted unless it runs its own transactions; a producer's aborted query must not be routed.
- On assignment the position of an input is what the ledger says was applied; committed group offsets are for lag
  monitors only. `seek_to_committed` is the hook that runs after assignment and before the first fetch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import aiokafka
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message

from worker.lanes import Lanes
from worker.record import Record

# One fetch at a time asks a broker for the partitions that are drained. One that asks for quiet partitions only holds
# up all others for this long; the driver's 1,500 ms would be a second and a half of latency.
FETCH_WAIT_MS = 20


class Fetched(NamedTuple):
    """Records of one partition in their order; `after` is the offset that the reader had reached before them."""

    records: list[Record]
    after: int


class CommittedConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The driver's thread, reading read_committed."""

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # The driver offers no setting for these two. tests/kafka checks that an aborted query is not routed.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer


class LaneConsumer(driver.Consumer):  # type: ignore[misc]
    """Hands whole fetched batches to the agents and asks the lanes for positions."""

    lanes: Lanes

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
        self._reached: dict[TP, int] = {tp: self.lanes.applied(tp.partition, tp.topic) for tp in positions}
        wanted = {tp: applied + 1 for tp, applied in self._reached.items()}
        # In the driver's thread: its plain `seek` would take records away from under a fetch that is running there.
        await self.seek_wait(wanted)
        return wanted

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """One message per partition and fetch, its value a `Fetched`."""
        batches, _ = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        for tp, records in (batches or {}).items():
            if self.should_stop or not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if records and tp in self._reached:
                yield tp, self._batch_message(tp, records)

    def _batch_message(self, tp: TP, records: list[Record]) -> Message:
        message = self._to_message(tp, records[-1])
        message.key, message.value = None, Fetched(records, self._reached[tp])
        self._reached[tp] = records[-1].offset
        # Faust's drainer looks up every partition here, also one revoked a moment ago.
        self._read_offset.setdefault(tp, None)
        return message
