"""How long records take until a read_committed consumer sees them, at a steady rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from worker.contract.dispatch_id import DispatchId
from worker.contract.errors import CheckFailed
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.kafka import clients
from worker.kafka.reader import KafkaReader
from worker.local.load import LoadGenerator

QUIET_SECONDS = 1.0

Origin = tuple[int, int]


def of_query(record: StoredRecord) -> Origin:
    """A query is its own origin."""
    return record.partition, record.offset


def of_dispatch(record: StoredRecord) -> Origin | None:
    """The query that a dispatch is the first attempt of."""
    dispatch = DispatchId.parse((record.key or b"").decode())
    return None if dispatch is None or dispatch.attempt != 1 else (dispatch.partition, dispatch.offset)


class Arrivals:
    """Reads topics read_committed from their ends on; `seen` maps the origin of a record to when it was visible."""

    def __init__(
        self, settings: Settings, topics: Sequence[str], origin: Callable[[StoredRecord], Origin | None]
    ) -> None:
        config = clients.consumer_config(settings, "bench-reader") | {
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 1,
            "enable.partition.eof": False,
        }
        self._origin = origin
        self._consumer = Consumer(config)
        places = [(topic, partition) for topic in topics for partition in range(settings.kafka.partitions)]
        # Not "latest", which is the end when the broker is first asked: records produced before that would be missed.
        ends = KafkaReader(settings).ends(places)
        self._consumer.assign([TopicPartition(*place, end) for place, end in ends.items()])
        self.seen: dict[Origin, float] = {}
        self.heard = time.monotonic()

    def poll(self, seconds: float = 0.1) -> None:
        """Take the next record, if one comes in so long. Raises CheckBroker."""
        for record in clients.consume(self._consumer, 1, seconds).records:
            self.heard = time.monotonic()
            if (origin := self._origin(record)) is not None:
                self.seen[origin] = self.heard

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def measured(arrivals: Arrivals, load: LoadGenerator, warm_seconds: float) -> tuple[float, float]:
    """p50 and p99 in milliseconds from produced to seen, of what is produced after `warm_seconds`.

    Raises CheckFailed if nothing was seen.
    """
    started = time.monotonic()
    load.start()
    while load.running or time.monotonic() - arrivals.heard < QUIET_SECONDS:
        arrivals.poll()
    load.finish()
    arrivals.close()
    waits = [
        (seen - load.sent[where]) * 1000
        for where, seen in arrivals.seen.items()
        if where in load.sent and load.sent[where] - started > warm_seconds
    ]
    if not waits:
        raise CheckFailed("nothing was seen while measuring latency")
    p50, p99 = np.percentile(waits, [50, 99])
    return float(p50), float(p99)
