"""A worker on a machine whose clock is wrong, on a real broker whose clock is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kafka.commands import PATIENCE_SECONDS
from tests.kafka.load import problems
from tests.kafka.test_topics import QUERIES, decide
from worker.audit import run_verify
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.local.follower import DecisionFollower
from worker.local.processes import Child, wait_for
from worker.local.system import System

Prepare = Callable[..., Settings]
Rows = tuple[History, History]
# Python runs this before everything else. The monotonic clock stays as it is, as on a machine whose date was set.
SKEWED = """
import time
_time_ns = time.time_ns
time.time_ns = lambda: _time_ns() + {skew_ms} * 1_000_000
"""


def skewed_worker(system: System, place: Path, skew_ms: int) -> Child:
    """A worker whose clock is so far ahead, or behind if it is negative."""
    place.mkdir()
    (place / "sitecustomize.py").write_text(SKEWED.format(skew_ms=skew_ms))
    arguments = ["run", "--web-port", "0", "--config", str(system.config)]
    return system.processes.start(
        Child("skewed", arguments, system.directory / "skewed.log", {"PYTHONPATH": str(place)})
    )


@pytest.mark.parametrize("minutes", [10, -10], ids=["ahead", "behind"])
def test_a_worker_whose_clock_is_wrong(
    system: System, prepare: Prepare, rows: Rows, tmp_path: Path, minutes: int
) -> None:
    """It takes over open reservations, and expires none of them: each is answered and settled. It says that its clock
    differs. The next worker, whose clock is right, defers nothing as too late."""
    settings = prepare(routing={"reservation_seconds": 300})
    system.start_workers(1)
    decide(settings, rows)
    assert system.workers[0].stop() == 0
    worker = skewed_worker(system, tmp_path / "skewed", minutes * 60_000)
    decide(settings, rows, 2 * QUERIES)
    wait_for("the alarm", lambda: "clock_drift" in worker.log.read_text(), PATIENCE_SECONDS)
    side = "ahead of" if minutes > 0 else "behind"
    assert f"ms {side} the broker" in worker.log.read_text()
    assert worker.stop() == 0
    # The first worker again: its clock is right.
    system.workers[0].start()
    decide(settings, rows, 3 * QUERIES)
    system.start_inference(latency_ms=1)
    watch = DecisionFollower(settings)
    watch.wait(
        "all answers", lambda: len(watch.decided) >= 3 * QUERIES and watch.open == 0, PATIENCE_SECONDS, lambda: None
    )
    watch.close()
    report = run_verify.verify(settings)
    counts = report.counts
    assert problems(report) == []
    assert (counts.expired, counts.late, counts.deferred, counts.settled) == (0, 0, 0, 3 * QUERIES)
