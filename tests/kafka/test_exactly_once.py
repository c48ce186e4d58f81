"""Exactly once, whatever dies: real processes, real signals, a real broker."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

import pytest

from tests.kafka.commands import PATIENCE_SECONDS
from tests.kafka.load import problems, under_load
from worker.audit.report import Report
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.local.processes import wait_for
from worker.local.system import System

Prepare = Callable[..., Settings]
Rows = tuple[History, History]

pytestmark = pytest.mark.long


def whole(count: int) -> tuple[list[str], int, int, int]:
    """What a report must say after `count` queries: nothing wrong, all decided, nothing open or waiting."""
    return [], count, 0, 0


def seen(report: Report) -> tuple[list[str], int, int, int]:
    counts = report.counts
    return problems(report), counts.queries, counts.open, counts.waiting_queries


@pytest.mark.parametrize("count", [5_000, pytest.param(20_000, marks=pytest.mark.soak)])
def test_killed_workers(system: System, prepare: Prepare, rows: Rows, count: int) -> None:
    """Two workers and the inference worker are killed with SIGKILL seven times: no query is lost, none is routed twice,
    and the ledger is the sum of what happened."""
    settings = prepare()
    system.start_inference(latency_ms=20, error_rate=0.01)
    system.start_workers(2)
    seed = int(os.environ.get("TOLLGATE_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"TOLLGATE_TEST_SEED={seed}")
    dice = random.Random(seed)
    moments = sorted(dice.randrange(500, count - 1_000) for _ in range(7))
    victims = [*(dice.choice(system.workers) for _ in range(6)), system.processes.children[0]]

    def kill(decided: int) -> None:
        if moments and decided >= moments[0]:
            moments.pop(0)
            victims.pop(0).kill()

    report = under_load(system, settings, rows[1], count, 800, kill)
    assert (*seen(report), moments) == (*whole(count), [])


def test_killed_broker(system: System, prepare: Prepare, rows: Rows) -> None:
    """A broker killed with SIGKILL and started again midway: workers leave or carry on, and nothing is lost or
    doubled."""
    settings = prepare()
    system.start_inference(latency_ms=20)
    system.start_workers(2)
    moments = [800, 2_000]

    def kill(decided: int) -> None:
        if moments and decided >= moments[0]:
            moments.pop(0)
            system.broker.kill()
            system.broker.start()

    report = under_load(system, settings, rows[1], 4_000, 300, kill)
    assert (*seen(report), moments) == (*whole(4_000), [])


def test_rebalance(system: System, prepare: Prepare, rows: Rows) -> None:
    """Workers that join, and leave with SIGTERM under load, hand their partitions over in order and exit with 0."""
    settings = prepare()
    system.start_inference(latency_ms=20)
    system.start_workers(1)
    exits: list[int | None] = []

    def join_and_leave(decided: int) -> None:
        if decided >= 500 and len(system.workers) == 1:
            system.start_workers(1)
        if decided >= 1_500 and not exits:
            exits.append(system.workers[0].stop())

    report = under_load(system, settings, rows[1], 3_000, 300, join_and_leave)
    assert (*seen(report), exits) == (*whole(3_000), [0])


def test_a_stopped_worker_is_fenced(system: System, prepare: Prepare, rows: Rows) -> None:
    """A worker stopped with SIGSTOP for longer than its session timeout finds itself fenced when it goes on: it leaves
    with a failure and its log says so; its partitions were another's meanwhile."""
    settings = prepare()
    system.start_inference(latency_ms=20)
    system.start_workers(2)
    stopped = system.workers[0]
    exits: list[int | None] = []

    def stop_and_go(decided: int) -> None:
        if decided >= 500 and not exits:
            stopped.send(signal.SIGSTOP)
            wait_for(
                "the other to own all", lambda: system.partitions(system.workers[1]) == [0, 1, 2, 3], PATIENCE_SECONDS
            )
            stopped.send(signal.SIGCONT)
            wait_for("the stopped worker to leave", lambda: not stopped.running, PATIENCE_SECONDS)
            exits.append(stopped.exit_code)

    report = under_load(system, settings, rows[1], 3_000, 300, stop_and_go)
    assert (*seen(report), exits) == (*whole(3_000), [3])
