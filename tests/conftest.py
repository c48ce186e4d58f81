"""How the tests run: one BLAS thread in each process, and which tests share a process when several processes run them.

`pytest -n` gives each process one group of tests after another. A group is a file, because the tests of a file share
what its fixtures make. In the folders of `SPLIT` each test is a group of its own.
"""

from __future__ import annotations

import os

import hypothesis
import psutil
import pytest
from xdist.scheduler import LoadScopeScheduling

# Threads of BLAS spin on cores that are busy. This is set before a test loads numpy.
for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(pool, "1")

# A busy machine draws examples slowly, and no test of a property is about time.
hypothesis.settings.register_profile("tollgate", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tollgate")

# Folders whose tests take seconds each and share only what each process makes once, and their files that share more.
SPLIT = ("tests/kafka/", "tests/simulation/")
WHOLE = ("tests/kafka/test_audit.py", "tests/kafka/test_security.py")
# A process of the tests, with its broker and the three processes of a Tollgate.
BYTES_OF_A_PROCESS = 1_500_000_000
FEWEST_PROCESSES, MOST_PROCESSES = 2, 4


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto` is two processes a core, because tests on Kafka mostly wait; `-n logical` is one. Fewer if memory is
    small."""
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    memory: int = psutil.virtual_memory().available
    of_a_core = 1 if config.option.numprocesses == "logical" else 2
    wanted = min(of_a_core * (os.cpu_count() or 1), memory // BYTES_OF_A_PROCESS)
    return max(FEWEST_PROCESSES, min(MOST_PROCESSES, wanted))


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a process one file after another, and of some folders one test after another."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file.startswith(SPLIT) and file not in WHOLE else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Groups:
    """`--dist loadgroup` could say this with marks, but xdist 3.8 does not see them with pytest 9.2."""
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests on Kafka begin first, then the others on Kafka. What is left fills the cores until the end."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    if not item.nodeid.startswith("tests/kafka/"):
        return 2
    return 0 if item.get_closest_marker("long") else 1
