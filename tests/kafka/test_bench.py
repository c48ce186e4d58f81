"""The parts of `tollgate bench`, in short: what they measure is there to be measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from worker.contract.settings import Settings
from worker.estimation import index
from worker.estimation.history import History
from worker.local import bench_calls, bench_latency, bench_restore
from worker.local.load import LoadGenerator
from worker.local.system import System

RECORDS, CLOSED = 30_000, 5_000


def test_a_restored_ledger(system: System, prepare: Callable[..., Settings], index_directory: Path) -> None:
    """What is restored is what was written: the reservations left open, their money held, and every record read."""
    settings = prepare(kafka={"partitions": 1})
    estimator = index.load(index_directory)
    bench_restore.fill_ledger(settings, estimator, RECORDS)
    records, _ = bench_restore.bare_read(settings)
    router, seconds = bench_restore.restored(settings, estimator)
    held = sum(account.reserved for account in router.view.accounts)
    found = (records >= RECORDS // 2 + CLOSED, len(router.view.open), held, seconds > 0)
    assert found == (True, bench_restore.OPEN, bench_restore.OPEN, True)


def test_latency_without_a_worker(prepare: Callable[..., Settings], rows: tuple[History, History]) -> None:
    """Every query is seen, on its own topic, after it was produced."""
    settings = prepare()
    arrivals = bench_latency.Arrivals(settings, [settings.topics.queries], bench_latency.of_query)
    load = LoadGenerator(settings, rows[1], count=400, rate=200)
    p50, p99 = bench_latency.measured(arrivals, load, warm_seconds=0.5)
    assert (len(arrivals.seen), 0 < p50 <= p99) == (400, True), (p50, p99)


def test_calls(system: System) -> None:
    """Every call is seen, with what it added to the server's own time, in which stage, and its CPU time."""
    (system.directory / "index").unlink()
    plan = bench_calls.CallsPlan(rate=20, seconds=5, server_seconds=0.5, warm_seconds=2)
    result = bench_calls.measure(system, plan, print)
    assert 80 <= result.calls <= 100 + 20, result
    stages = result.to_dispatch, result.before_call, result.after_call, result.added
    assert all(0 < stage.p50_ms <= stage.p99_ms for stage in stages), result
    assert result.added.p50_ms >= max(result.before_call.p50_ms, result.after_call.p50_ms), result
    assert result.cpu_ms_per_call > 0, result
    assert result.open_calls == 10
