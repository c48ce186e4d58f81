"""A simulated worker process: the real lanes, intake and committers around a consumer that follows the rules."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.simulation.auditor import Violation, prior_for, require
from tests.simulation.broker import Broker, SimulatedProducer, SimulatedReader
from tests.simulation.consumer import SimulatedClient, SimulatedConsumer
from tests.simulation.steps import SteppedExecutor
from tests.simulation.traffic import DIMENSION
from worker.contract.completions import UsableCompletion
from worker.contract.dispatch_id import DispatchId
from worker.contract.errors import CheckBroker, LeaveProcess
from worker.contract.messages import Configuration
from worker.contract.rejections import Limits, read_completion
from worker.contract.settings import LlmSettings, Settings
from worker.core.events import Ticked, Unanswered
from worker.core.lane_view import LaneView
from worker.core.router import Router
from worker.kafka.clock import Clock
from worker.kafka.memory import Log
from worker.kafka.reader import Place
from worker.service.committer import Committer, Kafka
from worker.service.home import opening_events
from worker.service.intake import Input, Intake
from worker.service.lanes import Lanes, SkippedRecords
from worker.service.metrics import Metrics
from worker.service.overdue import Overdue
from worker.service.positions import Handover, Positions
from worker.service.prepare import Preparer

TOPICS = ("queries", "completions")
# How often an agent is slow.
SLOW_AGENT = 0.5
METRICS = Metrics()


class Estimator:
    """Stands for the index: estimates that depend on nothing but the embedding."""

    def __init__(self, llms: Sequence[str]) -> None:
        self.manifest = SimpleNamespace(dimension=DIMENSION, llms=llms, embedder="supplied")

    def search(self, embeddings: Any) -> Any:
        return np.ones((len(embeddings), 1), np.float32), None

    def predict(self, embeddings: Any, input_tokens: Any, nearest: Any) -> Any:
        column = np.arange(len(self.manifest.llms))
        quality = np.abs(embeddings[:, column % DIMENSION].astype(np.float64)).round(3).astype(np.float32)
        cost = (np.abs(embeddings[:, (column + 1) % DIMENSION]) * 1000 / (column + 1)).astype(np.int64)
        return SimpleNamespace(quality=quality.astype(np.float64), cost_micros=cost)


@dataclass(frozen=True)
class SimulatedClock:
    """The clock of a machine: simulated time of day, and simulated seconds."""

    now_ms: Callable[[], int]
    monotonic: Callable[[], float]

    def sleep(self, seconds: float) -> None:
        raise NotImplementedError("no part of a worker that is simulated blocks its thread")


class SteppedLanes(Lanes):
    """The lanes, with their work in the simulator's hands."""

    def __init__(
        self, executor: SteppedExecutor, intake: Intake, open_lane: Any, on_failure: Any, overdue: type[Overdue]
    ) -> None:
        super().__init__(intake, open_lane, on_failure, search_threads=1)
        self._searchers = self._committers = executor  # type: ignore[assignment]
        self._overdue = watched_overdue(overdue)

    async def _open(self, partition: int) -> None:
        await super()._open(partition)
        self._lanes[partition]._overdue = self._overdue(partition, self._intake)


def watched_overdue(overdue: type[Overdue]) -> type[Overdue]:
    """Looks what is due, and raises Violation if the look missed what was in the topics before it."""

    class WatchedOverdue(overdue):  # type: ignore[misc, valid-type]
        def look(self, lane: LaneView, now_ms: int) -> list[Input]:
            log: Log = self._intake.reader._log
            unread = log.read(("completions", lane.partition), lane.offsets.completions + 1)
            answers = [read_completion(record, Limits()) for record in unread]
            begun = {(record.key or b"").decode() for record in log.read(("begun", lane.partition))}
            found: list[Input] = super().look(lane, now_ms)
            events = [each.event for each in found]
            gone_on = [event for event in events if isinstance(event, Unanswered)]
            expired = [one for event in events if isinstance(event, Ticked) for one in event.expired]
            taken = {str(DispatchId(lane.partition, event.offset, event.attempt)) for event in gone_on}
            taken |= {one.dispatch_id for one in expired}
            for answer in answers:
                # What the lane has applied meanwhile is closed, and the router leaves it alone.
                if isinstance(answer, UsableCompletion) and answer.dispatch_id in lane.open:
                    require(answer.dispatch_id not in taken, f"{answer.dispatch_id} was answered before the look")
            for one in expired:
                missed = not one.begun and one.dispatch_id in begun and one.dispatch_id in lane.open
                require(not missed, f"the call of {one.dispatch_id} had begun")
            return found

    return WatchedOverdue


class Watched:
    """Makes a committer class tell its transactions what was decided in them, and the auditor when it is done."""

    def __init__(self, committer: type[Committer], check: Callable[[Committer], None]) -> None:
        self.committer, self.check = committer, check

    def open(self, number: int, settings: Settings, kafka: Kafka, clock: Clock) -> Committer:
        """As committer.open_committer."""
        prior = prior_for(tuple(settings.llms))
        watched = self._watched()(number, settings, Router(number, prior), METRICS, kafka, clock)
        watched.fence()
        watched.restore(prior)
        return watched

    def _watched(self) -> type[Committer]:
        check = self.check

        class WatchedCommitter(self.committer):  # type: ignore[misc, name-defined]
            def _commit_once(self, inputs: Sequence[Input]) -> None:
                self.decided = [each.event for each in inputs]
                super()._commit_once(inputs)
                check(self)

            def _publish(self, *arguments: Any) -> None:
                self._producer.events = self.decided
                super()._publish(*arguments)

        return WatchedCommitter


@cache
def settings_for(llms: tuple[str, ...]) -> Settings:
    """Settings of a worker with these LLMs."""
    return Settings(llms=dict.fromkeys(llms, LlmSettings(budget_usd=Decimal(0))))


class Mailbox:
    """The batches that wait for one agent."""

    def __init__(self) -> None:
        self._batches: deque[tuple[Place, Handover]] = deque()
        self._arrived = asyncio.Event()

    def put(self, batch: tuple[Place, Handover]) -> None:
        """Add a batch."""
        self._batches.append(batch)
        self._arrived.set()

    def clear(self) -> None:
        """Drop all."""
        self._batches.clear()

    async def get(self) -> tuple[Place, Handover]:
        """The oldest batch, as soon as there is one."""
        while not self._batches:
            self._arrived.clear()
            await self._arrived.wait()
        return self._batches.popleft()


class Process:
    """One worker. `running` is false while it is stopped (SIGSTOP), `alive` until it dies, at the gates `died_at`."""

    def __init__(
        self,
        broker: Broker,
        watched: Watched,
        configs: Sequence[Configuration],
        acknowledged: Callable[[str, int, int], None],
        failed: Callable[[BaseException], None],
        producer: Callable[..., Any] = SimulatedProducer,
        client: Callable[[Log], SimulatedClient] = SimulatedClient,
        positions: Callable[[], Positions] = Positions,
        overdue: type[Overdue] = Overdue,
    ) -> None:
        self.broker, self.watched, self.configs = broker, watched, configs
        self.acknowledged, self.failed = acknowledged, failed
        self.alive = self.running = True
        self.skew_ms = 0
        self.died_at: set[str] = set()
        self.work = SteppedExecutor()
        self.kafka = Kafka(SimulatedReader(broker), partial(producer, broker))
        self.clock = SimulatedClock(self.now_ms, broker.seconds)
        self.consumer = SimulatedConsumer(client(broker.log), positions(), broker)
        self.settings = settings_for(configs[0].llms)
        self.intake = self._intake()
        self.lanes = SteppedLanes(self.work, self.intake, self._open, self.die, overdue)
        self.fetched = {topic: Mailbox() for topic in TOPICS}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the agents."""
        for topic in TOPICS:
            self.spawn(self._agent(topic))

    def die(self, error: BaseException | None = None) -> None:
        """As os._exit and SIGKILL: whatever is under way ends where it stands."""
        if not self.alive:
            return
        self.alive = False
        self.died_at = {work.at for work in self.work.pending}
        self.work.kill()
        for task in self._tasks:
            task.cancel()
        if isinstance(error, SkippedRecords):
            # The lane is safe, because it leaves; but the reader must never make it leave.
            self.failed(Violation(str(error)))
        elif error is not None and not isinstance(error, LeaveProcess | CheckBroker):
            self.failed(error)

    async def leave(self) -> None:
        """As on SIGTERM."""
        self.consumer.client.assign({})
        await self.lanes.stop()
        self.die()

    def spawn(self, task: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that dies with the process, and kills it if it fails."""
        started = asyncio.ensure_future(task)
        started.add_done_callback(
            lambda done: None if done.cancelled() or not done.exception() else self.die(done.exception())
        )
        self._tasks.append(started)
        return started

    # The consumer group

    async def revoke(self) -> None:
        """Before a rebalance: no lane begins another transaction, and no fetch begins."""
        await self.lanes.pause()

    async def assign(self, partitions: set[int]) -> None:
        """After it: the client begins at the group's offsets, and the lanes are fenced and restored."""
        places = [(topic, partition) for partition in sorted(partitions) for topic in TOPICS]
        self.consumer.client.assign({place: self.broker.group_offsets[place] for place in places})
        await self.lanes.assign(partitions)
        # Faust drops the batches that no agent has taken, also those that were fetched a moment ago.
        await asyncio.sleep(0.1)
        for topic in TOPICS:
            self.fetched[topic].clear()
        self.consumer.positions.lose()

    # Reading

    def fetch(self, place: Place) -> None:
        """One call of the consumer, as Faust makes while the lanes are ready."""
        if self.lanes.ready.is_set():
            if self.lanes.has_opened():
                self.consumer.positions.lose()
            self.consumer.poll(place, self._applied, lambda place, batch: self.fetched[place[0]].put((place, batch)))

    def _applied(self) -> dict[Place, int]:
        offsets = {place: self.lanes.applied(place[1], place[0]) for place in self.consumer.client.positions}
        return {place: offset for place, offset in offsets.items() if offset is not None}

    async def _agent(self, topic: str) -> None:
        while True:
            # Batches wait for an agent that is slow; an assignment drops those that wait.
            if self.broker.random.random() < SLOW_AGENT:
                await asyncio.sleep(0.2)
            (_, partition), batch = await self.fetched[topic].get()
            if self.consumer.positions.is_current(batch):
                acknowledge = partial(self.acknowledged, topic, partition, batch.records[-1].offset)
                await self.lanes.submit(partition, batch.records, batch.after, acknowledge)

    # Lanes

    def now_ms(self) -> int:
        """The time by this machine's clock."""
        return self.broker.now_ms() + self.skew_ms

    def _intake(self) -> Intake:
        estimator: Any = Estimator(self.configs[0].llms)
        return Intake(self.settings, Preparer(self.settings, estimator, None), self.kafka.reader, METRICS, self.clock)

    def _open(self, partition: int) -> Committer:
        committer = self.watched.open(partition, self.settings, self.kafka, self.clock)
        config, now_ms = self.configs[partition], committer.clock.now_ms()
        if events := opening_events(self.kafka.reader, self.settings, committer.view, config, now_ms):
            committer.commit([Input(event) for event in events])
        return committer
