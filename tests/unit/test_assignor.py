"""Who reads which partition, also while the broker's metadata lack the topics."""

from __future__ import annotations

from typing import Any, cast

import pytest
from aiokafka.cluster import ClusterMetadata

from worker.contract.settings import Settings
from worker.service.app import make_app
from worker.service.lanes import Lanes
from worker.service.metrics import Metrics

PARTITIONS = 4
INPUTS = ["completions", "queries"]


@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_a_broker_without_metadata(workers: int) -> None:
    """The group agrees on all partitions of both inputs, each pair to one worker, though no topic is known."""
    settings = Settings(kafka={"partitions": PARTITIONS})
    assignor = make_app(settings, cast(Lanes, None), Metrics()).assignor
    members: Any = {f"worker-{n}": assignor.metadata(set(INPUTS)) for n in range(workers)}

    assigned = assignor.assign(ClusterMetadata(), members)

    owned = [dict(assignment.assignment) for assignment in assigned.values()]
    together = all(sorted(each.get("queries", [])) == sorted(each.get("completions", [])) for each in owned)
    whole = {topic: sorted(p for each in owned for p in each.get(topic, [])) for topic in INPUTS}
    assert (whole, together) == ({topic: list(range(PARTITIONS)) for topic in INPUTS}, True)
