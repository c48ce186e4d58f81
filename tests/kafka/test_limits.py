"""Records and states of extreme size, on a real broker: none of them stops a lane."""

from __future__ import annotations

import pytest

from tests.drive import LLMS, PRIOR, config, query
from worker import topics
from worker.broker import Broker
from worker.committer import open_committer
from worker.events import Reconfigured, Ticked
from worker.ledger import Ledger
from worker.metrics import Metrics
from worker.settings import Settings

# Two messages each, which is more than librdkafka's own limit of 100,000 that wait to be sent.
RESERVATIONS = 50_010


@pytest.fixture
def lane(broker: Broker) -> Settings:
    """Topics of one partition for the LLMs of `tests.drive`."""
    kafka = {"bootstrap_servers": broker.bootstrap_servers, "partitions": 1, "topic_prefix": "mass.", "group": "mass"}
    settings = Settings(kafka=kafka, llms=dict.fromkeys(LLMS, {"budget_usd": 1}))
    topics.create(settings)
    return settings


def test_a_mass_expiry(lane: Settings) -> None:
    """Reservations by the ten thousand that are due at once: all expire, and the next owner finds none, nor a cent
    reserved."""
    plenty = dict.fromkeys(LLMS, 10**12)
    committer = open_committer(0, lane, PRIOR, Metrics())
    calm = {"resolve_every_queries": 10**6, "checkpoint_every": 20}
    committer.commit([Reconfigured(0, config(budget_micros=plenty, **calm))], [])
    for first in range(0, RESERVATIONS, 3_000):
        offsets = range(first, min(first + 3_000, RESERVATIONS))
        committer.commit([query(offset, at_ms=1) for offset in offsets], [])
    opened = len(committer.router.ledger.open)
    while committer.router.ledger.open:
        committer.commit([Ticked(20_000)] * 3, [])
    restored: Ledger = open_committer(0, lane, PRIOR, Metrics()).router.ledger
    reserved = {account.reserved_micros for account in restored.accounts.values()}
    assert (opened, restored.open, reserved) == (RESERVATIONS, {}, {0})
