"""Creates and checks the topics. Partition p of every topic belongs to lane p."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from worker.contract.errors import CheckBroker, FixSetting
from worker.contract.settings import Settings
from worker.kafka import answers, clients, demands, permissions
from worker.kafka.demands import APPEND_TIME, FOREVER, Problem

TIMEOUT_SECONDS = 15.0
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
LONGEST_RESERVATION_MS = 31 * 86_400_000
# With so many replicas, two can be asked to have a record before it counts as written.
ENOUGH_REPLICAS = 3


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
        names.begun: {"cleanup.policy": "compact,delete", "retention.ms": str(LONGEST_RESERVATION_MS)},
        # The broker's time of a row is a second opinion of what time it is (service/lane_clock).
        names.ledger: {
            "cleanup.policy": "compact",
            "max.message.bytes": str(BATCH_BYTES),
            "message.timestamp.type": APPEND_TIME,
        },
        names.decisions: {
            **delete,
            "retention.ms": FOREVER,
            "max.message.bytes": str(DECISION_BYTES),
            "message.timestamp.type": APPEND_TIME,
        },
        names.deferred: {**delete, "max.message.bytes": room},
        names.dead_letters: {**delete, "max.message.bytes": room},
    }
    if settings.kafka.dispatch_format == "json":
        passed_on = JSON_GROWTH * limits.max_query_bytes + limits.max_header_bytes + ADDED_BYTES
        room = str(max(passed_on, int(room)))
    topics |= {names.dispatch(llm): {**delete, "max.message.bytes": room} for llm in settings.llms}
    if settings.kafka.replication_factor < ENOUGH_REPLICAS:
        return topics
    return {topic: {**config, "min.insync.replicas": "2"} for topic, config in topics.items()}


def kept_ms(settings: Settings) -> dict[str, int]:
    """How long each topic must keep its records at least; other topics may keep theirs as they like.

    A query is read again for each attempt. Its dispatch and its completion count for as long as money is held.
    """
    names, routing = settings.topics, settings.routing
    attempts_ms = routing.max_attempts * routing.reservation_seconds * 1000
    dispatched = dict.fromkeys(map(names.dispatch, settings.llms), routing.reservation_seconds * 1000)
    inputs = {names.queries: attempts_ms, names.completions: attempts_ms}
    return {**inputs, **dispatched, names.decisions: LONGEST_RESERVATION_MS}


def optional(settings: Settings) -> dict[str, dict[str, str]]:
    """Topics without which workers run as well. Judgements are few, and are kept as long as decisions."""
    return {settings.topics.judgements: {"cleanup.policy": "delete", "retention.ms": FOREVER}}


def has_topic(settings: Settings, topic: str) -> bool:
    """Whether a topic exists. Raises CheckBroker."""
    return topic in partitions(clients.admin_client(settings))


def create(settings: Settings) -> list[str]:
    """Create what is missing and return it; what exists, or is made by another meanwhile, is left as it is.

    Raises FixSetting if books would be made anew, and CheckBroker.
    """
    admin = clients.admin_client(settings)
    found = partitions(admin)
    topics = wanted(settings) | optional(settings)
    missing = {topic: config for topic, config in topics.items() if topic not in found}
    _keep_books(admin, settings, found)
    return make(admin, settings, missing)


def _keep_books(admin: AdminClient, settings: Settings, found: Mapping[str, int]) -> None:
    """Raise FixSetting if the ledger or the decisions are gone from a system that has decided something."""
    names = settings.topics
    lost = [topic for topic in (names.ledger, names.decisions) if topic not in found]
    written = [topic for topic in names.written(settings.llms) if topic in found]
    if lost and (used := [topic for topic in written if _ever_written(admin, topic, found[topic])]):
        raise FixSetting(
            f"{' and '.join(lost)}: missing, but {', '.join(used)} has records: made anew it would be empty, and what "
            "was spent would be forgotten; nothing was created. docs/how-to/lost-topics.md says how to go on"
        )


def _ever_written(admin: AdminClient, topic: str, count: int) -> bool:
    asked = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in range(count)}
    try:
        ends = [
            future.result().offset for future in admin.list_offsets(asked, request_timeout=TIMEOUT_SECONDS).values()
        ]
    except KafkaException as error:
        raise CheckBroker(f"{topic}: its end could not be read: {error.args[0].str()}") from error
    return any(ends)


def make(admin: AdminClient, settings: Settings, missing: Mapping[str, dict[str, str]]) -> list[str]:
    """Create these topics with these settings, and return those that nobody else made. Raises CheckBroker."""
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
        raise answers.of_client(error.args[0], "the topics could not be created") from error
    return True


def check(settings: Settings) -> list[Problem]:
    """What about the topics would lose, tear or refuse records; empty when all is well. Raises CheckBroker."""
    admin = clients.admin_client(settings)
    found, topics = partitions(admin), wanted(settings)
    absent = [topic for topic in topics if topic not in found]
    unseen = permissions.forbidden(admin, absent) if absent else set()
    problems = [
        Problem(topic, f"forbidden, or missing: {answers.MAY_NOT}", "add the ACL DESCRIBE for this topic")
        if topic in unseen
        else Problem(topic, "missing", "create it with `tollgate topics create`")
        for topic in absent
    ]
    problems += [
        Problem(topic, f"{found[topic]} partitions, not {settings.kafka.partitions}", _of_partitions(topic, settings))
        for topic in topics
        if found.get(topic, settings.kafka.partitions) != settings.kafka.partitions
    ]
    present, kept, replicas = [topic for topic in topics if topic in found], kept_ms(settings), _replicas(admin)
    for topic in present:
        have = _config(admin, topic)
        problems += demands.problems(topic, topics[topic], kept.get(topic, 0), have)
        problems += demands.replication(topic, replicas[topic], have)
    return problems


def _of_partitions(topic: str, settings: Settings) -> str:
    names = settings.topics
    if topic in (names.ledger, names.decisions):
        return "set kafka.partitions to the number that the system began with; docs/how-to/lost-topics.md says more"
    return (
        "all topics need the number of kafka.partitions: set it to the number that the system began with, and give "
        "topics that have fewer so many. docs/how-to/lost-topics.md says how to go back from more"
    )


def _replicas(admin: AdminClient) -> dict[str, int]:
    """The smallest number of replicas that a partition of each topic has."""
    topics = admin.list_topics(timeout=TIMEOUT_SECONDS).topics
    return {
        name: min((len(partition.replicas) for partition in topic.partitions.values()), default=1)
        for name, topic in topics.items()
    }


def topic_ids(admin: AdminClient, topics: Iterable[str]) -> dict[str, str]:
    """Kafka's id of each of the topics that exist. Raises CheckBroker."""
    futures = admin.describe_topics(TopicCollection([*topics]), request_timeout=TIMEOUT_SECONDS)
    found = {}
    for topic, future in futures.items():
        try:
            found[topic] = str(future.result().topic_id)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise CheckBroker(f"{topic}: its id could not be read: {error.args[0].str()}") from error
    return found


def partitions(admin: AdminClient) -> dict[str, int]:
    """How many partitions each topic of the cluster has. Raises CheckBroker."""
    try:
        topics = admin.list_topics(timeout=TIMEOUT_SECONDS).topics
    except KafkaException as error:
        raise CheckBroker(f"the topics could not be listed: {error.args[0].str()}") from error
    return {name: len(topic.partitions) for name, topic in topics.items()}


def _config(admin: AdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        entries = admin.describe_configs([resource], request_timeout=TIMEOUT_SECONDS)[resource].result()
    except KafkaException as error:
        raise answers.of_client(error.args[0], f"{topic}: its settings could not be read") from error
    return {name: entry.value for name, entry in entries.items()}
