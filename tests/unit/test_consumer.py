"""The reader while the group rebalances: whatever Faust drops, no lane is ever handed records behind a hole."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from worker.contract.record import StoredRecord
from worker.service.consumer import CommittedConsumerThread, LaneConsumer
from worker.service.positions import FetchCounter, Handover, Positions

PLACE, UNOWNED = TP("queries", 3), TP("queries", 1)
END, BLOCK = 60, 5


class Client:
    """aiokafka: an input of END records, the position in it, and one object for each assignment."""

    def __init__(self) -> None:
        self.positions = {PLACE: 0, UNOWNED: 0}
        self.assign()

    def assign(self, committed: int = 0) -> None:
        self._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=SimpleNamespace(tps=())))
        self.positions[PLACE] = committed

    def assignment(self) -> set[TP]:
        return set(self.positions)

    def seek(self, tp: TP, offset: int) -> None:
        self.positions[tp] = offset

    def take(self) -> dict[TP, list[StoredRecord]]:
        taken = {}
        for tp, position in self.positions.items():
            offsets = range(position, min(position + BLOCK, END))
            self.positions[tp] = offsets.stop
            taken[tp] = [StoredRecord(tp.topic, tp.partition, offset, 0, None, b"", ()) for offset in offsets]
        return {tp: records for tp, records in taken.items() if records}


class Reader:
    """The reader and its thread over a `Client`, and a lane that applies what it is handed without looking."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def take(_: object, client: Client) -> Mapping[TP, list[StoredRecord]]:
            return client.take()

        monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", take)
        self.client = Client()
        self.applied: list[int] = []
        self.lost: list[tuple[int, int]] = []
        self.waiting: list[Handover] = []
        self.has_opened = False
        self.thread = CommittedConsumerThread.__new__(CommittedConsumerThread)
        self.thread.counter = FetchCounter()
        self.consumer: Any = LaneConsumer.__new__(LaneConsumer)
        ready = asyncio.Event()
        ready.set()
        self.failed: list[BaseException] = []
        lanes = SimpleNamespace(
            ready=ready,
            applied=lambda p, _: self.last if p == PLACE.partition else None,
            fail=self.failed.append,
            has_opened=lambda: self.has_opened,
        )
        fakes = {
            "lanes": lanes,
            "positions": Positions(),
            "app": SimpleNamespace(consumer_generation_id=7),
            "can_resume_flow": ready,
            "suspend_flow": asyncio.Event(),
            "flow_active": True,
            "_read_offset": {},
            "_thread": SimpleNamespace(
                getmany=self._getmany, seek_and_count=lambda seek: self.thread._seek(self.client, seek)
            ),
            "wait": self._nothing,
            "assignment": self.client.assignment,
            "_get_active_partitions": self.client.assignment,
        }
        monkeypatch.setattr(LaneConsumer, "should_stop", False)
        for name, fake in fakes.items():
            setattr(self.consumer, name, fake)

    @property
    def last(self) -> int:
        """The last offset that the lane has applied."""
        return self.applied[-1] if self.applied else -1

    async def _nothing(self, *_: object) -> None:
        pass

    async def _getmany(self, *_: object) -> Any:
        return await self.thread._fetch_records(self.client)

    # What happens

    async def fetch(self) -> None:
        """What was fetched waits for the agent."""
        self.waiting += [message.value async for _, message in self.consumer.getmany(1.0)]

    async def fetch_for_nobody(self) -> None:
        """A fetch whose caller was cancelled ends in the driver's thread."""
        await self.thread._fetch_records(self.client)

    async def hand_over(self) -> None:
        """The agent takes what waits; the lane applies what it has not."""
        for fetched in self.waiting:
            if self.consumer.positions.is_current(fetched):
                new = [record.offset for record in fetched.records if record.offset > self.last]
                if new and new[0] != self.last + 1:
                    self.lost.append((self.last + 1, new[0]))
                self.applied += new
        self.waiting = []

    async def rebalance(self) -> None:
        """Faust drops what waits; aiokafka begins at what the group has committed."""
        self.waiting = []
        self.client.assign(random.Random(len(self.applied)).randint(0, self.last + 1))

    async def resume(self) -> None:
        """Faust drops what waits, and lets it flow again."""
        self.waiting = []
        self.consumer.resume_flow()


@pytest.mark.parametrize(
    ("error", "leaves"),
    [
        (OffsetOutOfRangeError({PLACE: 10}), True),
        (OffsetOutOfRangeError({PLACE: 12}), True),
        (OffsetOutOfRangeError({PLACE: 4}), False),
        (OffsetOutOfRangeError({UNOWNED: 10}), False),
        (NoOffsetForPartitionError(PLACE), False),
    ],
    ids=["where the lane is", "behind markers", "where the group was", "of another lane", "no offset of the group"],
)
def test_a_position_that_is_not_in_the_topic(error: Exception, leaves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker leaves if a lane asked for it. A position of the group from before the seek is sought again."""

    async def happen() -> Reader:
        reader = Reader(monkeypatch)
        for event in (Reader.fetch, Reader.hand_over, Reader.fetch, Reader.hand_over):
            await event(reader)

        async def refuse(*_: object) -> None:
            raise error

        reader.consumer._thread.getmany = refuse
        await reader.fetch()
        return reader

    reader = asyncio.run(happen())
    assert (len(reader.failed), reader.consumer.positions.needs_seek, reader.last) == (int(leaves), True, 9)


EVENTS = (Reader.fetch, Reader.fetch, Reader.fetch_for_nobody, Reader.hand_over, Reader.rebalance, Reader.resume)


@pytest.mark.parametrize("seed", range(200))
def test_no_hole(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens in whatever order, the lane applies each record once and in its order."""
    dice = random.Random(seed)
    events = [dice.choice(EVENTS) for _ in range(40)]

    async def happen() -> Reader:
        reader = Reader(monkeypatch)
        for event in (*events, *(Reader.fetch, Reader.hand_over) * (END // BLOCK + 2)):
            await event(reader)
        return reader

    reader = asyncio.run(happen())
    assert (reader.lost, reader.applied) == ([], list(range(END))), [event.__name__ for event in events]


@pytest.mark.parametrize(
    ("event", "blocks"),
    [
        (None, [((0, 4), -1, 1), ((5, 9), 4, 1)]),
        (Reader.fetch_for_nobody, [((0, 4), -1, 1), ((0, 4), -1, 2)]),
        (Reader.rebalance, [((0, 4), -1, 2)]),
        (Reader.resume, [((0, 4), -1, 2)]),
    ],
    ids=["nothing", "a fetch for nobody", "a rebalance", "the flow resumes"],
)
def test_what_is_handed_over(
    event: Callable[[Reader], Any] | None,
    blocks: list[tuple[tuple[int, int], int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fetch says what came before it; one that may not follow is read again, under another number."""

    async def happen() -> list[Handover]:
        reader = Reader(monkeypatch)
        await reader.fetch()
        if event is not None:
            await event(reader)
        await reader.fetch()
        if event is not None and len(reader.waiting) < len(blocks):
            await reader.fetch()
        return reader.waiting

    fetched = asyncio.run(happen())
    assert [((f.records[0].offset, f.records[-1].offset), f.after, f.round) for f in fetched] == blocks
