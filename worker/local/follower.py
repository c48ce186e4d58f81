"""Follows the `decisions` of a running system as a reader sees them: decided queries, their times, open dispatches."""

from __future__ import annotations

import time
from collections.abc import Callable

from confluent_kafka import Consumer, TopicPartition

from worker.contract import codec
from worker.contract.decisions import Cause, Closed, Rejected, Routed
from worker.contract.errors import CheckFailed
from worker.contract.settings import Settings
from worker.kafka import clients
from worker.kafka.clock import poll_until

POLL_RECORDS = 1_000


class DecisionFollower:
    """Counts decisions from the beginning of the topic. Read-only: it joins no group and commits nothing.

    `decided` maps (partition, offset) of a query to the monotonic time at which its decision could be read;
    `open` counts dispatches that no completion or deadline has closed.
    """

    def __init__(self, settings: Settings) -> None:
        # Fetches that wait 5 ms at most: the time at which a decision is seen is what the demo reports as latency.
        config = clients.consumer_config(settings, f"{settings.kafka.group}-watch") | {
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 1,
            "enable.partition.eof": False,
        }
        self._consumer = Consumer(config)
        topic = settings.topics.decisions
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(settings.kafka.partitions)])
        self.decided: dict[tuple[int, int], float] = {}
        self.dispatched = self.open = self.settled = self.failed = 0

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def poll(self, seconds: float = 0.1) -> None:
        """Read what there is, waiting up to `seconds` for the first record. Raises CheckBroker."""
        records = clients.consume(self._consumer, 1, seconds, is_patient=True).records
        if records:
            records += clients.consume(self._consumer, POLL_RECORDS, 0, is_patient=True).records
        now = time.monotonic()
        for record in records:
            self._decision(record.partition, codec.decode_decision(record.value or b""), now)

    def wait(self, what: str, condition: Callable[[], bool], seconds: float, each: Callable[[], None]) -> None:
        """Read on until `condition` holds, calling `each` now and then. Raises CheckFailed after `seconds`."""

        def read_on() -> bool:
            if condition():
                return True
            self.poll()
            each()
            return condition()

        if not poll_until(read_on, seconds, every_seconds=0):
            raise CheckFailed(f"waited {seconds:.0f} s for {what}: {self}")

    def __repr__(self) -> str:
        return f"{len(self.decided)} queries decided, {self.dispatched} dispatches, {self.open} of them open"

    def _decision(self, partition: int, decision: object, now: float) -> None:
        match decision:
            case Routed():
                self.decided.setdefault((partition, decision.offset), now)
                if decision.llm is not None:
                    self.dispatched += 1
                    self.open += 1
            case Rejected(cause=Cause(kind="queries", number=offset)):
                self.decided.setdefault((partition, offset), now)
            case Closed():
                self.open -= 1
                self.settled += decision.outcome == "settled"
                self.failed += decision.outcome != "settled"
