"""The configurations of both Kafka clients from one settings object; producing and consuming with confluent-kafka.

librdkafka (confluent-kafka) writes and reads ledgers. aiokafka, under Faust, consumes the inputs. They name their
security settings differently. Here every such setting is given to both, so that neither uses a default of its own.
"""

from __future__ import annotations

import logging
import ssl
import sys
from collections.abc import Callable
from operator import methodcaller
from typing import Any, NamedTuple, Protocol, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient

from worker.contract.errors import CheckBroker, FixSetting
from worker.contract.record import UNREADABLE_HEADERS, Headers, StoredRecord
from worker.contract.settings import KafkaSettings, Settings
from worker.kafka import answers, security

TIMEOUT_SECONDS = 15.0
# A thread that lets go of the interpreter for a call waits up to Python's usual 5 ms for a busy one to give it back; a
# commit makes many such calls.
SWITCH_SECONDS = 0.0005
SOCKET_TIMEOUT_MS = 10_000
# A full producer queue is looked at again after this time.
QUEUE_SECONDS = 0.1
ANY_PARTITION, NOW_MS = -1, 0
# What the clients of Java, Go and Node do by default. librdkafka's own default is CRC32, which puts the same key in
# another partition.
PARTITIONER = "murmur2_random"
Delivered = Callable[[KafkaError | None, Message], None]
# For a name that is not UTF-8, confluent-kafka returns a list with holes *and* sets an exception. A call that Python
# has specialised does not look for that exception, and the list crashes its reader; this call looks, and raises
# SystemError.
_call_headers = methodcaller("headers")
# Above the largest record that any topic of ours accepts; the topics' own limits are what is enforced.
MAX_MESSAGE_BYTES = 160_000_000


def give_way() -> None:
    """Let busy threads of this process give the interpreter back early."""
    sys.setswitchinterval(SWITCH_SECONDS)


def common_config(settings: Settings) -> dict[str, Any]:
    """librdkafka's connection settings."""
    kafka = settings.kafka
    config: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "client.id": kafka.group,
        "security.protocol": kafka.security_protocol,
        "socket.timeout.ms": SOCKET_TIMEOUT_MS,
        "log_level": 2,
        # A topic is made by `tollgate topics create`, with its settings, or by nobody.
        "allow.auto.create.topics": False,
    }
    if kafka.security_protocol.startswith("SASL"):
        config |= {
            "sasl.mechanism": kafka.sasl_mechanism,
            "sasl.username": kafka.sasl_username,
            "sasl.password": kafka.password(),
        }
    if kafka.security_protocol.endswith("SSL"):
        config |= _ssl_config(kafka)
    return config


def admin_client(settings: Settings) -> AdminClient:
    """An admin client that has reached the broker. Raises CheckBroker with what kept it from that."""
    met: list[KafkaError] = []
    admin = AdminClient(common_config(settings) | {"error_cb": met.append})
    try:
        admin.list_topics(timeout=TIMEOUT_SECONDS)
    except KafkaException as error:
        admin.poll(0)
        # librdkafka answers with a time-out whatever it was; the first error that it met names a host, a login, a
        # certificate.
        reason = met[0].str() if met else error.args[0].str()
        servers = settings.kafka.bootstrap_servers
        if (wrong := security.mismatch(settings.kafka)) is not None:
            raise FixSetting(f"kafka.security_protocol: {wrong}") from error
        raise CheckBroker(f"kafka.bootstrap_servers: {servers} does not answer: {reason}") from error
    return admin


def has_members(admin: AdminClient, group: str) -> bool:
    """Whether a consumer group has a member. True if the broker does not say."""
    try:
        found = admin.describe_consumer_groups([group], request_timeout=TIMEOUT_SECONDS)[group].result()
    except KafkaException:
        return True
    return bool(found.members)


def is_replaced(settings: Settings, member_id: str) -> bool:
    """Whether another member has the instance id of this process in the group of the workers. False if the broker does
    not say."""
    group, mine = settings.kafka.group, settings.kafka.instance_id
    if mine is None:
        return False
    try:
        admin = admin_client(settings)
        found = admin.describe_consumer_groups([group], request_timeout=TIMEOUT_SECONDS)[group].result()
    except (KafkaException, CheckBroker):
        return False
    return any(one.group_instance_id == mine and one.member_id != member_id for one in found.members)


def _ssl_config(kafka: KafkaSettings) -> dict[str, Any]:
    # Files that hold no certificate are refused here, in one way for both clients.
    ssl_context(kafka)
    files = {
        "ssl.ca.location": kafka.ssl_ca_file,
        "ssl.certificate.location": kafka.ssl_certificate_file,
        # A certificate's file may hold its key too; the other client looks for it there by itself.
        "ssl.key.location": kafka.ssl_key_file or kafka.ssl_certificate_file,
    }
    config: dict[str, Any] = {name: str(path) for name, path in files.items() if path is not None}
    config["enable.ssl.certificate.verification"] = kafka.ssl_verify
    config["ssl.endpoint.identification.algorithm"] = "https" if kafka.ssl_verify else "none"
    return config


def ssl_context(kafka: KafkaSettings) -> ssl.SSLContext | None:
    """The same for aiokafka, which takes a context; None where the protocol has no TLS.

    Raises FixSetting for a file that holds no certificate or key.
    """
    if not kafka.security_protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_ca_file)
        if kafka.ssl_certificate_file is not None:
            # With no password, a key that needs one is refused; without any, the terminal would be asked.
            context.load_cert_chain(kafka.ssl_certificate_file, kafka.ssl_key_file, password="")
    except OSError as error:
        raise FixSetting(f"kafka.ssl_*_file: a file holds no usable certificate or key: {error}") from error
    if not kafka.ssl_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def producer_config(settings: Settings) -> dict[str, Any]:
    """An idempotent producer. A record with a key and no partition goes where a Java client sends that key."""
    return common_config(settings) | {
        # Else librdkafka writes lines of its own to standard error, and waits for its reader. (Not for an admin client:
        # nothing there polls the log.)
        "logger": logging.getLogger("librdkafka"),
        "enable.idempotence": True,
        "partitioner": PARTITIONER,
        "linger.ms": 5,
        "message.max.bytes": MAX_MESSAGE_BYTES,
    }


def transactional_config(settings: Settings, partition: int) -> dict[str, Any]:
    """The producer of one lane: a fixed transactional id, so that a new owner fences the old one (KIP-98).

    It is named after the ledger that it protects, so that nobody can write to a ledger unfenced under another name.
    """
    return producer_config(settings) | {
        "transactional.id": f"tollgate-{settings.topics.ledger}-{partition}",
        "transaction.timeout.ms": settings.kafka.transaction_timeout_ms,
        # No request may outlast the transaction; librdkafka refuses to start otherwise.
        "socket.timeout.ms": min(SOCKET_TIMEOUT_MS, settings.kafka.transaction_timeout_ms),
        # The commit flushes at once; until then a batch gathers into one request per partition.
        "linger.ms": 0,
        "compression.type": "none",
        # Only what fails is told: a call for each record that arrives would cost more than the record.
        "delivery.report.only.error": True,
        # No limits on what waits to be sent: a transaction is as large as what was decided (0: no limit), and a limit
        # that one meets, it meets again after every restart. The second is librdkafka's greatest.
        "queue.buffering.max.messages": 0,
        "queue.buffering.max.kbytes": 2**31 - 1,
    }


def batch_config(settings: Settings, name: str) -> dict[str, Any]:
    """The producer of one batch: a transactional id of its name, so that who resumes it fences the process before.

    It is named after the queries that it writes, so that two systems with one group do not fence each other.
    """
    return producer_config(settings) | {
        "transactional.id": f"tollgate-batch-{settings.topics.queries}-{name}",
        "transaction.timeout.ms": settings.kafka.transaction_timeout_ms,
        "socket.timeout.ms": min(SOCKET_TIMEOUT_MS, settings.kafka.transaction_timeout_ms),
        "linger.ms": 0,
    }


def consumer_config(settings: Settings, group: str) -> dict[str, Any]:
    """A read_committed consumer that stores no offsets by itself."""
    return common_config(settings) | {
        "group.id": group,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 100,
        "receive.message.max.bytes": MAX_MESSAGE_BYTES + 100_000_000,
    }


# Producing and consuming


class TransactionalProducer(Protocol):
    """The methods of confluent_kafka.Producer that are used here; timeouts are in seconds."""

    def init_transactions(self, timeout: float) -> None: ...
    def begin_transaction(self) -> None: ...
    def commit_transaction(self, timeout: float) -> None: ...
    def abort_transaction(self, timeout: float) -> None: ...
    def flush(self, timeout: float) -> int: ...
    def poll(self, timeout: float) -> int: ...
    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: str | bytes | None,
        partition: int,
        *,
        on_delivery: Delivered | None,
        timestamp: int,
        headers: list[tuple[str, str | bytes | None]] | None,
    ) -> None: ...


def produce(
    producer: TransactionalProducer,
    topic: str,
    value: bytes | None,
    key: str | bytes | None = None,
    partition: int = ANY_PARTITION,
    *,
    headers: Headers = (),
    timestamp_ms: int = NOW_MS,
    on_delivery: Delivered | None = None,
) -> None:
    """Give one record to a producer. If the producer's queue is full, wait until it has sent some of it."""
    while True:
        try:
            producer.produce(
                topic, value, key, partition, headers=[*headers], timestamp=timestamp_ms, on_delivery=on_delivery
            )
            return
        except BufferError:
            producer.poll(QUEUE_SECONDS)


def flush(producer: TransactionalProducer, seconds: float) -> int:
    """Wait until all records are acknowledged or have failed, for `seconds` at most; how many are neither."""
    try:
        return producer.flush(seconds)
    except SystemError:
        # confluent-kafka loses the error of a producer that has failed for good. Its next request tells it.
        return 0


class Block(NamedTuple):
    """Records that were consumed together, and the partitions whose end was reached."""

    records: list[StoredRecord]
    ended: set[tuple[str, int]]


def consume(consumer: Consumer, count: int, seconds: float, is_patient: bool = False) -> Block:
    """Up to `count` records, after `seconds` at most.

    Raises CheckBroker for an error of the broker, but for one that passes. If `is_patient`, errors that end when the
    broker comes back are skipped too. `consumer` is in no group: it was given its partitions.
    """
    records: list[StoredRecord] = []
    ended: set[tuple[str, int]] = set()
    for message in consumer.consume(count, timeout=seconds):
        error = message.error()
        if error is None:
            records.append(stored(message))
        elif error.code() == KafkaError._PARTITION_EOF:
            ended.add((message.topic() or "", message.partition() or 0))
        elif error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            # librdkafka looks for the coordinator of a group that nobody joins, and need not be allowed to.
            continue
        elif error.fatal() or error.code() in answers.MEANINGS or not (is_patient or passes(error)):
            raise answers.of_client(error, where(message))
    return Block(records, ended)


def passes(error: KafkaError) -> bool:
    """Whether the same request may succeed a moment later, in a cluster that answers."""
    # The admin client says _NOENT while no partition has a leader.
    return error.code() in (*answers.PASSING, KafkaError._NOENT) or error.retriable()


def place_of(message: Message) -> tuple[int, int]:
    """Partition and offset of a record that was delivered or consumed."""
    # Only a message of an error may lack them.
    return cast(tuple[int, int], (message.partition(), message.offset()))


def where(message: Message) -> str:
    """What an error that was consumed is about: a topic and a partition, or only the broker."""
    return f"{message.topic()}/{message.partition()}" if message.topic() else "the broker"


def stored(message: Message) -> StoredRecord:
    """A confluent-kafka message as a record."""
    return StoredRecord(
        cast(str, message.topic()),
        *place_of(message),
        message.timestamp()[1],
        message.key(),
        message.value(),
        _headers(message),
    )


def _headers(message: Message) -> Headers:
    try:
        return _call_headers(message) or ()
    except (UnicodeDecodeError, SystemError):
        return UNREADABLE_HEADERS
