"""A short run of `tollgate chaos`; the long ones are in docs/RELIABILITY.md."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from worker.local.chaos import Chaos, ChaosPlan
from worker.local.cluster import Cluster
from worker.local.system import System


@pytest.mark.long
@pytest.mark.parametrize(
    ("minutes", "brokers"),
    [
        (0.5, 1),
        pytest.param(10, 1, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)]),
        pytest.param(60, 3, marks=[pytest.mark.soak, pytest.mark.timeout(6_000)]),
    ],
)
def test_chaos(tmp_path: Path, index_directory: Path, minutes: float, brokers: int) -> None:
    """Three workers, inference, brokers and their network are broken at random, beside producers that abort and records
    that nobody can read: nothing is lost, doubled or changed, and a reader that shares no code counts the same."""
    seed = int(os.environ.get("TOLLGATE_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"TOLLGATE_TEST_SEED={seed}")
    (tmp_path / "index").symlink_to(index_directory)
    plan = ChaosPlan(minutes=minutes, every_seconds=4.0, seed=seed, brokers=brokers)
    with Cluster(tmp_path, brokers) as cluster, System(tmp_path, cluster.brokers[0]) as system:
        result = Chaos(system, cluster, plan, print).run()
    found = [*map(str, result.report.findings), *result.divergences]
    assert result.lost == 0
    assert result.doubled == 0
    assert result.wrong == 0
    assert result.divergent == 0
    assert found == []
    assert result.counted.problems == []
    assert sum(result.faults.values()) > 0
