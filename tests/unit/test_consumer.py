"""The reader after a rebalance: what was fetched before the seek is read again, not handed over behind a hole."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from worker.consumer import LaneConsumer
from worker.record import StoredRecord

PLACE, LOST = TP("queries", 3), TP("queries", 1)
RECORDS = [StoredRecord("queries", 3, offset, 0, None, b"", ()) for offset in (231, 232)]


def consumer(sought_meanwhile: bool) -> Any:
    """A reader that has reached offset 230 and fetches RECORDS; a rebalance may seek it back to 194 meanwhile."""
    sought: list[dict[TP, int]] = []
    reader = SimpleNamespace(
        lanes=SimpleNamespace(seeks=1),
        app=SimpleNamespace(consumer_generation_id=7),
        should_stop=False,
        flow_active=True,
        assignment=lambda: {PLACE},
        sought=sought,
        _reached={PLACE: 230, LOST: 9},
        _read_offset={},
    )

    async def fetch(timeout: float) -> tuple[dict[TP, list[StoredRecord]], None]:
        if sought_meanwhile:
            reader._reached[PLACE] = 194
            reader.lanes.seeks += 1
        return {PLACE: RECORDS}, None

    async def seek(wanted: dict[TP, int]) -> None:
        sought.append(wanted)

    reader._wait_next_records, reader.seek_wait = fetch, seek
    reader._batch_message = lambda *batch: LaneConsumer._batch_message(reader, *batch)
    reader._seek_again = lambda: LaneConsumer._seek_again(reader)
    return reader


@pytest.mark.parametrize(
    ("sought_meanwhile", "handed_over", "sought"),
    [(False, [([231, 232], 230, 1)], []), (True, [], [{PLACE: 195}])],
    ids=["no rebalance", "a rebalance during the fetch"],
)
def test_a_fetch(
    sought_meanwhile: bool, handed_over: list[tuple[list[int], int, int]], sought: list[dict[TP, int]]
) -> None:
    """Is handed over with what came before it; one that a seek overtook is read again, of the partitions owned now."""
    reader = consumer(sought_meanwhile)

    async def fetched() -> list[tuple[list[int], int, int]]:
        values = [message.value async for _, message in LaneConsumer.getmany(reader, 1.0)]
        return [([record.offset for record in value.records], value.after, value.seeks) for value in values]

    assert (asyncio.run(fetched()), reader.sought) == (handed_over, sought)
