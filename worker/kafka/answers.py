"""What a broker's refusals mean to an operator: the setting, the ACL or the broker's limit that each is about. Pure.

Both clients number the answers as Kafka does, so one table serves both.
"""

from __future__ import annotations

from typing import NamedTuple

from confluent_kafka import KafkaError

from worker.contract.errors import CheckBroker, FixSetting, TollgateError

# Answers of a cluster in which a leader or a coordinator is changing: the same request succeeds a moment later.
PASSING = frozenset(
    {
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.PREFERRED_LEADER_NOT_AVAILABLE,
        KafkaError.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)


class Meaning(NamedTuple):
    """What an answer is about; `is_setting` if another value of a setting of ours is the remedy."""

    problem: str
    remedy: str
    is_setting: bool = False


MAY_NOT = "kafka.sasl_username may not do this"
MEANINGS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: Meaning(
        f"the broker forbids the topic: {MAY_NOT}",
        "add the ACLs of docs/how-to/secure-kafka.md for this topic",
    ),
    KafkaError.GROUP_AUTHORIZATION_FAILED: Meaning(
        f"the broker forbids the consumer group: {MAY_NOT}", "add the ACL READ for this group, or change kafka.group"
    ),
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: Meaning(
        f"the broker forbids the transactional id: {MAY_NOT}",
        "add the ACL WRITE for transactional ids that begin with it",
    ),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: Meaning(
        f"the broker forbids it for the cluster: {MAY_NOT}", "add the ACLs of docs/how-to/secure-kafka.md"
    ),
    KafkaError.INVALID_SESSION_TIMEOUT: Meaning(
        "kafka.session_timeout_ms is outside of the broker's bounds",
        "set it between the broker's group.min.session.timeout.ms and group.max.session.timeout.ms",
        is_setting=True,
    ),
    KafkaError.INVALID_TRANSACTION_TIMEOUT: Meaning(
        "kafka.transaction_timeout_ms is above the broker's transaction.max.timeout.ms",
        "set it lower, or raise the broker's",
        is_setting=True,
    ),
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: Meaning(
        "another kind of consumer is in the consumer group",
        "set another kafka.group, or end the other",
        is_setting=True,
    ),
    KafkaError.GROUP_MAX_SIZE_REACHED: Meaning(
        "the consumer group is full", "start fewer workers, or raise the broker's group.max.size"
    ),
    KafkaError.FENCED_INSTANCE_ID: Meaning(
        "another worker has the same kafka.instance_id", "give each worker its own", is_setting=True
    ),
    KafkaError.UNKNOWN_TOPIC_OR_PART: Meaning(
        "there is no such topic or partition", "see what is missing with `tollgate topics check`"
    ),
    KafkaError.MSG_SIZE_TOO_LARGE: Meaning(
        "the topic takes no record so large", "raise max.message.bytes as `tollgate topics check` says"
    ),
    KafkaError.NOT_ENOUGH_REPLICAS: Meaning(
        "fewer replicas are in sync than min.insync.replicas asks for", "start the brokers that are down"
    ),
}


def meaning(code: int) -> Meaning | None:
    """What a code is about; None for those that say all by themselves."""
    return MEANINGS.get(code)


def of_client(error: KafkaError, what: str) -> TollgateError:
    """The error of a request about `what`: a topic and partition, a transactional id, and so on."""
    return _named(error.code(), what, error.str())


def of_group(error: BaseException, group: str) -> TollgateError:
    """The answer that keeps a worker out of its consumer group; aiokafka's errors have Kafka's code as `errno`."""
    return _named(getattr(error, "errno", None), f"kafka.group {group}", str(error) or repr(error))


def of_instance(group: str) -> TollgateError:
    """The answer to a member of a group that was put out by another one with its instance id."""
    return _named(KafkaError.FENCED_INSTANCE_ID, f"kafka.group {group}", "this one was put out")


def _named(code: int | None, what: str, said: str) -> TollgateError:
    known = None if code is None else meaning(code)
    if known is None:
        return CheckBroker(f"{what}: {said}")
    kind = FixSetting if known.is_setting else CheckBroker
    return kind(f"{what}: {known.problem}; {known.remedy} ({said})")
