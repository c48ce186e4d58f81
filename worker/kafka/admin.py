"""Creates and checks the topics. Partition p of every topic belongs to lane p."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from worker.contract.errors import CheckBroker
from worker.contract.settings import Settings
from worker.kafka import clients

TIMEOUT_SECONDS = 15.0
FOREVER = "-1"
# A checkpoint's record holds a window of up to 100,000 rows, or 5,000 reservations.
DECISION_BYTES = 64_000_000
# What a dispatch or a dead letter adds of its own to what it passes on, and what an embedding of numbers in JSON grows
# by as MessagePack beyond three times its size.
ADDED_BYTES = 16_384
# A query grows most as JSON where its MessagePack holds one byte for each `false`, or for each control character.
JSON_GROWTH = 8
# A producer sends small records together, up to librdkafka's batch.size of 1,000,000 bytes.
BATCH_BYTES = 1_048_576
# No reservation is open for longer.
BEGUN_MS = 31 * 86_400_000


@dataclass(frozen=True)
class Problem:
    """One way in which a topic is not what Tollgate needs, and what to do."""

    topic: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.problem}; {self.remedy}"


def wanted(settings: Settings) -> dict[str, dict[str, str]]:
    """Every topic with the settings that matter; others stay the broker's."""
    names, limits = settings.topics, settings.limits
    largest = max(limits.max_query_bytes, limits.max_dead_letter_bytes, limits.max_completion_bytes)
    room = str(max(3 * largest + limits.max_header_bytes + ADDED_BYTES, BATCH_BYTES))
    delete = {"cleanup.policy": "delete"}
    answer_bytes = settings.inference.max_answer_bytes + limits.max_header_bytes + ADDED_BYTES
    retention_ms = settings.inference.answer_retention_hours * 3_600_000
    topics = {
        names.queries: delete,
        names.completions: delete,
        names.answers: {
            **delete,
            "retention.ms": str(retention_ms),
            "max.message.bytes": str(max(answer_bytes, BATCH_BYTES)),
        },
        # A row stays until its call has ended; rows of lost calls only as long as a query of theirs may be tried.
        names.begun: {"cleanup.policy": "compact,delete", "retention.ms": str(BEGUN_MS)},
        names.ledger: {"cleanup.policy": "compact", "max.message.bytes": str(BATCH_BYTES)},
        names.decisions: {**delete, "retention.ms": FOREVER, "max.message.bytes": str(DECISION_BYTES)},
        names.deferred: {**delete, "max.message.bytes": room},
        names.dead_letters: {**delete, "max.message.bytes": room},
    }
    if settings.kafka.dispatch_format == "json":
        passed_on = JSON_GROWTH * limits.max_query_bytes + limits.max_header_bytes + ADDED_BYTES
        room = str(max(passed_on, int(room)))
    return topics | {names.dispatch(llm): {**delete, "max.message.bytes": room} for llm in settings.llms}


def create(settings: Settings) -> list[str]:
    """Create what is missing and return it; what exists, or is made by another meanwhile, is left as it is.

    Raises CheckBroker.
    """
    admin = clients.admin_client(settings)
    missing = {topic: config for topic, config in wanted(settings).items() if topic not in _partitions(admin)}
    kafka = settings.kafka
    new = [
        NewTopic(name, kafka.partitions, kafka.replication_factor, config=config) for name, config in missing.items()
    ]
    futures = admin.create_topics(new, request_timeout=TIMEOUT_SECONDS) if new else {}
    return [name for name, future in futures.items() if _is_made(future)]


def _is_made(future: Future[None]) -> bool:
    """Whether we made it; False if another was faster."""
    try:
        future.result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise CheckBroker(f"the topics could not be created: {error.args[0].str()}") from error
    return True


def check(settings: Settings) -> list[Problem]:
    """What about the topics would lose, tear or refuse records; empty when all is well. Raises CheckBroker."""
    admin = clients.admin_client(settings)
    partitions, topics = _partitions(admin), wanted(settings)
    problems = [
        Problem(topic, "missing", "create it with `tollgate topics create`")
        for topic in topics
        if topic not in partitions
    ]
    problems += [
        Problem(
            topic,
            f"{partitions[topic]} partitions, not {settings.kafka.partitions}",
            "all topics need the number of kafka.partitions: change the setting, or make the topic anew",
        )
        for topic in topics
        if partitions.get(topic, settings.kafka.partitions) != settings.kafka.partitions
    ]
    present = [topic for topic in topics if topic in partitions]
    return problems + [
        found for topic in present for found in _config_problems(topic, topics[topic], _config(admin, topic))
    ]


def _config_problems(topic: str, want: dict[str, str], have: dict[str, str]) -> list[Problem]:
    problems = []
    if have["cleanup.policy"] != want["cleanup.policy"]:
        set_it = f"set cleanup.policy={want['cleanup.policy']}"
        problems.append(Problem(topic, f"cleanup.policy is {have['cleanup.policy']}", set_it))
    needed = int(want.get("max.message.bytes", 0))
    if int(have["max.message.bytes"]) < needed:
        problems.append(
            Problem(topic, f"max.message.bytes is {have['max.message.bytes']}", f"set it to {needed} at least")
        )
    return problems


def _partitions(admin: AdminClient) -> dict[str, int]:
    topics = admin.list_topics(timeout=TIMEOUT_SECONDS).topics
    return {name: len(topic.partitions) for name, topic in topics.items()}


def _config(admin: AdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        entries = admin.describe_configs([resource], request_timeout=TIMEOUT_SECONDS)[resource].result()
    except KafkaException as error:
        raise CheckBroker(f"{topic}: its settings could not be read: {error.args[0].str()}") from error
    return {name: entry.value for name, entry in entries.items()}
