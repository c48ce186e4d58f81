"""The demo: a real Kafka, workers of which one is killed, inference, real queries, and the proof of the books."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import Struct

from worker.audit import run_verify
from worker.audit.report import Report
from worker.contract.errors import CheckFailed, FixSetting
from worker.contract.settings import Settings
from worker.estimation import demo_data, index
from worker.estimation.history import History
from worker.evaluation import scenario, simulate
from worker.evaluation.baselines import at_random
from worker.local.broker import FAST_START, Broker, running
from worker.local.demo_directory import is_own
from worker.local.follower import DecisionFollower
from worker.local.load import LoadGenerator
from worker.local.system import System

PARTITIONS = 4
MICROS_PER_USD = 1_000_000
SETTLE_SECONDS = 120.0
# A rate at which two cores are not full.
STEADY_QUERIES, STEADY_RATE = 300, 50.0
READ_AFTER_SECONDS = 0.25
# In a directory that a demo made, and may delete.
MARK = ".tollgate-demo"


@dataclass(frozen=True)
class DemoPlan:
    """The first queries come at STEADY_RATE a second, the others at `rate`. `kill`: a worker is killed in the burst."""

    queries: int = 2_000
    rate: float = 250.0
    workers: int = 2
    latency_ms: float = 40.0
    error_rate: float = 0.02
    kill: bool = True

    @property
    def steady(self) -> int:
        """The number of queries before the burst."""
        return min(STEADY_QUERIES, self.queries // 3)


@dataclass(frozen=True)
class Stage:
    """Progress of one part of the demo: `done` of `total` (None: unknown). `steps`: it is a step of the start."""

    name: str
    done: int
    total: int | None
    steps: bool = False


Show = Callable[[Stage], None]


class Machine(Struct, frozen=True):
    """The machine when the demo started. `load` is the mean number of running processes in the minute before."""

    cores: int
    load: float


class Latency(Struct, frozen=True):
    """How long `queries` at `rate` a second took from produced to decided, as a read_committed reader sees them."""

    queries: int
    rate: float
    p50_ms: float
    p99_ms: float


class Timing(Struct, frozen=True):
    """`steady` is measured before the burst, `burst` from its start to the kill.

    `decided_per_second` is that of the whole burst. `takeover_seconds` is the time from the kill until every partition
    decided new queries again (None: no kill).
    """

    steady: Latency
    burst: Latency
    decided_per_second: float
    takeover_seconds: float | None


class DemoResult(Struct, frozen=True):
    """`quality` is the sum of the recorded scores of all answers.

    `rivals` are the same queries under the same budgets, routed at random and by the paper's PORT, as the worker's
    ledger charges them.
    """

    machine: Machine
    policy: str
    quality: float
    rivals: dict[str, float]
    timing: Timing
    report: Report


def own_directory(directory: Path) -> Path:
    """Make the demo's directory, for this user alone; an old demo in it is deleted.

    Raises FixSetting if the directory is not this user's, is in use, or holds files that are not a demo's.
    """
    if os.path.lexists(directory) and not is_own(directory):
        raise FixSetting(f"{directory} is no directory of yours; name another with --directory")
    if (found := running(directory / "kafka")) is not None:
        raise FixSetting(f"a demo is running in {directory} (Kafka is process {found[0]}): end it, or use --directory")
    if directory.exists() and any(directory.iterdir()) and not (directory / MARK).exists():
        raise FixSetting(
            f"{directory} holds files that are not a demo's; delete them, or name another with --directory"
        )
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True)
    (directory / MARK).touch()
    return directory


def forget(directory: Path) -> None:
    """Remove the demo's directory."""
    shutil.rmtree(directory, ignore_errors=True)


class Demo:
    """The demo's parts in their order. Use it as a context manager: it ends everything that it started."""

    def __init__(self, directory: Path, plan: DemoPlan, show: Show) -> None:
        self.plan = plan
        self.past, drawn = demo_data.split(demo_data.load())
        self.live = drawn.rows(np.arange(plan.queries) % len(drawn.ids))
        self._show = show
        self.broker = Broker(directory / "kafka", java_options=FAST_START)
        self.system = System(directory, self.broker)
        self.machine = Machine(os.cpu_count() or 1, round(os.getloadavg()[0], 1))
        self.killed_at: float | None = None

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *_: object) -> None:
        self.system.processes.__exit__(None, None, None)
        self.broker.stop()

    def run(self) -> DemoResult:
        """Start everything, route the queries, and prove the books. Raises CheckFailed where a part ends early."""
        settings = self.start()
        return self.result(settings, self.route(settings))

    def start(self) -> Settings:
        """Start Kafka, build the index meanwhile, create the topics, start the workers."""
        steps = iter(range(1, 5))

        def step(name: str) -> None:
            self._show(Stage(name, next(steps), 4, steps=True))

        step(f"starting Kafka, building the index of {len(self.past.ids):,} past queries")
        place = self.system.directory / "index"
        with ThreadPoolExecutor(1) as beside:
            building = beside.submit(index.build, self.past, place, "wordllama")
            self.broker.start(lambda doing: self._show(Stage(doing, 1, 4, steps=True)))
            building.result()
        step("creating topics")
        settings = self._prepare()
        step(f"starting {self.plan.workers} workers and an inference worker")
        self.system.start_inference(self.plan.latency_ms, self.plan.error_rate)
        self.system.start_workers(self.plan.workers)
        step("ready")
        return settings

    def _prepare(self) -> Settings:
        prior = index.load(self.system.directory / "index").prior
        budgets_micros = scenario.budgets(self.past, self.live, scenario.Plan(), 0, prior)
        return self.system.prepare(
            self.past,
            dict(zip(self.live.llms, (budgets_micros / MICROS_PER_USD).tolist(), strict=True)),
            "wordllama",
            # A killed worker's partitions move after the session timeout; a demo does not want to wait the usual 10 s.
            kafka={"partitions": PARTITIONS, "group": "tollgate-demo", "session_timeout_ms": 3_000},
            # Each lane sees a quarter of the queries; it solves its prices five times on the way.
            routing={
                "horizon_queries": self.plan.queries,
                "horizon_floor_queries": 100,
                "resolve_every_queries": max(1, self.plan.queries // (PARTITIONS * 5)),
            },
            log={"format": "json"},
        )

    def route(self, settings: Settings) -> Timing:
        """Route some queries at a steady rate, then the others in a burst, until every dispatch is answered."""
        follower, plan = DecisionFollower(settings), self.plan
        steady = LoadGenerator(settings, self.live, plan.steady, min(STEADY_RATE, plan.rate))
        self._decide(steady, follower, plan.steady)
        started = time.monotonic()
        burst = LoadGenerator(settings, self.live, plan.queries - plan.steady, plan.rate, first=plan.steady)
        self._decide(burst, follower, plan.queries)
        seconds = time.monotonic() - started

        def settling() -> None:
            self._show(Stage("dispatches answered", follower.dispatched - follower.open, follower.dispatched))
            self._check_children()

        follower.wait("every dispatch to be answered", lambda: follower.open == 0, SETTLE_SECONDS, settling)
        settling()
        follower.close()
        return Timing(
            steady=_latency(steady, follower),
            burst=_latency(burst, follower, self.killed_at),
            decided_per_second=round(burst.count / seconds, 1),
            takeover_seconds=None if self.killed_at is None else round(_takeover(follower, self.killed_at), 2),
        )

    def _decide(self, load: LoadGenerator, follower: DecisionFollower, total: int) -> None:
        """Produce a load and wait until `total` queries are decided."""
        load.start()

        def each() -> None:
            self._show(Stage("queries decided", len(follower.decided), self.plan.queries))
            self._maybe_kill(len(follower.decided))
            self._check_children()

        follower.wait("every query to be decided", lambda: len(follower.decided) >= total, SETTLE_SECONDS, each)
        load.finish()

    def _maybe_kill(self, decided: int) -> None:
        if self.plan.kill and self.killed_at is None and decided >= (self.plan.steady + self.plan.queries) // 2:
            self.killed_at = time.monotonic()
            self.system.workers[0].kill()
            self.system.workers[0].start()

    def _check_children(self) -> None:
        for child in self.system.processes.children:
            if not child.running:
                raise CheckFailed(f"{child.name} ended with {child.exit_code}; its last lines:\n{child.tail()}")

    def result(self, settings: Settings, timing: Timing) -> DemoResult:
        """Read the topics back, prove the books, and compare."""
        read = 0

        def reading(_: str, records: int) -> None:
            nonlocal read
            read += records
            self._show(Stage("records read back for the proof", read, None))

        report = run_verify.verify(settings, reading)
        quality = sum((llm.mean_quality or 0.0) * llm.judged for llm in report.llms.values())
        self._show(Stage("routing the same at random and by PORT", 1, 2))
        rivals = rival_qualities(self.past, self.live, self.system.directory / "index")
        self._show(Stage("done", 1, 1))
        return DemoResult(self.machine, settings.routing.policy, round(quality, 2), rivals, timing, report)


def _latency(load: LoadGenerator, follower: DecisionFollower, until: float | None = None) -> Latency:
    """The latency of a load's queries that were decided before `until`."""
    waits = [
        (follower.decided[place] - sent) * 1000
        for place, sent in load.sent.items()
        if until is None or follower.decided[place] < until
    ]
    p50, p99 = np.percentile(waits, [50, 99]).round(1).tolist()
    return Latency(load.count, load.rate, p50, p99)


def _takeover(follower: DecisionFollower, killed_at: float) -> float:
    """Seconds until the partition that waited longest after the kill decided again."""
    first: dict[int, float] = {}
    for (partition, _), decided in follower.decided.items():
        # A reader may see the last commits of the killed worker a moment after the kill.
        if decided > killed_at + READ_AFTER_SECONDS:
            first[partition] = min(decided, first.get(partition, decided))
    return max(first.values(), default=killed_at) - killed_at


def rival_qualities(past: History, live: History, place: Path) -> dict[str, float]:
    """Total quality of random routing and of PORT on the same queries under the same budgets, not split over
    partitions, as the worker's ledger charges them. PORT finds its neighbours by exact search, its best."""
    here = scenario.assembled(index.load(place), past, live, scenario.Plan(), seed=0)
    outcomes = {
        "random": simulate.play_ledger(here, at_random(here)),
        "port": simulate.play_router(here, "port", here.exact),
    }
    return {name: round(float(outcome.quality.sum()), 2) for name, outcome in outcomes.items()}
