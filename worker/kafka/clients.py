"""Both Kafka clients from one settings object, and reading a partition to its end.

librdkafka (confluent-kafka) writes and reads ledgers; aiokafka, under Faust, consumes the inputs. Their security
settings are two dialects; here both are named in full, so that neither falls back to a default of its own.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import methodcaller
from typing import Any, TypeVar

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from worker.contract.errors import CheckBroker, FixSetting
from worker.contract.record import UNREADABLE_HEADERS, Headers, StoredRecord
from worker.contract.settings import KafkaSettings, Settings

TIMEOUT_SECONDS = 15.0
SOCKET_TIMEOUT_MS = 10_000
READ_RECORDS = 10_000
# Every transaction ends with its account row; only what was aborted since lies after it.
TAIL_RECORDS, TAIL_GROWTH = 100, 10
# `consume` waits this long for a full block, so it is what reading a short partition takes.
READ_SECONDS = 0.05
RETRY_SECONDS = 0.2
Answer = TypeVar("Answer")
PASSING = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
# For a name that is not UTF-8, confluent-kafka returns a list with holes *and* sets an exception. A call that Python
# has specialised does not look for that, and whoever touches the list crashes; this one looks and raises SystemError.
_call_headers = methodcaller("headers")
# Above the largest record that any topic of ours accepts; the topics' own limits are what is enforced.
MAX_MESSAGE_BYTES = 160_000_000


def common_config(settings: Settings) -> dict[str, Any]:
    """librdkafka's connection settings."""
    kafka = settings.kafka
    config: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "client.id": kafka.group,
        "security.protocol": kafka.security_protocol,
        "socket.timeout.ms": SOCKET_TIMEOUT_MS,
        "log_level": 2,
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
        raise CheckBroker(f"kafka.bootstrap_servers: {servers} does not answer: {reason}") from error
    return admin


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
    """An idempotent producer. Partitioned as Java does (murmur2), where no partition is named."""
    return common_config(settings) | {
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "linger.ms": 5,
        "message.max.bytes": MAX_MESSAGE_BYTES,
    }


def transactional_config(settings: Settings, partition: int) -> dict[str, Any]:
    """The producer of one lane: a fixed transactional id, so that a new owner fences the old one (KIP-98)."""
    return producer_config(settings) | {
        "transactional.id": f"{settings.kafka.group}-{partition}",
        "transaction.timeout.ms": settings.kafka.transaction_timeout_ms,
        # No request may outlast the transaction; librdkafka refuses to start otherwise.
        "socket.timeout.ms": min(SOCKET_TIMEOUT_MS, settings.kafka.transaction_timeout_ms),
        # The commit flushes at once; until then a batch gathers into one request per partition.
        "linger.ms": 0,
        "compression.type": "none",
        # No limits on what waits to be sent: a transaction is as large as what was decided (0: no limit), and a limit
        # that one meets, it meets again after every restart. The second is librdkafka's greatest.
        "queue.buffering.max.messages": 0,
        "queue.buffering.max.kbytes": 2**31 - 1,
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


def end_offset(settings: Settings, topic: str, partition: int) -> int:
    """The offset after the last committed record. Raises CheckBroker."""
    consumer = Consumer(consumer_config(settings, f"{settings.kafka.group}-read"))
    try:
        return watermarks(consumer, TopicPartition(topic, partition))[1]
    finally:
        consumer.close()


def watermarks(consumer: Consumer, where: TopicPartition) -> tuple[int, int]:
    """The first offset of a partition and the one after its last committed record. Raises CheckBroker.

    Tried again for TIMEOUT_SECONDS: a broker that comes back needs a moment until its partitions have leaders.
    """
    low, high = _patiently(
        f"{where.topic}/{where.partition}", lambda: consumer.get_watermark_offsets(where, timeout=TIMEOUT_SECONDS)
    )
    return int(low), int(high)


def _patiently(what: str, ask: Callable[[], Answer]) -> Answer:
    patience = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in PASSING or time.monotonic() > patience:
                raise CheckBroker(f"{what}: {error.args[0].str()}") from error
            time.sleep(RETRY_SECONDS)


def open_transactions(settings: Settings, topics: Sequence[str], partition: int) -> set[str]:
    """Those of the topics that hold records of a transaction which has not ended, in this partition.

    Raises CheckBroker; as patient as `watermarks`.
    """
    places = {TopicPartition(topic, partition): OffsetSpec.latest() for topic in topics}
    admin = AdminClient(common_config(settings))

    def ends(isolation: IsolationLevel) -> dict[str, int]:
        asked = admin.list_offsets(places, isolation_level=isolation, request_timeout=TIMEOUT_SECONDS)
        return {where.topic: int(future.result().offset) for where, future in asked.items()}

    stable, last = (
        _patiently(f"partition {partition}", partial(ends, isolation))
        for isolation in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
    )
    return {topic for topic in topics if stable[topic] < last[topic]}


def read_partition(
    settings: Settings, topic: str, partition: int, start: int | None = None, end: int | None = None
) -> Iterator[StoredRecord]:
    """The committed records from `start` (None: the oldest) to before `end` (None: the end as it is now).

    Raises CheckBroker if the broker does not answer in time.
    """
    consumer = Consumer(consumer_config(settings, f"{settings.kafka.group}-read"))
    try:
        where = TopicPartition(topic, partition)
        low, high = watermarks(consumer, where)
        end = high if end is None else min(end, high)
        first = max(low, start or 0)
        if first < end:
            consumer.assign([TopicPartition(topic, partition, first)])
            yield from _read_to(consumer, where, end)
    except KafkaException as error:
        raise CheckBroker(f"{topic}/{partition}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def last_value(settings: Settings, topic: str, partition: int, key: bytes) -> bytes | None:
    """The newest committed value of a key, looked for from the end backwards; None where there is none.

    Raises CheckBroker if the broker does not answer in time.
    """
    end, records = end_offset(settings, topic, partition), TAIL_RECORDS
    while True:
        start = max(0, end - records)
        values = [r.value for r in read_partition(settings, topic, partition, start, end) if r.key == key]
        if values or start == 0:
            return values[-1] if values else None
        records *= TAIL_GROWTH


def _read_to(consumer: Consumer, where: TopicPartition, end: int) -> Iterator[StoredRecord]:
    patience = time.monotonic() + TIMEOUT_SECONDS
    while consumer.position([where])[0].offset < end:
        messages = consumer.consume(READ_RECORDS, timeout=READ_SECONDS)
        if messages:
            patience = time.monotonic() + TIMEOUT_SECONDS
        elif time.monotonic() > patience:
            raise CheckBroker(f"{where.topic}/{where.partition}: no answer in {TIMEOUT_SECONDS:.0f} s")
        for message in messages:
            if (error := message.error()) is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return
                raise KafkaException(error)
            if message.offset() >= end:
                return
            yield stored(message)


def stored(message: Any) -> StoredRecord:
    """A confluent-kafka message as a record."""
    return StoredRecord(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        _headers(message),
    )


def _headers(message: Any) -> Headers:
    try:
        return _call_headers(message) or ()
    except (UnicodeDecodeError, SystemError):
        return UNREADABLE_HEADERS
