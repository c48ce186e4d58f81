"""An inference worker whose broker or whose group does not answer: it goes on without, or it ends. It never waits for
ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.contract import codec
from worker.contract.errors import CheckBroker, LeaveProcess
from worker.contract.settings import Settings
from worker.inference import publisher, watch
from worker.inference import threads as threads_module
from worker.inference.published import Outgoing
from worker.inference.publisher import Publisher
from worker.inference.threads import TRIES, Threads
from worker.inference.watch import IDLE_SECONDS, OUTSIDE_SECONDS, Watch
from worker.kafka.limited import within

ANSWER = Outgoing("answers", 0, "q", b"{}", codec.CONTENT_TYPE, is_answer=True)
POSITION = TopicPartition("dispatch.a", 0, 8)


class FakeKafka:
    """Transactional producers that share one log. `positions` is what happens when positions are sent."""

    def __init__(self) -> None:
        self.committed: list[tuple[int, list[str], list[int]]] = []
        self.producers: list[FakeProducer] = []
        self.sent: list[int] = []
        self.positions: Callable[[], object] = lambda: None
        self.failures: list[KafkaError] = []

    def producer(self, config: dict[str, Any]) -> FakeProducer:
        self.producers.append(FakeProducer(self, len(self.producers)))
        return self.producers[-1]


class FakeProducer:
    """Keeps one transaction in memory."""

    def __init__(self, kafka: FakeKafka, number: int) -> None:
        self._kafka, self._number = kafka, number
        self._waiting: list[Callable[..., object]] = []
        self._topics: list[str] = []
        self._positions: list[int] = []

    def init_transactions(self, timeout: float) -> None: ...

    def begin_transaction(self) -> None:
        self._waiting, self._topics, self._positions = [], [], []

    def produce(
        self, topic: str, value: bytes, key: str, partition: int, *, on_delivery: Callable[..., object], **_: Any
    ) -> None:
        self._topics.append(topic)
        self._waiting.append(on_delivery)

    def flush(self, timeout: float) -> int:
        for delivered in self._waiting:
            delivered(self._kafka.failures.pop() if self._kafka.failures else None, None)
        self._waiting = []
        return 0

    def send_offsets_to_transaction(self, positions: list[TopicPartition], group: object, timeout: float) -> None:
        self._kafka.sent.append(len(self._waiting))
        self._kafka.positions()
        self._positions = [each.offset for each in positions]

    def commit_transaction(self, timeout: float) -> None:
        self._kafka.committed.append((self._number, self._topics, self._positions))

    def abort_transaction(self, timeout: float) -> None: ...


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> FakeKafka:
    made = FakeKafka()
    monkeypatch.setattr(publisher, "Producer", made.producer)
    monkeypatch.setattr(publisher, "GIVE_UP_SECONDS", 0.05)
    return made


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """An event that nobody sets before the test ends."""
    event = threading.Event()
    yield event
    event.set()


def test_a_group_that_never_answers(kafka: FakeKafka, held: threading.Event) -> None:
    """Positions that are never answered hold up no answer: a producer of a new epoch publishes it without them."""
    kafka.positions = held.wait
    own = Publisher(Settings(), "w", lambda: b"group")
    new = len(kafka.producers)
    assert own.publish([[ANSWER]], [POSITION]) is False
    assert kafka.committed == [(new, ["answers"], [])]
    assert len(kafka.producers) == new + 1


def test_no_record_is_on_its_way_when_positions_are_sent(kafka: FakeKafka) -> None:
    """librdkafka drops the request for positions, and never answers it, if a record fails meanwhile."""
    own = Publisher(Settings(), "w", lambda: b"group")
    assert own.publish([[ANSWER], [ANSWER]], [POSITION]) is True
    assert kafka.sent == [0]
    assert [(topics, positions) for _, topics, positions in kafka.committed] == [(["answers", "answers"], [8])]


def test_a_record_that_fails_is_known_before_positions_are_sent(kafka: FakeKafka) -> None:
    """The transaction is aborted and tried again; only then positions are sent."""
    kafka.failures = [KafkaError(KafkaError._TRANSPORT)]
    own = Publisher(Settings(), "w", lambda: b"group")
    assert own.publish([[ANSWER]], [POSITION]) is True
    assert kafka.sent == [0]
    assert [positions for _, _, positions in kafka.committed] == [[8]]


def test_a_limited_call(held: threading.Event) -> None:
    """Its result and its error are those of the call; only the wait has a limit."""

    def fail() -> None:
        raise KafkaException(KafkaError(KafkaError._FAIL))

    assert within(60, max, 3, 5) == 5
    with pytest.raises(KafkaException):
        within(60, fail)
    with pytest.raises(TimeoutError):
        within(0.01, held.wait)


@pytest.mark.parametrize(("limit_seconds", "is_stuck"), [(0.0, True), (3_600.0, False)])
def test_a_thread_that_is_stuck(held: threading.Event, limit_seconds: float, is_stuck: bool) -> None:
    """A call that takes longer than any limit inside it is named by its thread; one that has ended is not."""

    async def look() -> tuple[str | None, str | None]:
        with Threads(limit_seconds, publish=1) as threads:
            begun = threading.Event()

            def wait() -> None:
                begun.set()
                held.wait()

            call = asyncio.create_task(threads.run("publish", wait))
            await asyncio.to_thread(begun.wait)
            during = threads.stuck()
            held.set()
            await call
            return during, threads.stuck()

    during, after = asyncio.run(look())
    assert (during is not None and "`publish`" in during, after) == (is_stuck, None)


@pytest.mark.parametrize(("failures", "is_patient"), [(0, True), (TRIES - 1, True), (TRIES, False)])
def test_a_broker_that_does_not_answer_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, failures: int, is_patient: bool
) -> None:
    """A worker does not give up its open calls because one partition could not be read; it does not ask for ever."""
    monkeypatch.setattr(threads_module, "PAUSE_SECONDS", 0.0)
    left = [CheckBroker("no answer")] * failures

    def ask() -> str:
        if left:
            raise left.pop()
        return "known"

    async def asked() -> str | None:
        with Threads(restore=1) as threads:
            try:
                return str(await threads.run_patiently("restore", ask))
            except CheckBroker:
                return None

    assert asyncio.run(asked()) == ("known" if is_patient else None)


class Told:
    """A watch over a worker that the test makes up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.owned, self.is_member, self.stuck_thread = 1_000.0, 0, True, None
        self.left: list[BaseException] = []
        self.said: list[str] = []
        monkeypatch.setattr(watch.logger, "warning", lambda event, **_: self.said.append(event), raising=False)
        self.watch = Watch(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            lambda: self.owned,
            self.left.append,
            lambda: self.now,
        )

    def stuck(self) -> str | None:
        return self.stuck_thread

    def after(self, seconds: float) -> None:
        self.watch.look()
        self.now += seconds
        self.watch.look()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def test_a_worker_without_partitions_says_so_once(told: Told) -> None:
    """Once in a row: again only after it had some. It stays, because others may have them all."""
    for _ in range(3):
        told.after(IDLE_SECONDS)
    told.owned = 4
    told.after(IDLE_SECONDS)
    told.owned = 0
    told.after(IDLE_SECONDS)
    assert (told.said, told.left) == (["no_partitions", "no_partitions"], [])


@pytest.mark.parametrize(("is_member", "leaves"), [(False, True), (True, False)])
def test_a_worker_that_does_not_come_back_into_its_group_ends(told: Told, is_member: bool, leaves: bool) -> None:
    """librdkafka joins by itself; one that has not joined for minutes will not."""
    told.is_member = is_member
    told.after(OUTSIDE_SECONDS + 1)
    assert [type(error) for error in told.left] == [LeaveProcess] * leaves
