"""Measures one inference worker: what it adds to the time of an LLM, and the CPU that a call takes."""

from __future__ import annotations

import sys
import time
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


@dataclass(frozen=True)
class CallsPlan:
    """`rate` calls a second for `seconds`, each answered by the server after `server_seconds`.

    Their product is the number of open calls. Calls begun in the first `warm_seconds` do not count.
    """

    rate: float = 100.0
    seconds: float = 60.0
    server_seconds: float = 5.0
    warm_seconds: float = 20.0

    @property
    def open_calls(self) -> int:
        """The mean number of calls that are open at the same time."""
        return round(self.rate * self.server_seconds)


class CallsResult(Struct, frozen=True):
    """The figures of one run.

    `added` is the time from a visible dispatch to its visible answer, less the server's own time. `cpu_ms_per_call` is
    the CPU time of the inference worker, of all its threads.
    """

    calls: int
    rate: float
    open_calls: int
    p50_added_ms: float
    p99_added_ms: float
    cpu_ms_per_call: float
    memory_mb: float


class _Times:
    """What a reader of dispatches and answers sees: when a dispatch came, and what an answer's server needed."""

    def __init__(self, settings: Settings) -> None:
        self.server_ms: dict[Origin, float] = {}
        topics = [settings.topics.dispatch(llm) for llm in settings.llms]
        self.dispatches = Arrivals(settings, topics, of_dispatch)
        self.answers = Arrivals(settings, [settings.topics.answers], self._of_answer)

    def _of_answer(self, record: StoredRecord) -> Origin:
        answer = codec.decode_answer(record.value or b"")
        response: dict[str, Any] = msgspec.json.decode(answer.response)
        origin = answer.origin.partition, answer.origin.offset
        self.server_ms[origin] = response["server_ms"]
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
        return _measure(system, plan, address_of(server, SERVER_SECONDS), notify)
    finally:
        server.stop()


def _measure(system: System, plan: CallsPlan, address: str, notify: Notify) -> CallsResult:
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
    process, started = psutil.Process(inference.pid), time.monotonic()
    load.start()
    warm, cpu, begun = 0.0, 0.0, 0
    while len(times.answers.seen) < count:
        times.dispatches.poll(0.001)
        times.answers.poll(0.001)
        if not warm and time.monotonic() - started > plan.warm_seconds:
            warm, cpu, begun = time.monotonic(), _cpu_seconds(process), len(times.answers.seen)
        if not inference.running or time.monotonic() - times.answers.heard > plan.server_seconds + PATIENCE_SECONDS:
            raise CheckFailed(f"only {len(times.answers.seen):,} calls were answered:\n{inference.tail()}")
    cpu_seconds, memory = _cpu_seconds(process) - cpu, process.memory_info().rss / BYTES_PER_MB
    load.finish()
    times.close()
    added = [
        (seen - times.dispatches.seen[origin]) * 1000 - times.server_ms[origin]
        for origin, seen in times.answers.seen.items()
        if times.dispatches.seen[origin] > warm
    ]
    p50, p99 = np.percentile(added, [50, 99])
    return CallsResult(
        calls=len(added),
        rate=plan.rate,
        open_calls=plan.open_calls,
        p50_added_ms=round(float(p50), 1),
        p99_added_ms=round(float(p99), 1),
        cpu_ms_per_call=round(cpu_seconds * 1000 / (count - begun), 2),
        memory_mb=round(memory),
    )


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
