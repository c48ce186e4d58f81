"""What the product's own readers say of a simulated log: the proof of `tollgate verify` and the replay."""

from __future__ import annotations

from functools import partial

from worker.audit.evidence import Evidence
from worker.audit.input_check import Originals
from worker.audit.inputs import Stream
from worker.audit.recorded_prices import Solutions
from worker.audit.replay import Replay
from worker.audit.run_verify import PartitionTopics
from worker.audit.verify import Verified, verify
from worker.contract import codec
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
    """The finished replay of the decisions of one partition, without the first `share` of them, beside its inputs."""
    [row] = [record for record in log.read((TOPICS.ledger, partition)) if record.key == b"account"][-1:]
    queries, completions = (_stream(log, (topic, partition)) for topic in (TOPICS.queries, TOPICS.completions))
    originals = Originals(LimitSettings(), queries, completions)
    evidence = Evidence(originals, row=codec.decode_account(row.value or b""))
    replay = Replay(partition, TOPICS.decisions, prior, Solutions(config.index), evidence)
    records = [*log.read((TOPICS.decisions, partition))]
    for record in records[int(len(records) * share) :]:
        replay.feed(record)
    replay.finish()
    return replay


def _stream(log: Log, place: tuple[str, int]) -> Stream:
    return Stream(partial(log.read, place), log.oldest(place))
