"""Breaks a whole system at random for some minutes, then proves that nothing was lost, doubled or changed."""

from __future__ import annotations

import math
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
from worker.local.blows import Blows, most_used
from worker.local.cluster import Cluster
from worker.local.counted import Counted, count
from worker.local.follower import DecisionFollower
from worker.local.load import LoadGenerator
from worker.local.noise import Noise
from worker.local.system import Notify, System

PARTITIONS, WORKERS, INFERENCE_WORKERS = 6, 3, 2
SESSION_SECONDS = 3.0
SETTLE_SECONDS = 300.0
# What is committed for lag monitors follows some seconds later.
LAG_SECONDS, LOOK_SECONDS = 60.0, 2.0
GROUP = "chaos"
# Ended in order, left because of Kafka, killed, or ended before it listened to SIGTERM. Others show their log.
EXPECTED_EXITS = (0, 3, -signal.SIGKILL, -signal.SIGTERM)


@dataclass(frozen=True)
class ChaosPlan:
    """The length, the load and the seed of a run. `every_seconds` is the mean time between faults."""

    minutes: float
    rate: float = 150.0
    every_seconds: float = 8.0
    seed: int = 0
    brokers: int = 1

    @property
    def queries(self) -> int:
        """How many are produced."""
        return round(self.minutes * 60 * self.rate)


class ChaosResult(Struct, frozen=True):
    """The result of one run. `faults` and `restarts` are counts.

    `lost` queries were acknowledged and never decided. `verify` finds the `wrong` rows, `replay` the `divergent`
    partitions. `doubled` counts attempts that were published more than once: dispatched twice, or dispatched and
    deferred. `counted` is what a reader found that shares no code with the rest. `most_memory_bytes` and `most_files`
    are those of one worker, at most.
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
    counted: Counted
    most_memory_bytes: int
    most_files: int

    @property
    def ok(self) -> bool:
        """Nothing lost, nothing doubled, nothing wrong, nothing divergent, and the other reader finds the same."""
        return not (self.lost or self.doubled or self.wrong or self.divergent or self.counted.problems)


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

    def __init__(self, system: System, cluster: Cluster, plan: ChaosPlan, notify: Notify) -> None:
        self.system = system
        self.plan = plan
        self._cluster = cluster
        self._notify = notify
        self._dice = random.Random(plan.seed)  # noqa: S311 - repeatable by seed, not secret
        self._blows = Blows(system, cluster, GROUP, SESSION_SECONDS, self._dice)
        self._faults: Counter[str] = Counter()
        self._used: dict[str, int] = {}
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
            with Noise(settings, self.plan.seed) as noise:
                done = lambda: not load.running and _settled(load, watch)  # noqa: E731
                watch.wait("everything to settle", done, limit, lambda: self._step(load, watch, noise))
            load.finish()
            return self._result(settings, load, watch, time.monotonic() - started)
        finally:
            self._blows.mend(math.inf)
            load.stop()
            watch.close()

    def _start(self) -> tuple[Settings, History]:
        past, live = demo_data.split(demo_data.load())
        settings = self.system.prepare(
            past,
            # So that most queries are dispatched, however many there are.
            dict.fromkeys(past.llms, self.plan.queries / 10_000),
            "wordllama",
            kafka={
                "partitions": PARTITIONS,
                "group": GROUP,
                "session_timeout_ms": round(SESSION_SECONDS * 1000),
                "replication_factor": self._cluster.replicas,
            },
            routing={"checkpoint_every": 200, "reservation_seconds": 60, "horizon_queries": self.plan.queries},
            log={"format": "json"},
        )
        for _ in range(INFERENCE_WORKERS):
            self.system.start_inference(latency_ms=50, error_rate=0.01)
        self.system.start_workers(WORKERS)
        return settings, live

    def _step(self, load: LoadGenerator, watch: DecisionFollower, noise: Noise) -> None:
        now = time.monotonic()
        if not load.running:
            noise.stop()
        self._blows.mend(now if load.running else math.inf)
        for child in self.system.processes.children:
            if not child.running and child.exit_code not in EXPECTED_EXITS:
                self._notify(f"{child.name} ended with {child.exit_code}:\n{child.tail(40)}")
        self.system.processes.revive()
        if load.running and now >= self._next:
            self._used = most_used(self.system.processes.children, self._used)
            blow = self._blows.draw()
            self._notify(f"{blow}; {len(watch.decided):,} queries decided, {watch.open} dispatches open")
            self._blows.strike(blow, now)
            self._faults[blow] += 1
            self._next = time.monotonic() + self._dice.uniform(0.5, 1.5) * self.plan.every_seconds

    def _result(self, settings: Settings, load: LoadGenerator, watch: DecisionFollower, seconds: float) -> ChaosResult:
        self._notify("reading everything back: verify")
        report, doubled = run_verify.verify(settings), _doubled(settings)
        self._notify("counting everything by another reader")
        counted = self._counted(settings)
        self._notify("deciding everything again: replay")
        replayed = list(run_replay.replay(settings, run_replay.Task()))
        divergences = [str(one.divergence) for one in replayed if one.divergence is not None]
        return ChaosResult(
            seed=self.plan.seed,
            seconds=round(seconds, 1),
            queries=len(load.sent),
            faults=dict(self._faults),
            restarts=self.system.processes.restarts,
            exits=dict(self.system.processes.exits),
            lost=len(load.sent.keys() - watch.decided.keys()),
            doubled=doubled,
            wrong=report.wrong,
            divergent=len(divergences),
            replayed=sum(one.compared for one in replayed),
            report=report,
            divergences=divergences,
            counted=counted,
            most_memory_bytes=self._used.get("memory_bytes", 0),
            most_files=self._used.get("files", 0),
        )

    def _counted(self, settings: Settings) -> Counted:
        """As soon as nothing waits to be read, or as it is after some time."""
        kafka, until = settings.kafka, time.monotonic() + LAG_SECONDS
        while True:
            counted = count(kafka.bootstrap_servers, kafka.topic_prefix, kafka.group)
            if counted.lag == 0 or time.monotonic() > until:
                return counted
            self.system.processes.revive()
            time.sleep(LOOK_SECONDS)


def _settled(load: LoadGenerator, watch: DecisionFollower) -> bool:
    return watch.open == 0 and load.sent.keys() <= watch.decided.keys()


def _doubled(settings: Settings) -> int:
    topics, published = settings.topics, Published(settings.topics)
    names = [*(topics.dispatch(llm) for llm in settings.llms), topics.deferred]
    with KafkaReader(settings) as reader:
        places = [(name, partition) for name in names for partition in range(settings.kafka.partitions)]
        for record in reader.read(reader.oldest(places)):
            published.take(record)
    return published.doubled
