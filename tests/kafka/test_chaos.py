"""A short run of `tollgate chaos`; the long ones are in docs/RELIABILITY.md."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from worker.local.broker import Broker
from worker.local.chaos import Chaos, ChaosPlan
from worker.local.system import System


@pytest.mark.long
@pytest.mark.parametrize("minutes", [0.5, pytest.param(10, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])])
def test_chaos(tmp_path: Path, index_directory: Path, minutes: float) -> None:
    """Three workers, inference and the broker are broken at random: nothing is lost, doubled or changed."""
    seed = int(os.environ.get("TOLLGATE_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"TOLLGATE_TEST_SEED={seed}")
    (tmp_path / "index").symlink_to(index_directory)
    with Broker(tmp_path / "kafka") as broker, System(tmp_path, broker) as system:
        result = Chaos(system, ChaosPlan(minutes=minutes, every_seconds=4.0, seed=seed), print).run()
    found = [*map(str, result.report.findings), *result.divergences]
    assert result.lost == 0
    assert result.doubled == 0
    assert result.wrong == 0
    assert result.divergent == 0
    assert found == []
    assert sum(result.faults.values()) > 0
