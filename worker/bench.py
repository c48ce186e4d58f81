"""Measures one worker on this machine, in one run: throughput, latency, restore and memory.

Biases, by intent: Kafka, the producer and the reader share the cores with the worker; embeddings are supplied.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import psutil
from confluent_kafka import Consumer, Producer, TopicPartition
from msgspec import Struct

from worker import clients, demo_data, index, wire
from worker.committer import read_rows
from worker.errors import CheckFailed
from worker.estimator import Estimator
from worker.events import Reconfigured
from worker.feeder import Feeder
from worker.history import History, normalised
from worker.messages import Reservation
from worker.outbox import ACCOUNT_KEY, RESERVATION_PREFIX
from worker.pricing import Prior
from worker.router import Router
from worker.settings import Settings
from worker.shares import configuration
from worker.snapshot import restore
from worker.system import System
from worker.watch import Watch

HISTORY_ROWS = 10_000
NEIGHBOURS = 64
SEARCH_ROWS = 500
PARTITIONS = 4
BYTES_PER_MB = 1_000_000
PATIENCE_SECONDS = 900.0
OPEN = 10_000

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much of each is measured. A steady rate of queries runs for `warm_seconds` before its latency counts."""

    queries: int = 100_000
    rate: float = 200.0
    seconds: float = 30.0
    warm_seconds: float = 30.0
    ledger_records: int = 1_000_000


class Result(Struct, frozen=True):
    """What one run measured. `share` is the worker's decisions a second over bare FAISS search of the same index with
    the same threads; latency is from produce to the dispatch visible to a read_committed consumer."""

    searches_per_second: float
    decisions_per_second: float
    share: float
    rate: float
    p50_latency_ms: float
    p99_latency_ms: float
    ledger_records: int
    restore_seconds: float
    memory_mb: float


def larger(history: History, rows: int, seed: int = 0) -> History:
    """A history of `rows` rows: those there are, and then the same with embeddings a little moved."""
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

    def __init__(self, system: System, plan: Plan, tell: Tell) -> None:
        self.system = system
        self.plan = plan
        self.past, self.live = demo_data.split(demo_data.load())
        self._tell = tell

    def run(self) -> Result:
        """Measure everything. Raises CheckFailed if the worker does not keep up at all."""
        place = self.system.directory / "index"
        self._tell(f"building an index of {HISTORY_ROWS:,} rows")
        index.build(larger(self.past, HISTORY_ROWS), place, "supplied", NEIGHBOURS)
        self._estimator = index.load(place)
        searches = self._searches_per_second(self._estimator)
        restored = self._restore()
        settings = self._prepare("bench.", PARTITIONS)
        decisions, memory = self._throughput(settings)
        p50, p99 = self._latency(settings)
        return Result(
            searches_per_second=round(searches),
            decisions_per_second=round(decisions),
            share=round(decisions / searches, 2),
            rate=self.plan.rate,
            p50_latency_ms=round(p50, 1),
            p99_latency_ms=round(p99, 1),
            ledger_records=self.plan.ledger_records,
            restore_seconds=round(restored, 1),
            memory_mb=round(memory),
        )

    def _prepare(self, prefix: str, partitions: int) -> Settings:
        return self.system.prepare(
            self.past,
            # Enough for every query: the worker's full work is a dispatch, not a deferral.
            dict.fromkeys(self.past.llms, 1_000.0),
            "supplied",
            kafka={"partitions": partitions, "group": "bench", "topic_prefix": prefix},
            routing={"horizon_queries": self.plan.queries * 2},
        )

    def _searches_per_second(self, estimator: Estimator) -> float:
        """Bare FAISS search, one thread, in batches such as the worker searches."""
        self._tell("searching with bare FAISS")
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
        self._tell(f"producing a backlog of {self.plan.queries:,} queries")
        feeder = Feeder(settings, self.live, self.plan.queries, rate=0)
        feeder.start()
        feeder.finish()
        watch = Watch(settings)
        self._tell(f"deciding {self.plan.queries:,} queries")
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
        """p50 and p99 in milliseconds at a steady rate, once Kafka's compiler has seen enough of it."""
        count = round(self.plan.rate * (self.plan.warm_seconds + self.plan.seconds))
        self._tell(f"routing {count:,} queries at {self.plan.rate:.0f} a second")
        reader = DispatchReader(settings)
        feeder = Feeder(settings, self.live, count, self.plan.rate, first=self.plan.queries)
        started = time.monotonic()
        feeder.start()
        while feeder.running or time.monotonic() - reader.heard < 1.0:
            reader.poll()
        feeder.finish()
        reader.close()
        waits = [
            (seen - feeder.sent[where]) * 1000
            for where, seen in reader.seen.items()
            if where in feeder.sent and feeder.sent[where] - started > self.plan.warm_seconds
        ]
        if not waits:
            raise CheckFailed("no dispatch was seen while measuring latency")
        p50, p99 = np.percentile(waits, [50, 99])
        return float(p50), float(p99)

    def _restore(self) -> float:
        """Seconds to read and rebuild a ledger partition of reservations made and closed, as a new owner does."""
        self._tell(f"writing {self.plan.ledger_records:,} ledger records")
        settings = self._prepare("restore.", partitions=1)
        fill_ledger(settings, self._estimator, self.plan.ledger_records)
        self._tell("restoring them")
        started = time.perf_counter()
        restore(0, _prior(self._estimator), read_rows(settings, 0))
        return time.perf_counter() - started


def _prior(estimator: Estimator) -> Prior:
    return Prior(estimator.prior.quality, estimator.prior.cost_micros.astype(float))


def fill_ledger(settings: Settings, estimator: Estimator, records: int) -> None:
    """Write a ledger partition: a configuration, `records` rows of reservations made and closed, OPEN of them open."""
    config = configuration(settings, estimator.manifest, 0)
    rows = Router(0, _prior(estimator)).handle([Reconfigured(1, config)]).rows
    producer = Producer(clients.producer_config(settings))
    llm = config.llms[0]

    def put(key: str, value: bytes | None) -> None:
        while True:
            try:
                producer.produce(settings.topics.ledger, value, key, 0)
                return
            except BufferError:
                producer.poll(0.1)

    for key, value in rows.items():
        put(key, value)
    for number in range(records // 2):
        key = f"{RESERVATION_PREFIX}0-{number}-1"
        put(key, wire.encode(Reservation(f"0-{number}-1", f"q{number}", llm, number, 1, 1, number, 2**50)))
        if number < records // 2 - OPEN:
            put(key, None)
    account = wire.decode_account(rows[ACCOUNT_KEY] or b"")
    held = msgspec.structs.replace(account.accounts[llm], reserved_micros=OPEN)
    put(ACCOUNT_KEY, wire.encode(msgspec.structs.replace(account, accounts={**account.accounts, llm: held})))
    producer.flush()


class DispatchReader:
    """Reads every dispatch topic read_committed; `seen` maps the origin of a first attempt to when it was visible."""

    def __init__(self, settings: Settings) -> None:
        config = clients.consumer_config(settings, "bench-reader") | {
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 1,
            "enable.partition.eof": False,
            "auto.offset.reset": "latest",
        }
        self._consumer = Consumer(config)
        self._consumer.assign(
            [
                TopicPartition(settings.topics.dispatch(llm), partition, -1)
                for llm in settings.llms
                for partition in range(settings.kafka.partitions)
            ]
        )
        self.seen: dict[tuple[int, int], float] = {}
        self.heard = time.monotonic()

    def poll(self) -> None:
        """Take what there is."""
        message: Any = self._consumer.poll(0.1)
        if message is None or message.error() is not None:
            return
        self.heard = time.monotonic()
        partition, offset, attempt = message.key().decode().split("-")
        if attempt == "1":
            self.seen[int(partition), int(offset)] = self.heard

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()
