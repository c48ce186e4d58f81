"""A short run of `tollgate chaos`; the long ones are in docs/RELIABILITY.md."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from worker.local.broker import Broker
from worker.local.chaos import Chaos, ChaosPlan
from worker.local.system import System


@pytest.mark.timeout(600)
def test_chaos(tmp_path: Path, index_directory: Path) -> None:
    """Three workers, inference and the broker, broken at random for half a minute: nothing lost, doubled or changed."""
    seed = int(os.environ.get("TOLLGATE_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"TOLLGATE_TEST_SEED={seed}")
    (tmp_path / "index").symlink_to(index_directory)
    with Broker(tmp_path / "kafka") as broker, System(tmp_path, broker) as system:
        result = Chaos(system, ChaosPlan(minutes=0.5, every_seconds=4.0, seed=seed), print).run()
    found = [*map(str, result.report.findings), *result.divergences]
    assert (result.lost, result.doubled, result.wrong, result.divergent, found) == (0, 0, 0, 0, [])
    assert sum(result.faults.values()) > 0
