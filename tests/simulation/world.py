"""One simulated run: traffic, workers and faults in an order that the seed decides, audited after every step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any, NamedTuple

from msgspec.structs import replace

from tests.drive import ConfigurationChanges, config, kinds, of_llms
from tests.simulation.auditor import Auditor, Violation
from tests.simulation.broker import Broker, SimulatedProducer
from tests.simulation.consumer import SimulatedClient
from tests.simulation.process import Process, Watched
from tests.simulation.steps import START_SECONDS, SimulatedLoop
from tests.simulation.traffic import Traffic
from worker.contract.accounts import Budget
from worker.contract.messages import Configuration
from worker.contract.token_costs import PriceList
from worker.kafka.memory import FencedError, Log, Transaction
from worker.service.committer import Committer
from worker.service.overdue import Overdue
from worker.service.positions import Positions

PRICE_LIST = PriceList(Decimal(1), Decimal(4))
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
    overdue: type[Overdue] = Overdue


SOUND = Parts()
# Hears of each step.
Tell = Callable[[str], None]


class Step(NamedTuple):
    """One choice of a run: an action of `World`, the seed of everything random in it, and the pause after it."""

    number: int
    action: str
    seed: int
    pause_seconds: float


def plan(seed: int) -> list[Step]:
    """The steps of a run. Each has a seed of its own, so a run without some of them keeps the others as they are."""
    random = Random(f"the steps of {seed}")
    steps = []
    for number in range(STEPS):
        actions, weights = FAULTS if random.random() < 0.08 else USUAL
        [action] = random.choices(actions, weights)
        pause = random.choice((0.01, 0.1, 0.1, 1.0)) if random.random() < 0.2 else 0.0
        steps.append(Step(number, action, random.getrandbits(64), pause))
    return steps


class World:
    """The log, the workers and the consumer group. `run` raises Violation if something is wrong.

    `tell` hears of each step when it is taken.
    """

    def __init__(
        self, seed: int, loop: SimulatedLoop, parts: Parts, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        # Everything random in the run draws from here.
        self.random = Random(seed)
        self.seed, self.loop, self.parts, self.tell = seed, loop, parts, tell
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

    async def run(self, steps: Iterable[Step]) -> None:
        """Faults and traffic; then calm, until everything is applied; then the last checks."""
        for step in steps:
            self.random.seed(step.seed)
            seconds, told = self.loop.time() - START_SECONDS, getattr(self, step.action)()
            self.tell(f"step {step.number:>3}  {seconds:>8.2f} s  {step.action:<12} {told or 'nothing to do'}")
            await self._settle(step.pause_seconds)
        self.tell("calm: no more faults, until everything is applied")
        self.random.seed(self.seed)
        self._calm_down()
        await self._finish()
        await self._expire_all()
        self.auditor.check_end(self.traffic.committed)

    async def _settle(self, pause_seconds: float) -> None:
        if pause_seconds > 0:
            await asyncio.sleep(pause_seconds)
        await self.loop.settle()
        if self.errors:
            raise self.errors[0]

    async def _finish(self) -> None:
        for _ in range(CALM_STEPS):
            if not self.traffic.due and not self.auditor.unapplied():
                return
            getattr(self, self.random.choices(*CALM)[0])()
            await self._settle(0.1 if self.random.random() < 0.2 else 0.0)
        raise Violation(f"stuck: {self.auditor.unapplied()} are not applied")

    async def _expire_all(self) -> None:
        """Every reservation without an answer expires in the end."""
        for _ in range(CALM_STEPS):
            if not any(books.open for books in self.auditor.books):
                return
            self.work()
            await self._settle(0.1)
        raise Violation("stuck: reservations past their deadline stay open")

    def _calm_down(self) -> None:
        self.broker.failures = self.broker.dropped = 0.0
        for process in self.running(alive=False):
            process.running, process.skew_ms = True, 0

    # What can happen

    # Each action says what it did; None if there was nothing to do.

    def work(self) -> str | None:
        """A running worker goes on to its next gate."""
        ready = [process for process in self.running() if process.work.pending]
        if not ready:
            return None
        process = self.random.choice(ready)
        work = process.work.step(self.random.randrange(len(process.work.pending)))
        return f"{self._name(process)}: on to: {work.at}"

    def fetch(self) -> str | None:
        """A running worker fetches from one of its inputs."""
        ready = [(process, place) for process in self.running() for place in process.consumer.client.positions]
        if not ready:
            return None
        process, place = self.random.choice(ready)
        process.fetch(place)
        return f"{self._name(process)}: {place[0]}/{place[1]}"

    def queries(self) -> str:
        """Queries arrive."""
        before = len(self.traffic.committed)
        self.traffic.produce_queries(self.now_ms())
        return f"{len(self.traffic.committed) - before} arrive"

    def completions(self) -> str | None:
        """A completion arrives."""
        return "one arrives" if self.traffic.deliver(self.now_ms()) else None

    def tend(self) -> str | None:
        """The supervisor restarts what died; the group rebalances when its members changed."""
        started = self._start() if len(self.running(alive=False)) < self.size else None
        if self.group is None or self.group.done():
            running = self.running()
            if running != [member for member in self.members if member.alive]:
                self.rebalance()
                return f"{f'starts {self._name(started)}; ' if started else ''}the group rebalances"
        return f"starts {self._name(started)}" if started else None

    def rebalance(self) -> str | None:
        """The group takes its partitions from its members and gives them out again."""
        if self.group is not None and not self.group.done():
            return None
        self.group = asyncio.ensure_future(self._rebalance())
        return "the group rebalances"

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

    def kill(self) -> str | None:
        """SIGKILL."""
        process = self._one(self.running(alive=False))
        if process is not None:
            process.die()
        return self._name(process)

    def terminate(self) -> str | None:
        """SIGTERM: it finishes the open transactions and leaves."""
        process = self._one(self.running())
        if process is not None:
            process.spawn(process.leave())
        return self._name(process)

    def stop(self) -> str | None:
        """SIGSTOP: the group gives its partitions to others, and it does not know."""
        process = self._one(self.running())
        if process is not None:
            process.running = False
        return self._name(process)

    def wake(self) -> str | None:
        """SIGCONT: it goes on where it was, owner or not."""
        process = self._one([process for process in self.processes if process.alive and not process.running])
        if process is not None:
            process.running = True
        return self._name(process)

    def sleep(self) -> str:
        """Time goes by: reservations expire, and the coordinator ends transactions that take too long."""
        self.log.time_out(self.now_ms() - TRANSACTION_TIMEOUT_MS)
        seconds = self.random.choice((5, 30))
        self.loop.create_task(asyncio.sleep(seconds))
        return f"{seconds} s"

    def jump(self) -> str | None:
        """A clock jumps, forwards or backwards."""
        process = self._one(self.running(alive=False))
        if process is None:
            return None
        process.skew_ms = self.random.choice((-600_000, -60_000, -500, 500, 8_000, 60_000, 600_000))
        return f"{self._name(process)}: the clock is {process.skew_ms} ms off"

    def compact(self) -> str:
        """The cleaner passes over a ledger partition."""
        place = "ledger", self.random.randrange(self.partitions)
        self.log.compact(place, self.now_ms() - 60_000)
        return f"{place[0]}/{place[1]}"

    def late_end(self) -> str | None:
        """An EndTxn that a client sent twice arrives now."""
        if not self.broker.late:
            return None
        late = self.broker.late.pop(self.random.randrange(len(self.broker.late)))
        with suppress(FencedError):
            self.log.end(late.transactional_id, late.epoch)
        return f"{late.transactional_id}, epoch {late.epoch}"

    def reconfigure(self) -> str:
        """Workers that start from now on have other settings."""
        self.configs = self._configs()
        return "for workers that start from now on"

    def forget(self) -> str:
        """Queries that were applied leave their topic."""
        partition = self.random.randrange(self.partitions)
        before = self.auditor.books[partition].offsets.queries - 20
        self.log.delete(("queries", partition), before)
        return f"queries/{partition}: the offsets before {before}"

    def _one(self, processes: Sequence[Process]) -> Process | None:
        return self.random.choice(processes) if processes else None

    def _name(self, process: Process | None) -> str | None:
        return None if process is None else f"worker {self.processes.index(process)}"

    # Parts

    def running(self, alive: bool = True) -> list[Process]:
        """The workers that run; with `alive` False also those that are stopped."""
        return [process for process in self.processes if process.alive and (process.running or not alive)]

    def _start(self) -> Process:
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
            parts.overdue,
        )
        self.processes.append(process)
        process.start()
        return process

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
            "unanswered_ms": pick(((), (1_000,) * len(llms), (4_000,) * len(llms))),
            "checkpoint_every": pick((3, 10)),
            "horizon_queries": pick((0, 60)),
            "probe_ms": (probe_ms := pick((0, 2_000, 10_000))),
            "first_probe_ms": probe_ms // 2,
            "context_tokens": dict(zip(llms, (8_000, 32_000), strict=False)),
            "defers_filtered": pick((True, False)),
            "unknown_model": "ignore",
            "kinds": kinds(len(llms)) if self.seed % 2 else None,
        }
        changes["price_lists"] = dict.fromkeys(llms, PRICE_LIST)
        return [replace(config(**changes), budgets=self._budgets(llms)) for _ in range(self.partitions)]

    def _budgets(self, llms: tuple[str, ...]) -> tuple[Budget, ...]:
        """A budget of each LLM, and sometimes others that overlap them, in every resource, over all queries or some."""
        scale = self.random.choice((1, 5, 20))
        own = of_llms({llm: self.random.randrange(200, 1_500) * scale for llm in llms})
        others = (
            Budget("company", "usd", self.random.randrange(1_000, 4_000) * scale),
            Budget("team", "usd", self.random.randrange(100, 500) * scale, tags={"team": "team-0"}),
            Budget("tokens", "tokens", self.random.randrange(500, 5_000) * scale, llms[:2]),
            Budget("team tokens", "tokens", self.random.randrange(200, 900) * scale, tags={"team": "team-1"}),
            Budget("requests", "requests", self.random.randrange(5, 30) * scale, (llms[0],)),
            Budget("open", "open", self.random.randrange(1, 6), llms[:1]),
        )
        return own + tuple(budget for budget in others if self.random.random() < 0.5)

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


def simulate(
    seed: int, parts: Parts = SOUND, steps: Iterable[Step] | None = None, tell: Tell = lambda _: None
) -> World:
    """One run, of all steps of a seed or of these.

    Raises Violation, or the error of a worker that is neither LeaveProcess nor CheckBroker.
    """
    loop = SimulatedLoop()
    world = World(seed, loop, parts, tell)
    try:
        loop.run(world.run(plan(seed) if steps is None else steps))
    finally:
        for process in world.processes:
            process.work.kill()
    return world
