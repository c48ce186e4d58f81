"""One simulated run: traffic, workers and faults in an order that the seed decides, audited after every step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from msgspec.structs import replace

from tests.drive import ConfigurationChanges, config
from tests.simulation.auditor import Auditor, Violation
from tests.simulation.broker import Broker, SimulatedProducer
from tests.simulation.consumer import SimulatedClient
from tests.simulation.process import Process, Watched
from tests.simulation.steps import SimulatedLoop
from tests.simulation.traffic import Traffic
from worker.contract.messages import Configuration
from worker.kafka.memory import FencedError, Log, Transaction
from worker.service.committer import Committer
from worker.service.positions import Positions

STEPS = 500
CALM_STEPS = 20_000
FAILURES = 0.01
# A member that does not answer a rebalance for so long is left out of it.
REBALANCE_SECONDS = 10.0
TRANSACTION_TIMEOUT_MS = 20_000


@dataclass(frozen=True)
class Parts:
    """What a run is made of; a planted bug replaces one of them."""

    committer: type[Committer] = Committer
    producer: Callable[..., Any] = SimulatedProducer
    client: type[SimulatedClient] = SimulatedClient
    positions: type[Positions] = Positions


class World:
    """The log, the workers and the consumer group. `run` raises Violation where something is wrong."""

    def __init__(self, seed: int, loop: SimulatedLoop, parts: Parts) -> None:
        self.random = Random(seed)
        self.loop, self.parts = loop, parts
        self.partitions = self.random.randrange(1, 4)
        self.size = self.random.randrange(1, 4)
        self.log = Log(self._committed)
        self.broker = Broker(self.log, self.random, loop.time, FAILURES)
        self.traffic = Traffic(self.log, self.random, self.partitions)
        self.auditor = Auditor(self.log, self.partitions, self.broker.decided)
        self.watched = Watched(parts.committer, self._check_memory)
        self.configs = self._configs()
        self.processes: list[Process] = []
        self.members: list[Process] = []
        self.group: asyncio.Task[None] | None = None
        self.errors: list[BaseException] = []

    def now_ms(self) -> int:
        """Simulated time."""
        return self.broker.now_ms()

    async def run(self) -> None:
        """Faults and traffic; then calm, until everything is applied; then the last checks."""
        for _ in range(STEPS):
            self._act(self._choose())
            await self._step()
        self._calm_down()
        await self._finish()
        await self._expire_all()
        self.auditor.check_end(self.traffic.committed)

    async def _step(self) -> None:
        if self.random.random() < 0.2:
            await asyncio.sleep(self.random.choice((0.01, 0.1, 0.1, 1.0)))
        await self.loop.settle()
        if self.errors:
            raise self.errors[0]

    async def _finish(self) -> None:
        for _ in range(CALM_STEPS):
            if not self.traffic.due and not self.auditor.unapplied():
                return
            self._act(self.random.choices(*CALM)[0])
            await self._step()
        raise Violation(f"stuck: {self.auditor.unapplied()} are not applied")

    async def _expire_all(self) -> None:
        """Every reservation without an answer expires in the end."""
        for _ in range(CALM_STEPS):
            if not any(books.open for books in self.auditor.books):
                return
            self.work()
            await asyncio.sleep(0.1)
            await self._step()
        raise Violation("stuck: reservations past their deadline stay open")

    def _calm_down(self) -> None:
        self.broker.failures = 0.0
        for process in self.running(alive=False):
            process.running, process.skew_ms = True, 0

    # What can happen

    def _choose(self) -> str:
        actions, weights = FAULTS if self.random.random() < 0.08 else USUAL
        return self.random.choices(actions, weights)[0]

    def _act(self, action: str) -> None:
        getattr(self, action)()

    def work(self) -> None:
        """A running worker goes on to its next gate."""
        ready = [process for process in self.running() if process.work.pending]
        if ready:
            process = self.random.choice(ready)
            process.work.step(self.random.randrange(len(process.work.pending)))

    def fetch(self) -> None:
        """A running worker fetches from one of its inputs."""
        ready = [(process, place) for process in self.running() for place in process.consumer.client.positions]
        if ready:
            process, place = self.random.choice(ready)
            process.fetch(place)

    def queries(self) -> None:
        """Queries arrive."""
        self.traffic.produce_queries(self.now_ms())

    def completions(self) -> None:
        """A completion arrives."""
        self.traffic.deliver(self.now_ms())

    def tend(self) -> None:
        """The supervisor restarts what died; the group rebalances when its members changed."""
        alive = self.running(alive=False)
        if len(alive) < self.size:
            self._start()
        if self.group is None or self.group.done():
            running = self.running()
            if running != [member for member in self.members if member.alive]:
                self.rebalance()

    def rebalance(self) -> None:
        """The group takes its partitions from its members and gives them out anew."""
        if self.group is None or self.group.done():
            self.group = asyncio.ensure_future(self._rebalance())

    async def _rebalance(self) -> None:
        candidates = self.running()
        pauses = [process.spawn(process.revoke()) for process in candidates]
        if pauses:
            await asyncio.wait(pauses, timeout=REBALANCE_SECONDS)
        self.members = [
            process for process, pause in zip(candidates, pauses, strict=True) if pause.done() and process.alive
        ]
        owners = [self.random.choice(self.members) for _ in range(self.partitions)] if self.members else []
        for member in self.members:
            member.spawn(member.assign({number for number, owner in enumerate(owners) if owner is member}))

    # Faults

    def kill(self) -> None:
        """SIGKILL."""
        if alive := self.running(alive=False):
            self.random.choice(alive).die()

    def terminate(self) -> None:
        """SIGTERM: it finishes the transactions under way and leaves."""
        if running := self.running():
            process = self.random.choice(running)
            process.spawn(process.leave())

    def stop(self) -> None:
        """SIGSTOP: the group gives its partitions to others, and it does not know."""
        if running := self.running():
            self.random.choice(running).running = False

    def wake(self) -> None:
        """SIGCONT: it goes on where it was, owner or not."""
        if stopped := [process for process in self.processes if process.alive and not process.running]:
            self.random.choice(stopped).running = True

    def sleep(self) -> None:
        """Time goes by: reservations expire, and the coordinator ends transactions that take too long."""
        self.log.time_out(self.now_ms() - TRANSACTION_TIMEOUT_MS)
        self.loop.create_task(asyncio.sleep(self.random.choice((5, 30))))

    def jump(self) -> None:
        """A clock jumps, forwards or backwards."""
        if alive := self.running(alive=False):
            self.random.choice(alive).skew_ms = self.random.choice((-60_000, -500, 500, 8_000, 60_000))

    def compact(self) -> None:
        """The cleaner passes over a ledger partition."""
        self.log.compact(("ledger", self.random.randrange(self.partitions)), self.now_ms() - 60_000)

    def late_end(self) -> None:
        """An EndTxn that a client sent twice arrives now."""
        if self.broker.late:
            late = self.broker.late.pop(self.random.randrange(len(self.broker.late)))
            with suppress(FencedError):
                self.log.end(late.transactional_id, late.epoch)

    def reconfigure(self) -> None:
        """Workers that start from now on have other settings."""
        self.configs = self._configs()

    def forget(self) -> None:
        """Queries that were applied leave their topic."""
        partition = self.random.randrange(self.partitions)
        self.log.delete(("queries", partition), self.auditor.books[partition].offsets.queries - 20)

    # Parts

    def running(self, alive: bool = True) -> list[Process]:
        """The workers that run; with `alive` False also those that are stopped."""
        return [process for process in self.processes if process.alive and (process.running or not alive)]

    def _start(self) -> None:
        parts = self.parts
        process = Process(
            self.broker,
            self.watched,
            self.configs,
            self._acknowledged,
            self.errors.append,
            parts.producer,
            parts.client,
            parts.positions,
        )
        self.processes.append(process)
        process.start()

    def _configs(self) -> list[Configuration]:
        pick = self.random.choice
        llms = ("large", "medium", "small", "tiny")[: pick((3, 4))]
        changes: ConfigurationChanges = {
            "llms": llms,
            "index": f"index of {len(llms)}",
            "margins": (pick((1.0, 1.2)),) * len(llms),
            "policy": pick(("priced", "priced", "port")),
            "window_queries": pick((10, 30)),
            "max_attempts": pick((1, 2, 3)),
            "reservation_ms": pick((3_000, 10_000)),
            "checkpoint_every": pick((3, 10)),
            "horizon_queries": pick((0, 60)),
        }
        scale = pick((1, 5, 20))
        budgets = [{llm: self.random.randrange(200, 1_500) * scale for llm in llms} for _ in range(self.partitions)]
        return [replace(config(**changes), budget_micros=budget) for budget in budgets]

    # What the auditor hears

    def _committed(self, transaction: Transaction) -> None:
        if transaction.transactional_id.startswith("tollgate-"):
            self._audit(lambda: self.auditor.committed(transaction))
            self.traffic.answer(transaction)

    def _check_memory(self, committer: Committer) -> None:
        producer: Any = committer._producer
        if producer.is_current:
            self._audit(lambda: self.auditor.check_memory(committer.router))

    def _acknowledged(self, topic: str, partition: int, offset: int) -> None:
        self._audit(lambda: self.auditor.check_acknowledged(topic, partition, offset))
        if self.random.random() < 0.3:
            self.broker.group_offsets[topic, partition] = offset + 1

    def _audit(self, check: Callable[[], None]) -> None:
        # Wherever it is noticed, in a worker's thread or in a callback, the run ends with it.
        try:
            check()
        except Exception as error:
            self.errors.append(error)


USUAL = (("work", "fetch", "queries", "completions", "tend"), (60, 15, 4, 15, 6))
CALM = (("work", "fetch", "completions", "tend"), (60, 15, 15, 6))
FAULTS = (
    ("kill", "terminate", "stop", "wake", "sleep", "jump", "compact", "late_end", "reconfigure", "forget", "rebalance"),
    (15, 5, 20, 20, 10, 5, 10, 40, 5, 5, 15),
)


def simulate(seed: int, parts: Parts = Parts()) -> World:
    """One run. Raises Violation, or whatever a worker failed with that is neither LeaveProcess nor CheckBroker."""
    loop = SimulatedLoop()
    world = World(seed, loop, parts)
    try:
        loop.run(world.run())
    finally:
        for process in world.processes:
            process.work.kill()
    return world
