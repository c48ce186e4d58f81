"""What takes a moment to make is made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.quality.instances import history
from worker.estimation import demo_data, index
from worker.estimation.history import History
from worker.evaluation.scenario import Plan, Scenario
from worker.evaluation.study import Study


@pytest.fixture(scope="session")
def past() -> History:
    """A made-up history of 400 rows."""
    return history(400, seed=1)


@pytest.fixture(scope="session")
def directory(past: History, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of `past`; read only."""
    place = tmp_path_factory.mktemp("index") / "index"
    index.build(past, place, "supplied")
    return place


@pytest.fixture(scope="session")
def made_up() -> Study:
    """Three draws of 500 queries from 700 made-up rows."""
    return Study(history(700, seed=7), Plan(test=500), seeds=3)


@pytest.fixture(scope="session")
def real() -> Study:
    """Two draws of 1,000 queries from the MMLU-Pro figures of the package."""
    return Study(demo_data.load(), Plan(test=1000), seeds=2)


@pytest.fixture(scope="session")
def scenario(made_up: Study) -> Scenario:
    """One made-up scenario."""
    return made_up.scenario(made_up.all_seeds[0])
