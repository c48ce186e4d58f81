"""Breaks a whole system at random for some minutes, then proves that nothing was lost, doubled or changed."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass

from msgspec import Struct

from worker.audit import run_replay, run_verify
from worker.audit.report import Report
from worker.contract import codec
from worker.contract.dispatch_id import DispatchId
from worker.contract.record import Record
from worker.contract.settings import Settings
from worker.contract.topic_names import TopicNames
from worker.estimation import demo_data
from worker.estimation.history import History
from worker.kafka.reader import KafkaReader
from worker.local.follower import DecisionFollower
from worker.local.load import LoadGenerator
from worker.local.processes import Child
from worker.local.system import Notify, System

PARTITIONS, WORKERS, INFERENCE_WORKERS = 6, 3, 2
SESSION_SECONDS = 3.0
SETTLE_SECONDS = 300.0
# Faults and their weights. The broker is killed rarely: it needs seconds to start, and nothing else breaks meanwhile.
FAULTS = {
    "kill a worker": 5,
    "stop a worker": 3,
    "end a worker": 2,
    "kill an inference worker": 1,
    "kill the broker": 1,
}

# Ended in order, left because of Kafka, killed, or ended before it listened to SIGTERM. Others show their log.
EXPECTED_EXITS = (0, 3, -signal.SIGKILL, -signal.SIGTERM)


@dataclass(frozen=True)
class ChaosPlan:
    """The length, the load and the seed of a run. `every_seconds` is the mean time between faults."""

    minutes: float
    rate: float = 150.0
    every_seconds: float = 8.0
    seed: int = 0

    @property
    def queries(self) -> int:
        """How many are produced."""
        return round(self.minutes * 60 * self.rate)


class ChaosResult(Struct, frozen=True):
    """The result of one run. `faults` and `restarts` are counts.

    `verify` finds the `lost` queries and the `wrong` rows, `replay` the `divergent` partitions. `doubled` counts
    attempts that were published more than once: dispatched twice, or dispatched and deferred.
    """

    seed: int
    seconds: float
    queries: int
    faults: dict[str, int]
    restarts: int
    exits: dict[int, int]
    lost: int
    doubled: int
    wrong: int
    divergent: int
    replayed: int
    report: Report
    divergences: list[str]

    @property
    def ok(self) -> bool:
        """Nothing lost, nothing doubled, nothing wrong, nothing divergent."""
        return not (self.lost or self.doubled or self.wrong or self.divergent)


class Published:
    """Counts the published records of each attempt. `take` every record of the dispatch topics and of `deferred`."""

    def __init__(self, topics: TopicNames) -> None:
        self._topics = topics
        self._attempts: Counter[str] = Counter()

    def take(self, record: Record) -> None:
        """The next record."""
        value = record.value or b""
        if record.topic == self._topics.deferred:
            deferred = codec.decode_deferred(value)
            origin = deferred.origin
            self._attempts[str(DispatchId(origin.partition, origin.offset, deferred.attempt))] += 1
        else:
            self._attempts[codec.decode_dispatch(value).id] += 1

    @property
    def doubled(self) -> int:
        """The number of records beyond one for each attempt."""
        return self._attempts.total() - len(self._attempts)


class Chaos:
    """One run on a prepared directory; the system's processes are ended by its context manager."""

    def __init__(self, system: System, plan: ChaosPlan, notify: Notify) -> None:
        self.system = system
        self.plan = plan
        self._notify = notify
        self._dice = random.Random(plan.seed)  # noqa: S311 - repeatable by seed, not secret
        self._faults: Counter[str] = Counter()
        self._stopped: dict[str, float] = {}
        self._next = 0.0

    def run(self) -> ChaosResult:
        """Load, break, settle, audit and replay. Raises CheckFailed if it does not settle."""
        settings, live = self._start()
        load, watch = LoadGenerator(settings, live, self.plan.queries, self.plan.rate), DecisionFollower(settings)
        started = time.monotonic()
        self._next = started + self.plan.every_seconds
        load.start()
        limit = self.plan.minutes * 60 + SETTLE_SECONDS
        try:
            done = lambda: not load.running and len(watch.decided) >= len(load.sent) and watch.open == 0  # noqa: E731
            watch.wait("everything to settle", done, limit, lambda: self._step(load, watch))
            return self._result(settings, load.finish(), time.monotonic() - started)
        finally:
            self._wake(time.monotonic() + SETTLE_SECONDS)
            load.stop()
            watch.close()

    def _start(self) -> tuple[Settings, History]:
        past, live = demo_data.split(demo_data.load())
        settings = self.system.prepare(
            past,
            # So that most queries are dispatched, however many there are.
            dict.fromkeys(past.llms, self.plan.queries / 10_000),
            "wordllama",
            kafka={"partitions": PARTITIONS, "group": "chaos", "session_timeout_ms": round(SESSION_SECONDS * 1000)},
            routing={"checkpoint_every": 200, "reservation_seconds": 60, "horizon_queries": self.plan.queries},
            log={"format": "json"},
        )
        for _ in range(INFERENCE_WORKERS):
            self.system.start_inference(latency_ms=50, error_rate=0.01)
        self.system.start_workers(WORKERS)
        return settings, live

    def _step(self, load: LoadGenerator, watch: DecisionFollower) -> None:
        now = time.monotonic()
        self._wake(now)
        for child in self.system.processes.children:
            if not child.running and child.exit_code not in EXPECTED_EXITS:
                self._notify(f"{child.name} ended with {child.exit_code}:\n{child.tail(40)}")
        self.system.processes.revive()
        if load.running and now >= self._next:
            [fault] = self._dice.choices(list(FAULTS), list(FAULTS.values()))
            self._notify(f"{fault}; {len(watch.decided):,} queries decided, {watch.open} dispatches open")
            self._inject(fault, now)
            self._faults[fault] += 1
            self._next = time.monotonic() + self._dice.uniform(0.5, 1.5) * self.plan.every_seconds

    def _inject(self, fault: str, now: float) -> None:
        worker = self._dice.choice(self.system.workers)
        match fault:
            case "kill a worker":
                worker.send(signal.SIGKILL)
            case "end a worker":
                worker.send(signal.SIGTERM)
            case "stop a worker":
                worker.send(signal.SIGSTOP)
                self._stopped.setdefault(worker.name, now + SESSION_SECONDS * self._dice.uniform(1.2, 3))
            case "kill an inference worker":
                self._dice.choice(self.system.inference).send(signal.SIGKILL)
            case "kill the broker":
                self.system.broker.kill()
                self.system.broker.start()

    def _wake(self, now: float) -> None:
        for name in [name for name, until in self._stopped.items() if now >= until]:
            del self._stopped[name]
            self._worker(name).send(signal.SIGCONT)

    def _worker(self, name: str) -> Child:
        return next(worker for worker in self.system.workers if worker.name == name)

    def _result(self, settings: Settings, queries: int, seconds: float) -> ChaosResult:
        self._notify("reading everything back: verify")
        report, doubled = run_verify.verify(settings), _doubled(settings)
        self._notify("deciding everything again: replay")
        replayed = list(run_replay.replay(settings, run_replay.Task()))
        divergences = [str(one.divergence) for one in replayed if one.divergence is not None]
        return ChaosResult(
            seed=self.plan.seed,
            seconds=round(seconds, 1),
            queries=queries,
            faults=dict(self._faults),
            restarts=self.system.processes.restarts,
            exits=dict(self.system.processes.exits),
            lost=queries - report.counts.queries,
            doubled=doubled,
            wrong=report.wrong,
            divergent=len(divergences),
            replayed=sum(one.compared for one in replayed),
            report=report,
            divergences=divergences,
        )


def _doubled(settings: Settings) -> int:
    topics, published = settings.topics, Published(settings.topics)
    names = [*(topics.dispatch(llm) for llm in settings.llms), topics.deferred]
    with KafkaReader(settings) as reader:
        places = [(name, partition) for name in names for partition in range(settings.kafka.partitions)]
        for record in reader.read(reader.oldest(places)):
            published.take(record)
    return published.doubled
