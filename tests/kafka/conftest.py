"""One real Kafka for all tests here, and whole systems on it: each test has topics and a consumer group of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from worker.contract.settings import Settings
from worker.estimation import demo_data, index
from worker.estimation.history import History
from worker.local.broker import Broker
from worker.local.system import System

PARTITIONS = 4
# Cheap enough that many LLMs are worth their price, and large enough that no account runs dry.
BUDGET_USD = 1.0

# A broker of a test lives for minutes. In that time Java's second compiler takes more than it saves.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Kafka, started once in each process of the tests."""
    with Broker(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture(scope="session")
def rows() -> tuple[History, History]:
    """The package's real data: what the index is built from, and what is routed."""
    return demo_data.split(demo_data.load())


@pytest.fixture(scope="session")
def index_directory(tmp_path_factory: pytest.TempPathFactory, rows: tuple[History, History]) -> Path:
    """An index of 1,000 past queries, built once."""
    place = tmp_path_factory.mktemp("index") / "index"
    index.build(rows[0].rows(np.arange(1_000)), place, "wordllama")
    return place


@pytest.fixture
def system(request: pytest.FixtureRequest, broker: Broker, tmp_path: Path, index_directory: Path) -> Iterator[System]:
    """A directory, topics and processes for one test; all processes are ended with it."""
    (tmp_path / "index").symlink_to(index_directory)
    with System(tmp_path, broker) as made:
        yield made


@pytest.fixture
def prepare(request: pytest.FixtureRequest, system: System, rows: tuple[History, History]) -> Callable[..., Settings]:
    """Makes the settings and topics of the test's system; sections override what is set here.

    `past` is a history of the test's own, in place of the one of `index_directory`.
    """

    def make(
        budget_usd: float = BUDGET_USD,
        calls: Mapping[str, object] | None = None,
        past: History | None = None,
        **sections: Mapping[str, object],
    ) -> Settings:
        if past is not None:
            (system.directory / "index").unlink()
        name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")
        kafka = {"partitions": PARTITIONS, "topic_prefix": f"{name}.", "group": name, "session_timeout_ms": 3_000}
        routing = {"horizon_queries": 4_000, "checkpoint_every": 20}
        merged: dict[str, Mapping[str, object]] = {"kafka": kafka, "routing": routing, "log": {"format": "json"}}
        for section, values in sections.items():
            merged[section] = {**merged.get(section, {}), **values}
        every = dict.fromkeys(rows[0].llms, calls or {})
        return system.prepare(past or rows[0], dict.fromkeys(rows[0].llms, budget_usd), "wordllama", every, **merged)

    return make
