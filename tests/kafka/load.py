"""Puts a system under load, does something to it meanwhile, and waits until all is decided and answered."""

from __future__ import annotations

from collections.abc import Callable

from worker.audit import run_verify
from worker.audit.report import Report
from worker.contract.errors import CheckFailed
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.local.follower import DecisionFollower
from worker.local.load import LoadGenerator
from worker.local.system import System

# For everything that a test under load waits for.
PATIENCE_SECONDS = 600.0


def under_load(
    system: System,
    settings: Settings,
    live: History,
    count: int,
    rate: float,
    meanwhile: Callable[[int], None] = lambda decided: None,
) -> Report:
    """Produce `count` queries, calling `meanwhile` with how many are decided; processes that end are started again.

    Returns the audit's report when every query is decided and every dispatch closed.
    """
    load, watch = LoadGenerator(settings, live, count, rate), DecisionFollower(settings)
    load.start()

    def each() -> None:
        meanwhile(len(watch.decided))
        system.processes.revive()

    try:
        watch.wait("all decisions", lambda: len(watch.decided) >= count and watch.open == 0, PATIENCE_SECONDS, each)
        assert load.finish() == count
    except CheckFailed:
        print(*problems(run_verify.verify(settings)), sep="\n")
        for child in system.processes.children:
            print(f"{child.name}: {'runs' if child.running else child.exit_code}\n{child.tail(200)}")
        raise
    finally:
        load.stop()
        watch.close()
    return run_verify.verify(settings)


def problems(report: Report) -> list[str]:
    """What an audit found, for an assertion that shows it."""
    return [str(finding) for finding in report.findings]
