"""What Tollgate changes in Faust and aiokafka through private attributes: one test for each of them.

A new version of Faust that renames or ignores one of them fails here.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import aiokafka.client
import pytest
from aiohttp import ClientSession, ClientTimeout
from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.protocol.metadata import MetadataRequest_v5
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from tests.topics import record
from worker.contract.settings import KafkaSettings, Settings
from worker.service.app import make_app
from worker.service.consumer import (
    FETCH_WAIT_MS,
    CommittedConsumerThread,
    LaneApp,
    LaneConsumer,
    _assignment,
    create_no_topics,
)
from worker.service.lanes import Lanes
from worker.service.metrics import Metrics
from worker.service.positions import Fetch, Handover, Positions

PARTITIONS = 4
INPUTS = ["completions", "queries"]
PLACE = TP("queries", 3)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that listens."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_a_broker_without_metadata(workers: int, listening: socket.socket) -> None:
    """The group agrees on all partitions of both inputs, each pair to one worker, though no topic is known."""
    settings = Settings(kafka=KafkaSettings(partitions=PARTITIONS))
    assignor = make_app(settings, cast(Lanes, None), Metrics(), listening).assignor
    members: Any = {f"worker-{n}": assignor.metadata(set(INPUTS)) for n in range(workers)}

    assigned = assignor.assign(ClusterMetadata(), members)

    owned = [dict(assignment.assignment) for assignment in assigned.values()]
    for each in owned:
        queries, completions = sorted(each.get("queries", [])), sorted(each.get("completions", []))
        assert queries == completions, "a worker reads the same partitions of both inputs"
    whole = {topic: sorted(p for each in owned for p in each.get(topic, [])) for topic in INPUTS}
    assert whole == {topic: list(range(PARTITIONS)) for topic in INPUTS}


def test_a_static_member_may_come_back_on_another_port(listening: socket.socket) -> None:
    """The group gives it the assignment that it had before; Faust would end it for its other address."""
    settings = Settings(kafka=KafkaSettings(partitions=PARTITIONS))
    before = make_app(settings, cast(Lanes, None), Metrics(), listening).assignor
    assigned = before.assign(ClusterMetadata(), {"a": cast(Any, before).metadata(set(INPUTS))})["a"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        after = make_app(settings, cast(Lanes, None), Metrics(), other).assignor
        after.on_assignment(assigned)
    assert {tp.partition for tp in cast(Any, after)._active_tps} == set(range(PARTITIONS))


def test_the_web_server_takes_our_socket(listening: socket.socket) -> None:
    """A page of the worker answers on the socket that listened before Faust began."""

    async def answered() -> str:
        web = make_app(Settings(), cast(Lanes, None), Metrics(), listening).web
        await web.start_server()
        try:
            async with ClientSession() as client:
                url = "http://{}:{}/nothing".format(*listening.getsockname())
                async with client.get(url, timeout=ClientTimeout(60)) as answer:
                    return answer.headers["Server"]
        finally:
            await web.stop_server()

    assert "aiohttp" in asyncio.run(answered())


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_a_worker_that_comes_back_gets_its_share(workers: int, listening: socket.socket) -> None:
    """The numbers of partitions differ by one at most, though the others have shared all of them meanwhile."""
    settings = Settings(kafka=KafkaSettings(partitions=PARTITIONS))
    assignors = [make_app(settings, cast(Lanes, None), Metrics(), listening).assignor for _ in range(workers)]
    for alive in (assignors[:-1], assignors):
        members: Any = {f"worker-{n}": one.metadata(set(INPUTS)) for n, one in enumerate(alive)}
        assigned = alive[0].assign(ClusterMetadata(), members)
        for n, one in enumerate(alive):
            one.on_assignment(assigned[f"worker-{n}"])
    counts = [len(dict(assignment.assignment).get("queries", [])) for assignment in assigned.values()]
    assert sum(counts) == PARTITIONS
    assert max(counts) - min(counts) <= 1


def test_the_consumer_reads_committed_records_and_waits_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka's fetcher is made with the values of `_isolation_level` and `_fetch_max_wait_ms`."""
    made: Any = SimpleNamespace(_isolation_level="read_uncommitted", _fetch_max_wait_ms=1_500)
    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_create_worker_consumer", lambda *_: made)
    thread = CommittedConsumerThread.__new__(CommittedConsumerThread)
    consumer = thread._create_worker_consumer(None)
    assert consumer._isolation_level == "read_committed"
    assert consumer._fetch_max_wait_ms == FETCH_WAIT_MS


def test_aiokafka_has_these_attributes() -> None:
    """An attribute that aiokafka no longer reads would be set in vain."""

    async def consumer() -> set[str]:
        import aiokafka

        made = aiokafka.AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")
        await made.stop()
        return set(vars(made))

    assert {"_isolation_level", "_fetch_max_wait_ms", "_subscription"} <= asyncio.run(consumer())


def test_each_assignment_is_another_object() -> None:
    """Positions trust that a rebalance changes the object, also when the partitions stay the same."""

    async def assignments() -> tuple[object, object]:
        state = SubscriptionState()
        consumer: Any = SimpleNamespace(_subscription=state)
        state.subscribe({"queries"})
        state.assign_from_subscribed({PLACE})
        first = _assignment(consumer)
        state.assign_from_subscribed({PLACE})
        return first, _assignment(consumer)

    first, second = asyncio.run(assignments())
    assert first is not second


def bare_consumer() -> Any:
    """A consumer without a thread or an application."""
    consumer: Any = LaneConsumer.__new__(LaneConsumer)
    consumer.app = SimpleNamespace(consumer_generation_id=7)
    consumer._read_offset = {PLACE: 99}
    consumer._acked, consumer._acked_index = defaultdict(list), defaultdict(set)
    return consumer


def test_faust_forgets_the_last_offset_that_it_read() -> None:
    """After a seek backwards the records come again; Faust would drop them as read."""
    consumer = bare_consumer()
    message = consumer._message(PLACE, Handover([record("queries", 5, None, b"")], 4, 1))
    assert consumer._read_offset[PLACE] is None
    assert message.offset == 5


@pytest.mark.parametrize(
    ("applied", "fetched", "reads_next", "committed"),
    [
        (-1, [], {}, 0),
        (4, [], {}, 5),
        (9, [8, 9], {PLACE: 12}, 12),
        (8, [8, 9], {PLACE: 12}, 9),
        (4, [], {PLACE: 7}, 7),
    ],
    ids=["nothing came yet", "a lane that has just opened", "past markers", "not all is applied", "only markers"],
)
def test_the_offset_for_lag_monitors(
    applied: int, fetched: list[int], reads_next: dict[TP, int], committed: int
) -> None:
    """It follows what the lane has applied, and goes past markers once everything before them is applied."""
    consumer = bare_consumer()
    consumer.positions = Positions()
    consumer.lanes = SimpleNamespace(applied=lambda partition, topic: applied)
    consumer.assignment = lambda: {PLACE}
    began = min(fetched, default=applied + 1) - 1
    sought = consumer.positions.seek({PLACE: began})
    records = {PLACE: [record("queries", offset, None, b"") for offset in fetched]} if fetched else {}
    consumer.positions.take(Fetch(records, sought.number, len(records), reads_next))
    assert list(consumer._filter_tps_with_pending_acks()) == [PLACE]
    assert consumer._new_offset(PLACE) == committed


def test_no_topic_is_made_by_asking_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka's own requests would have the broker make topics that are missing."""
    monkeypatch.setattr(aiokafka.client, "MetadataRequest", aiokafka.client.MetadataRequest)
    create_no_topics()
    request = aiokafka.client.MetadataRequest(["queries"]).build(MetadataRequest_v5)
    assert request.allow_auto_topic_creation is False


def test_faust_looks_for_no_gaps() -> None:
    """Offsets between two batches are markers or aborted records: there is nothing to acknowledge."""
    consumer = bare_consumer()
    asyncio.run(consumer._add_gap(PLACE, 3, 1_000_000))
    assert consumer._acked == {}


def test_no_directory_is_made(tmp_path: Any) -> None:
    """Faust makes a data directory when it starts; lanes keep nothing on disk."""
    app = LaneApp("tollgate", datadir=str(tmp_path / "data"))
    app._create_directories()
    assert not (tmp_path / "data").exists()


OVERRIDDEN = (
    "_new_consumer_thread",
    "_new_offset",
    "_add_gap",
    "_get_active_partitions",
    "_filter_tps_with_pending_acks",
)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_faust_still_has_what_the_consumer_overrides(name: str) -> None:
    """An override of a method that Faust no longer calls would do nothing."""
    assert hasattr(driver.Consumer, name)
