"""Follows a running system from its `decisions`, as a reader sees them: what was decided, when, and what is open."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from worker.contract import codec
from worker.contract.errors import CheckBroker, CheckFailed
from worker.contract.messages import Closed, Rejected, Routed
from worker.contract.settings import Settings
from worker.kafka import clients

POLL_RECORDS = 1_000


class Watch:
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
        messages = [message for message in [self._consumer.poll(seconds)] if message is not None]
        if messages:
            messages += self._consumer.consume(POLL_RECORDS, timeout=0)
        self._count(messages, time.monotonic())

    def wait(self, what: str, condition: Callable[[], bool], seconds: float, each: Callable[[], None]) -> None:
        """Read on until `condition` holds, calling `each` now and then. Raises CheckFailed after `seconds`."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise CheckFailed(f"waited {seconds:.0f} s for {what}: {self}")
            self.poll()
            each()

    def __repr__(self) -> str:
        return f"{len(self.decided)} queries decided, {self.dispatched} dispatches, {self.open} of them open"

    def _count(self, messages: Sequence[Any], now: float) -> None:
        for message in messages:
            if (error := message.error()) is None:
                self._decision(message.partition(), codec.decode_decision(message.value()), now)
            elif error.fatal() or error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise CheckBroker(str(error)) from KafkaException(error)

    def _decision(self, partition: int, decision: object, now: float) -> None:
        match decision:
            case Routed():
                self.decided.setdefault((partition, decision.offset), now)
                if decision.llm is not None:
                    self.dispatched += 1
                    self.open += 1
            case Rejected(topic="queries"):
                self.decided.setdefault((partition, decision.offset), now)
            case Closed():
                self.open -= 1
                self.settled += decision.outcome == "settled"
                self.failed += decision.outcome != "settled"
