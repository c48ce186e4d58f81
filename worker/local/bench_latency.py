"""How long records take until a read_committed consumer sees them, at a steady rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from worker.contract.errors import CheckFailed
from worker.contract.settings import Settings
from worker.kafka import clients
from worker.local.load import Feeder

QUIET_SECONDS = 1.0

Origin = tuple[int, int]


def of_query(message: Any) -> Origin:
    """A query is its own origin."""
    return message.partition(), message.offset()


def of_dispatch(message: Any) -> Origin | None:
    """The query that a dispatch is the first attempt of."""
    partition, offset, attempt = message.key().decode().split("-")
    return (int(partition), int(offset)) if attempt == "1" else None


class Arrivals:
    """Reads topics read_committed from their ends on; `seen` maps the origin of a record to when it was visible."""

    def __init__(self, settings: Settings, topics: Sequence[str], origin: Callable[[Any], Origin | None]) -> None:
        config = clients.consumer_config(settings, "bench-reader") | {
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 1,
            "enable.partition.eof": False,
        }
        self._origin = origin
        self._consumer = Consumer(config)
        places = [TopicPartition(topic, p) for topic in topics for p in range(settings.kafka.partitions)]
        # Not "latest", which is the end when the broker is first asked: what is produced until then would be missed.
        ends = [clients.watermarks(self._consumer, place)[1] for place in places]
        self._consumer.assign(
            [TopicPartition(place.topic, place.partition, end) for place, end in zip(places, ends, strict=True)]
        )
        self.seen: dict[Origin, float] = {}
        self.heard = time.monotonic()

    def poll(self) -> None:
        """Take what there is."""
        message: Any = self._consumer.poll(0.1)
        if message is None or message.error() is not None:
            return
        self.heard = time.monotonic()
        if (origin := self._origin(message)) is not None:
            self.seen[origin] = self.heard

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def measured(arrivals: Arrivals, feeder: Feeder, warm_seconds: float) -> tuple[float, float]:
    """p50 and p99 in milliseconds from produced to seen, of what is produced after `warm_seconds`.

    Raises CheckFailed if nothing was seen.
    """
    started = time.monotonic()
    feeder.start()
    while feeder.running or time.monotonic() - arrivals.heard < QUIET_SECONDS:
        arrivals.poll()
    feeder.finish()
    arrivals.close()
    waits = [
        (seen - feeder.sent[where]) * 1000
        for where, seen in arrivals.seen.items()
        if where in feeder.sent and feeder.sent[where] - started > warm_seconds
    ]
    if not waits:
        raise CheckFailed("nothing was seen while measuring latency")
    p50, p99 = np.percentile(waits, [50, 99])
    return float(p50), float(p99)
