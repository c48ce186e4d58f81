"""What the product's own readers say of a simulated log: the proof of `tollgate verify` and the replay."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from worker.audit.input_check import Originals
from worker.audit.ledger_view import read_ledger
from worker.audit.recorded_prices import Solutions
from worker.audit.replay import Checks, Replay, replay
from worker.audit.run_replay import stream
from worker.audit.topics import PartitionTopics
from worker.audit.verify import Verified, verify
from worker.contract import codec
from worker.contract.messages import Configuration
from worker.contract.record import StoredRecord
from worker.contract.settings import LimitSettings
from worker.contract.topic_names import TopicNames
from worker.core.pricing import Prior
from worker.kafka.memory import Log, MemoryReader

TOPICS = TopicNames("")


def proven(log: Log, partition: int) -> Verified:
    """The proof of one partition."""
    llms = {topic.removeprefix("dispatch.") for topic, _ in log.entries if topic.startswith("dispatch.")}
    return verify(partition, TOPICS, llms, PartitionTopics(MemoryReader(log), partition))


def replayed(log: Log, partition: int, prior: Prior, config: Configuration, share: float) -> Replay:
    """The replay of the decisions of one partition, without the first `share` of them, with its inputs."""
    topics = PartitionTopics(MemoryReader(log), partition)
    originals = Originals(LimitSettings(), stream(topics, TOPICS.queries), stream(topics, TOPICS.completions))
    records = [*topics.read([TOPICS.decisions])]
    checks = Checks(originals, read_ledger=partial(read_ledger, topics, TOPICS.ledger))
    result = Replay(partition, TOPICS.decisions)
    return replay(result, records[int(len(records) * share) :], prior, Solutions(config.index), checks)


def fields(value: bytes) -> dict[str, Any]:
    """The fields of a completion that closed a reservation."""
    read = codec.completion_fields(value, 100_000, 64)
    assert isinstance(read, dict), f"{read} closed a reservation"
    return read


def by_topic(records: Iterable[StoredRecord]) -> dict[str, list[StoredRecord]]:
    """Records by their topic."""
    topics: dict[str, list[StoredRecord]] = {}
    for record in records:
        topics.setdefault(record.topic, []).append(record)
    return topics


def values(records: Iterable[StoredRecord], topic: str) -> list[bytes]:
    """The values of the records of a topic."""
    return [record.value or b"" for record in records if record.topic == topic]


def dead_letter_origin(record: StoredRecord) -> tuple[str, int]:
    """The topic and the offset of the record that a dead letter holds."""
    headers = {name: (value or b"").decode() for name, value in record.headers}
    return headers["__connect.errors.topic"], int(headers["__connect.errors.offset"])
