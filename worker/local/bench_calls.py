"""Measures one inference worker: what it adds to the time of an LLM, and the CPU that a call takes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import psutil
from msgspec import Struct

from worker.contract import codec
from worker.contract.errors import CheckFailed
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.estimation.embedder import WORDLLAMA, embed_with
from worker.estimation.history import Prompts, read_table
from worker.local import questions
from worker.local.bench_latency import Arrivals, Origin, of_dispatch
from worker.local.load import LoadGenerator
from worker.local.processes import Process, address_of
from worker.local.system import Notify, System

PARTITIONS = 4
SERVER_SECONDS = 30.0
BYTES_PER_MB = 1_000_000
PATIENCE_SECONDS = 60.0
INFERENCE = "inference worker"


@dataclass(frozen=True)
class CallsPlan:
    """`rate` calls a second for `seconds`, each answered by the server after `server_seconds`.

    Their product is the number of open calls. Calls begun in the first `warm_seconds` do not count: in that time the
    compiler of Kafka's Java takes a core.
    """

    rate: float = 100.0
    seconds: float = 60.0
    server_seconds: float = 5.0
    warm_seconds: float = 45.0

    @property
    def open_calls(self) -> int:
        """The mean number of calls that are open at the same time."""
        return round(self.rate * self.server_seconds)


class Stage(Struct, frozen=True):
    """How long a part of the way takes, in milliseconds."""

    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Stage:
        """The percentiles of these times."""
        p50, p99 = np.percentile(seconds, [50, 99]) * 1000
        return cls(round(float(p50), 1), round(float(p99), 1))


class CallsResult(Struct, frozen=True):
    """The figures of one run.

    `added` is the time from a visible dispatch to its visible answer, less the server's own time. Its parts are
    `before_call`, from the visible dispatch to the request at the server, and `after_call`, from the server's answer to
    the visible answer. `to_dispatch` is the time from a produced query to its visible dispatch: the lane's share, which
    is not added. `cpu_ms_per_call` is the CPU time of the inference worker, of all its threads. `cores` is how many
    cores each process of the run kept busy, and `load` how many processes of the machine wanted one on average.
    """

    calls: int
    rate: float
    open_calls: int
    to_dispatch: Stage
    before_call: Stage
    after_call: Stage
    added: Stage
    cpu_ms_per_call: float
    memory_mb: float
    cores: dict[str, float]
    load: float


class _Times:
    """What a reader of dispatches and answers sees: when each came, and when the server had the call of an answer."""

    def __init__(self, settings: Settings) -> None:
        self.served: dict[Origin, tuple[float, float]] = {}
        topics = [settings.topics.dispatch(llm) for llm in settings.llms]
        self.dispatches = Arrivals(settings, topics, of_dispatch)
        self.answers = Arrivals(settings, [settings.topics.answers], self._of_answer)

    def _of_answer(self, record: StoredRecord) -> Origin:
        answer = codec.decode_answer(record.value or b"")
        response: dict[str, Any] = msgspec.json.decode(answer.response)
        origin = answer.origin.partition, answer.origin.offset
        self.served[origin] = response["received_seconds"], response["answered_seconds"]
        return origin

    def close(self) -> None:
        self.dispatches.close()
        self.answers.close()


def measure(system: System, plan: CallsPlan, notify: Notify) -> CallsResult:
    """Measure one inference worker in `system`. Raises CheckFailed where calls are not answered."""
    notify("starting a worker, an inference worker and a server")
    log = system.directory / "server.log"
    server = Process("server", [sys.executable, "-m", "worker.local.answering_server", str(plan.server_seconds)], log)
    server.start()
    try:
        return _measure(system, plan, server, notify)
    finally:
        server.stop()


def _measure(system: System, plan: CallsPlan, server: Process, notify: Notify) -> CallsResult:
    address = address_of(server, SERVER_SECONDS)
    asked, replies = questions.load()
    table = system.directory / "questions.csv"
    questions.write(table, asked, replies)
    called = {"base_url": address, "model": "m", "max_open": 4 * plan.open_calls, "timeout_seconds": 60}
    prices = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 5}
    settings = system.prepare(
        read_table(table, embed=embed_with(WORDLLAMA)),
        dict.fromkeys(replies, 1_000.0),
        WORDLLAMA,
        calls=dict.fromkeys(replies, called | prices),
        kafka={"partitions": PARTITIONS, "group": "bench-calls", "topic_prefix": "calls."},
    )
    inference = system.start_calling()
    system.start_workers(1)
    count = round(plan.rate * (plan.warm_seconds + plan.seconds))
    prompts = Prompts([one.id for one in asked], [one.text for one in asked])
    load, times = LoadGenerator(settings, prompts, count, plan.rate), _Times(settings)
    notify(f"calling {count:,} times at {plan.rate:.0f} a second")
    pids = {
        "Kafka": system.broker.pid,
        "worker": system.workers[0].pid,
        INFERENCE: inference.pid,
        "server": server.pid,
        "producer and reader": os.getpid(),
    }
    processes, started = {name: psutil.Process(pid) for name, pid in pids.items()}, time.monotonic()
    load.start()
    warm, cpu, begun = 0.0, dict[str, float](), 0
    while len(times.answers.seen) < count:
        times.dispatches.poll(0.001)
        times.answers.poll(0.001)
        if not warm and time.monotonic() - started > plan.warm_seconds:
            warm, cpu, begun = time.monotonic(), _cpu_seconds(processes), len(times.answers.seen)
        if not inference.running or time.monotonic() - times.answers.heard > plan.server_seconds + PATIENCE_SECONDS:
            raise CheckFailed(f"only {len(times.answers.seen):,} calls were answered:\n{inference.tail()}")
    seconds, used = time.monotonic() - warm, _cpu_seconds(processes)
    cores = {name: round((used[name] - before) / seconds, 2) for name, before in cpu.items()}
    memory = processes[INFERENCE].memory_info().rss / BYTES_PER_MB
    load.finish()
    times.close()
    counted = [origin for origin, seen in times.dispatches.seen.items() if seen > warm]
    before = [times.served[origin][0] - times.dispatches.seen[origin] for origin in counted]
    after = [times.answers.seen[origin] - times.served[origin][1] for origin in counted]
    return CallsResult(
        calls=len(counted),
        rate=plan.rate,
        open_calls=plan.open_calls,
        to_dispatch=Stage.of([times.dispatches.seen[origin] - load.sent[origin] for origin in counted]),
        before_call=Stage.of(before),
        after_call=Stage.of(after),
        added=Stage.of([one + other for one, other in zip(before, after, strict=True)]),
        cpu_ms_per_call=round((used[INFERENCE] - cpu[INFERENCE]) * 1000 / (count - begun), 2),
        memory_mb=round(memory),
        cores=cores,
        load=os.getloadavg()[0],
    )


def _cpu_seconds(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    """The CPU time of each process so far, of all its threads."""
    times = {name: process.cpu_times() for name, process in processes.items()}
    return {name: float(one.user + one.system) for name, one in times.items()}
