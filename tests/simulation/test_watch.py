"""What a worker notices of what is around it, while it runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from tests.drive import config
from tests.simulation.test_home import Kept, inputs, kept
from worker.contract.settings import KafkaSettings
from worker.core.events import Reconfigured
from worker.kafka.memory import MemoryBroker
from worker.service.committer import Committer
from worker.service.intake import Input
from worker.service.metrics import Metrics
from worker.service.watch import Watch

__all__ = ["kept"]


class Worker(NamedTuple):
    """A watch over a log, what it made the process leave with, and its alarms."""

    watch: Watch
    failed: list[BaseException]
    metrics: Metrics

    def alarms(self) -> dict[str, str]:
        """What is in force after one more look."""
        self.watch.look()
        return {name: detail for (name, _), detail in self.metrics.alarms().items()}


def worker(kept: Kept, *lanes: Committer) -> Worker:
    """A worker with these lanes, on a log in which every topic has its partitions."""
    settings = kept.settings.model_copy(update={"kafka": KafkaSettings(partitions=2)})
    for topic in settings.topics.all(settings.llms):
        kept.log.entries[topic, 1]
    failed: list[BaseException] = []
    metrics = Metrics()
    metrics.watch(lambda: [])
    reader = MemoryBroker(kept.log).reader()
    return Worker(Watch(settings, reader, metrics, lambda: lanes, failed.append), failed, metrics)


def test_nothing_is_noticed_where_nothing_changes(kept: Kept) -> None:
    """Two lanes of one worker, and every topic as it was."""
    watched = worker(kept, kept.open(0), kept.open(1))
    assert (watched.alarms(), watched.failed) == ({}, [])


@pytest.mark.parametrize("topic", ["queries", "completions", "ledger", "decisions"])
def test_a_topic_that_is_made_anew_ends_the_process(kept: Kept, topic: str) -> None:
    """Its offsets mean something else now."""
    watched = worker(kept, kept.open(0))
    kept.log.make_anew(topic)
    watched.alarms()
    assert [f"{topic}/0: was made anew" in str(error) for error in watched.failed] == [True]


def test_more_partitions_are_an_alarm(kept: Kept) -> None:
    """The lanes go on; nobody reads the new partitions."""
    watched = worker(kept, kept.open(0))
    kept.log.entries["queries", 7]
    assert watched.alarms() == {"topics_changed": "queries has 8 partitions, not 2"}
    assert watched.failed == []


def test_lanes_of_another_worker_with_other_settings_are_an_alarm(kept: Kept) -> None:
    """It ends when they decide by the same again."""
    mine, theirs = kept.open(0), kept.open(1)
    watched = worker(kept, mine)
    _configure(mine, "aa")
    _configure(theirs, "bb")
    assert watched.alarms() == {"two_settings": "partitions 1 decide by other settings than this worker"}
    _configure(theirs, "aa")
    looks = [watched.alarms() for _ in range(6)]
    assert looks[-1] == {}


def _configure(lane: Committer, settings: str) -> None:
    home = lane.view.config.home if lane.view.config is not None else None
    lane.commit([Input(Reconfigured(0, config(settings=settings, home=home)))])


@pytest.mark.parametrize(("drift_ms", "said"), [(1_000, ""), (1_001, "1001 ms ahead of"), (-8_000, "8000 ms behind")])
def test_a_clock_that_differs_is_an_alarm(kept: Kept, drift_ms: int, said: str) -> None:
    """The worst of all lanes counts, and the metric has its sign."""
    lane: Any = SimpleNamespace(partition=0, clock=SimpleNamespace(drift_ms=drift_ms), view=kept.open(0).view)
    watched = worker(kept, lane)
    assert said in watched.alarms().get("clock_drift", "")
    assert f"tollgate_clock_drift_seconds {drift_ms / 1000}" in watched.metrics.exposition().decode()


def test_records_are_needed_for_no_look(kept: Kept) -> None:
    """A worker that owns no lane looks too."""
    inputs(kept.log, "queries", 3)
    watched = worker(kept)
    assert (watched.alarms(), watched.failed) == ({}, [])
