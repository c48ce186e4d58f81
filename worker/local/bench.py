"""Measures one worker on this machine, in one run: throughput, latency, restore and memory.

On purpose, Kafka, the producer and the reader share the cores with the worker, and embeddings are supplied.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import psutil
from msgspec import Struct

from worker.contract.errors import CheckFailed
from worker.contract.settings import Settings
from worker.estimation import demo_data, index
from worker.estimation.estimator import Estimator
from worker.estimation.history import History, normalised
from worker.local import bench_latency, bench_restore
from worker.local.follower import DecisionFollower
from worker.local.load import LoadGenerator
from worker.local.system import Notify, System

HISTORY_ROWS = 10_000
NEIGHBOURS = 64
SEARCH_ROWS = 500
PARTITIONS = 4
BYTES_PER_MB = 1_000_000
PATIENCE_SECONDS = 900.0


@dataclass(frozen=True)
class BenchPlan:
    """The size of each measurement.

    Queries run at a steady rate for `warm_seconds` before their latency counts. For comparison, queries are produced
    and read without a worker for `bare_seconds`; the second half counts.
    """

    queries: int = 100_000
    rate: float = 200.0
    seconds: float = 30.0
    warm_seconds: float = 30.0
    bare_seconds: float = 10.0
    ledger_records: int = 1_000_000


class BenchResult(Struct, frozen=True):
    """The figures of one run.

    `share` is the worker's decisions a second, divided by searches of the same index with the same threads and nothing
    else. A latency is the time from produce until a read_committed consumer sees the dispatch. `latency_ratio` divides
    its p50 by the p50 of the queries without a worker. `restore_ratio` divides by the time to read the same records.
    """

    searches_per_second: float
    decisions_per_second: float
    share: float
    rate: float
    p50_latency_ms: float
    p99_latency_ms: float
    bare_latency_ms: float
    latency_ratio: float
    ledger_records: int
    restore_seconds: float
    bare_read_seconds: float
    restore_ratio: float
    memory_mb: float


class Target(NamedTuple):
    """The target of a figure: at least `bound`, or at most `bound`."""

    bound: float
    at_least: bool = False

    def met(self, figure: float) -> bool:
        """Whether a figure reaches the target."""
        return figure >= self.bound if self.at_least else figure <= self.bound


# On two cores, shared with Kafka, producer and reader.
TARGETS = {
    "share": Target(0.5, at_least=True),
    "p50_latency_ms": Target(15),
    "p99_latency_ms": Target(50),
    "restore_seconds": Target(15),
}


def missed(result: BenchResult) -> list[str]:
    """The names of the figures that miss their target."""
    return [name for name, target in TARGETS.items() if not target.met(getattr(result, name))]


def larger(history: History, rows: int, seed: int = 0) -> History:
    """A history of `rows` rows: the given rows again and again, with a little noise on their embeddings."""
    random = np.random.default_rng(seed)
    made = history.rows(np.arange(rows) % len(history.ids))
    moved = made.embeddings + random.normal(0, 0.02, made.embeddings.shape).astype(np.float32)
    return History(
        [f"{query_id}+{row}" for row, query_id in enumerate(made.ids)],
        made.llms,
        normalised(moved),
        made.quality,
        made.cost_micros,
        made.input_tokens,
        made.categories,
    )


class Bench:
    """The parts of one run, each on the same system."""

    def __init__(self, system: System, plan: BenchPlan, notify: Notify) -> None:
        self.system = system
        self.plan = plan
        self.past, self.live = demo_data.split(demo_data.load())
        self._notify = notify

    def run(self) -> BenchResult:
        """Measure everything. Raises CheckFailed if the worker does not keep up at all."""
        place = self.system.directory / "index"
        self._notify(f"building an index of {HISTORY_ROWS:,} rows")
        index.build(larger(self.past, HISTORY_ROWS), place, "supplied", NEIGHBOURS)
        self._estimator = index.load(place)
        searches = self._searches_per_second(self._estimator)
        restored, bare_read = self._restore()
        settings = self._prepare("bench.", PARTITIONS)
        decisions, memory = self._throughput(settings)
        p50, p99 = self._latency(settings)
        bare = self._bare_latency()
        return BenchResult(
            searches_per_second=round(searches),
            decisions_per_second=round(decisions),
            share=round(decisions / searches, 2),
            rate=self.plan.rate,
            p50_latency_ms=round(p50, 1),
            p99_latency_ms=round(p99, 1),
            bare_latency_ms=round(bare, 1),
            latency_ratio=round(p50 / bare, 2),
            ledger_records=self.plan.ledger_records,
            restore_seconds=round(restored, 1),
            bare_read_seconds=round(bare_read, 1),
            restore_ratio=round(restored / bare_read, 2),
            memory_mb=round(memory),
        )

    def _prepare(self, prefix: str, partitions: int) -> Settings:
        return self.system.prepare(
            self.past,
            # Enough money for every query, so that each is dispatched: a dispatch is more work than a deferral.
            dict.fromkeys(self.past.llms, 1_000.0),
            "supplied",
            kafka={"partitions": partitions, "group": "bench", "topic_prefix": prefix},
            routing={"horizon_queries": self.plan.queries * 2},
        )

    def _searches_per_second(self, estimator: Estimator) -> float:
        """Bare FAISS search, one thread, in batches such as the worker searches."""
        self._notify("searching with bare FAISS")
        asked = self.live.embeddings
        estimator.graph.search(asked[:SEARCH_ROWS], NEIGHBOURS)
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < 5.0:
            row = done % (len(asked) - SEARCH_ROWS)
            estimator.graph.search(asked[row : row + SEARCH_ROWS], NEIGHBOURS)
            done += SEARCH_ROWS
        return done / (time.perf_counter() - started)

    def _throughput(self, settings: Settings) -> tuple[float, float]:
        """Decisions a second over a backlog, and the worker's memory in MB after it."""
        self._notify(f"producing a backlog of {self.plan.queries:,} queries")
        load = LoadGenerator(settings, self.live, self.plan.queries, rate=0)
        load.start()
        load.finish()
        watch = DecisionFollower(settings)
        self._notify(f"deciding {self.plan.queries:,} queries")
        self.system.start_workers(1)
        wanted = self.plan.queries
        watch.wait("the backlog", lambda: len(watch.decided) >= wanted, PATIENCE_SECONDS, self._check)
        watch.close()
        times = np.sort(np.fromiter(watch.decided.values(), float))
        # Without the first tenth: the broker and the worker warm up, and the first batches are small.
        warm = times[len(times) // 10 :]
        memory = psutil.Process(self.system.workers[0].pid).memory_info().rss / BYTES_PER_MB
        return float((len(warm) - 1) / (warm[-1] - warm[0])), memory

    def _check(self) -> None:
        worker = self.system.workers[0]
        if not worker.running:
            raise CheckFailed(f"the worker ended with {worker.exit_code}:\n{worker.tail()}")

    def _latency(self, settings: Settings) -> tuple[float, float]:
        """p50 and p99 in milliseconds from produced to dispatched, once Kafka's compiler has seen enough of it."""
        plan = self.plan
        count = round(plan.rate * (plan.warm_seconds + plan.seconds))
        self._notify(f"routing {count:,} queries at {plan.rate:.0f} a second")
        dispatches = [settings.topics.dispatch(llm) for llm in settings.llms]
        arrivals = bench_latency.Arrivals(settings, dispatches, bench_latency.of_dispatch)
        load = LoadGenerator(settings, self.live, count, plan.rate, first=plan.queries)
        return bench_latency.measured(arrivals, load, plan.warm_seconds)

    def _bare_latency(self) -> float:
        """p50 in milliseconds from produced to seen of the same queries, on topics that no worker reads."""
        settings = self._prepare("bare.", PARTITIONS)
        count = round(self.plan.rate * self.plan.bare_seconds)
        self._notify(f"producing and reading {count:,} queries at {self.plan.rate:.0f} a second")
        arrivals = bench_latency.Arrivals(settings, [settings.topics.queries], bench_latency.of_query)
        load = LoadGenerator(settings, self.live, count, self.plan.rate)
        return bench_latency.measured(arrivals, load, warm_seconds=self.plan.bare_seconds / 2)[0]

    def _restore(self) -> tuple[float, float]:
        """Seconds to restore a ledger partition of reservations made and closed, and to only read it."""
        self._notify(f"writing {self.plan.ledger_records:,} ledger records")
        settings = self._prepare("restore.", partitions=1)
        bench_restore.fill_ledger(settings, self._estimator, self.plan.ledger_records)
        self._notify("reading and restoring them")
        _, bare = bench_restore.bare_read(settings)
        _, seconds = bench_restore.restored(settings, self._estimator)
        return seconds, bare
