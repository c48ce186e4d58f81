"""A record goes to the same partition of a real topic, whichever client produces it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence

import pytest
from confluent_kafka import Message, Producer

from tests.contract import fixtures
from tests.contract.test_clients import PROGRAMS
from worker.contract.settings import Settings
from worker.kafka import clients
from worker.local import broker as local_broker
from worker.local.broker import Broker
from worker.local.system import System

KEYS = [f"order-{number}" for number in range(40)] + [key for key in fixtures.KEYS if key]


def produced_by_us(settings: Settings) -> list[int]:
    """The partition of each key with our own producer."""
    partitions: list[int] = []

    def delivered(_: object, message: Message) -> None:
        partitions.append(clients.place_of(message)[0])

    producer = Producer(clients.producer_config(settings))
    for key in KEYS:
        clients.produce(producer, settings.topics.queries, b"{}", key, on_delivery=delivered)
        producer.flush(30)
    return partitions


def produced_by_java(settings: Settings, command: Sequence[str]) -> list[int]:
    """The partition of each key with Kafka's Java client."""
    arguments = [settings.kafka.bootstrap_servers, settings.topics.queries, *KEYS]
    run = subprocess.run(
        [*command, "Produce.java", *arguments], cwd=PROGRAMS, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return [int(line) for line in run.stdout.splitlines()]


def test_our_producers_partition_as_the_other_clients_do(
    system: System, prepare: Callable[..., Settings], broker: Broker
) -> None:
    """The Go and the Node client compute the reference's partitions (tests/contract); so does the broker's topic."""
    settings = prepare()
    assert produced_by_us(settings) == [fixtures.partition_of(key, settings.kafka.partitions) for key in KEYS]


def test_our_producers_partition_as_java_does(system: System, prepare: Callable[..., Settings], broker: Broker) -> None:
    """Kafka's own Java client, with its default partitioner, on the same topic."""
    java = shutil.which("javac") and shutil.which("java")
    if not java:
        pytest.skip("`javac` is not installed, so Kafka's Java client was not run")
    settings = prepare()
    # A runtime that can compile, with the jars of the broker.
    _, *flags = local_broker.java()
    assert produced_by_us(settings) == produced_by_java(settings, [java, *flags])
