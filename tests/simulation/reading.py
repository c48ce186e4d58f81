"""What the product's own readers say of a simulated log: the proof of `tollgate verify` and the replay."""

from __future__ import annotations

from functools import partial

from worker.audit.input_check import Originals
from worker.audit.ledger_view import read_ledger
from worker.audit.recorded_prices import Solutions
from worker.audit.replay import Checks, Replay, replay
from worker.audit.run_replay import stream
from worker.audit.topics import PartitionTopics
from worker.audit.verify import Verified, verify
from worker.contract.messages import Configuration
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
