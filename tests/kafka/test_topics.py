"""Topics that are made anew, emptied, taken by another group or enlarged: a real broker, and what a worker says."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from tests.kafka.commands import PATIENCE_SECONDS, run, run_here
from tests.kafka.load import problems
from worker.audit import run_verify
from worker.contract.settings import Settings, load_settings
from worker.estimation.history import History
from worker.kafka import admin, clients
from worker.kafka.reader import KafkaReader
from worker.local.follower import DecisionFollower
from worker.local.load import LoadGenerator
from worker.local.processes import Child, wait_for
from worker.local.system import System

Prepare = Callable[..., Settings]
Rows = tuple[History, History]
QUERIES = 40


def decide(settings: Settings, rows: Rows, total: int = QUERIES) -> None:
    """Produce QUERIES queries with ids of their own, and wait until so many are decided in all."""
    load, watch = LoadGenerator(settings, rows[1], QUERIES, 0, total - QUERIES), DecisionFollower(settings)
    load.start()
    watch.wait("decisions", lambda: len(watch.decided) >= total, PATIENCE_SECONDS, lambda: None)
    watch.close()


def again(system: System) -> Child:
    """The first worker, started again."""
    system.processes.revive()
    wait_for("the worker", lambda: system.is_ready(system.workers[0]), PATIENCE_SECONDS)
    return system.workers[0]


def delete(settings: Settings, topic: str) -> AdminClient:
    """Delete a topic; returns a client."""
    client = AdminClient(clients.common_config(settings))
    client.delete_topics([topic], operation_timeout=30)[topic].result(PATIENCE_SECONDS)
    wait_for("the topic to go", lambda: topic not in client.list_topics(timeout=10).topics, PATIENCE_SECONDS)
    return client


def make_anew(settings: Settings, topic: str) -> None:
    """Delete a topic and create it again, as somebody does by hand."""
    client = delete(settings, topic)
    assert admin.make(client, settings, {topic: admin.wanted(settings)[topic]}) == [topic]


def fill(settings: Settings, topic: str, count: int) -> None:
    """Records in every partition, so that each ends behind the old one."""
    producer = Producer(clients.producer_config(settings))
    for partition in range(settings.kafka.partitions):
        for _ in range(count):
            producer.produce(topic, b"{}", partition=partition)
    producer.flush(PATIENCE_SECONDS)


def lose(settings: Settings, topic: str) -> None:
    """Delete all records of a topic that are there now, as retention does."""
    reader, partitions = KafkaReader(settings), range(settings.kafka.partitions)
    ends = reader.ends([(topic, partition) for partition in partitions])
    client = AdminClient(clients.common_config(settings))
    places = [TopicPartition(*place, end) for place, end in ends.items()]
    for future in client.delete_records(places).values():
        future.result(PATIENCE_SECONDS)


@pytest.fixture
def stopped(system: System, prepare: Prepare, rows: Rows) -> Settings:
    """A system that has decided some queries and has no worker now."""
    settings = prepare()
    system.start_workers(1)
    decide(settings, rows)
    assert system.workers[0].stop() == 0
    return settings


MADE_ANEW: Sequence[tuple[str, int, str]] = [
    ("queries", 0, "tollgate ledger accept queries"),
    ("queries", 60, "tollgate ledger accept queries"),
    ("completions", 60, "tollgate ledger accept completions"),
    ("decisions", 0, "tollgate ledger accept decisions"),
    ("ledger", 0, "tollgate ledger rebuild"),
]


@pytest.mark.parametrize("name", ["ledger", "decisions"])
def test_a_stranger_creates_the_topics(stopped: Settings, system: System, name: str) -> None:
    """Without its ledger or its decisions, a system that has decided something gets no new ones: `topics create` stops
    with 4, names what has records, and creates nothing."""
    topic = getattr(stopped.topics, name)
    client = delete(stopped, topic)
    code, said = run_here(system, "topics", "create")
    assert code == 4, said
    assert f"{topic}: missing, but" in said
    assert topic not in client.list_topics(timeout=10).topics


def test_topics_check_looks_at_what_loses_records(stopped: Settings, system: System) -> None:
    """Retention below the time of a reservation, and a ledger with the times of its writers."""
    alter(stopped, stopped.topics.queries, "retention.ms", "60000")
    alter(stopped, stopped.topics.ledger, "message.timestamp.type", "CreateTime")
    code, said = run_here(system, "topics", "check")
    assert code == 1, said
    assert "queries: retention.ms is 60000" in said
    assert "ledger: message.timestamp.type is CreateTime" in said
    assert len(said.splitlines()) == 2


def alter(settings: Settings, topic: str, name: str, value: str) -> None:
    """Set a setting of a topic."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    client = AdminClient(clients.common_config(settings))
    client.incremental_alter_configs([resource])[resource].result(PATIENCE_SECONDS)


def test_a_lost_ledger_is_rebuilt(stopped: Settings, system: System, rows: Rows) -> None:
    """The worker starts on the rebuilt ledger, dispatches nothing again, and goes on; `verify` finds nothing."""
    before = run_verify.verify(stopped)
    delete(stopped, stopped.topics.ledger)
    code, said = run_here(system, "ledger", "rebuild")
    assert code == 0, said
    assert said.count("rebuilt from") == stopped.kafka.partitions
    again(system)
    decide(stopped, rows, 2 * QUERIES)
    after = run_verify.verify(stopped)
    assert problems(after) == []
    assert (before.counts.queries, after.counts.queries) == (QUERIES, 2 * QUERIES)
    assert {topic for note in after.notes for topic in ("ledger", "queries") if f"`{topic}`" in note} == {"ledger"}


def test_lost_queries_are_accepted(stopped: Settings, system: System, rows: Rows) -> None:
    """What came into the new topic before is decided too, under offsets that were never used."""
    make_anew(stopped, stopped.topics.queries)
    load = LoadGenerator(stopped, rows[1], QUERIES, 0)
    load.start()
    assert load.finish() == QUERIES
    code, said = run_here(system, "ledger", "accept", "queries")
    assert code == 0, said
    again(system)
    decide(stopped, rows, 3 * QUERIES)
    report = run_verify.verify(stopped)
    assert problems(report) == []
    assert (report.counts.queries, report.counts.missed_queries) == (3 * QUERIES, 0)


def test_a_topic_made_anew_while_a_worker_runs(system: System, prepare: Prepare, rows: Rows) -> None:
    """The worker leaves; the next start is refused with 4 and names the topic."""
    settings = prepare()
    system.start_workers(1)
    decide(settings, rows)
    make_anew(settings, settings.topics.completions)
    wait_for("the worker to leave", lambda: not system.workers[0].running, PATIENCE_SECONDS)
    code, said = run(system, "run", "--web-port", "0")
    assert code == 4, said
    assert "completions/0: was made anew" in said


def test_queries_gets_more_partitions_while_a_worker_runs(system: System, prepare: Prepare, rows: Rows) -> None:
    """What stands in the new partitions is read by nobody: an alarm says so."""
    settings = prepare()
    system.start_workers(1)
    client = AdminClient(clients.common_config(settings))
    topic = settings.topics.queries
    client.create_partitions([NewPartitions(topic, 8)])[topic].result(PATIENCE_SECONDS)
    alarm = 'tollgate_alarm{name="topics_changed",partition=""} 1.0'
    wait_for("the alarm", lambda: alarm in system.page(system.workers[0], "metrics")[1], PATIENCE_SECONDS)
    said = f"{topic} has 8 partitions, not 4"
    wait_for("its line in the log", lambda: said in system.workers[0].tail(5), PATIENCE_SECONDS)


@pytest.mark.parametrize(("name", "refilled", "remedy"), MADE_ANEW, ids=[f"{c[0]}-{c[1]}" for c in MADE_ANEW])
def test_a_topic_made_anew(stopped: Settings, system: System, name: str, refilled: int, remedy: str) -> None:
    """`run` stops with 4 and names the topic and the remedy, also if the new topic is longer than the old one was;
    nothing is decided. `verify` says the same."""
    topic = getattr(stopped.topics, name)
    make_anew(stopped, topic)
    fill(stopped, topic, refilled)
    code, said = run(system, "run", "--web-port", "0")
    assert code == 4, said
    assert topic in said
    assert remedy in said
    found = problems(run_verify.verify(stopped))
    assert any(topic in finding and "made anew" in finding for finding in found), found


def test_a_group_that_was_renamed(system: System, prepare: Prepare, rows: Rows) -> None:
    """A worker of another group on the same ledger stops with 4 and names both groups; the first goes on."""
    settings = prepare()
    system.start_workers(1)
    decide(settings, rows)
    code, said = run(system, "run", "--web-port", "0", env={"TOLLGATE_KAFKA__GROUP": "another"})
    assert code == 4, said
    assert f"belongs to the group {settings.kafka.group}" in said
    decide(settings, rows, 2 * QUERIES)
    assert system.is_ready(system.workers[0])


def test_more_partitions(stopped: Settings, system: System) -> None:
    """Budgets that are split over 4 partitions are not split over 8: `run` stops with 4."""
    client = AdminClient(clients.common_config(stopped))
    topics = [topic for topic in client.list_topics(timeout=10).topics if topic.startswith(stopped.kafka.topic_prefix)]
    for future in client.create_partitions([NewPartitions(topic, 8) for topic in topics]).values():
        future.result(PATIENCE_SECONDS)
    code, said = run(system, "run", env={"TOLLGATE_KAFKA__PARTITIONS": "8"})
    assert code == 4, said
    assert "split over 4" in said


def test_retention_takes_unread_queries(stopped: Settings, system: System, rows: Rows) -> None:
    """What was removed unread is counted and named; what came after it is decided."""
    load = LoadGenerator(stopped, rows[1], QUERIES, 0)
    load.start()
    assert load.finish() == QUERIES
    lose(stopped, stopped.topics.queries)
    worker = again(system)
    decide(stopped, rows, 2 * QUERIES)
    _, page = system.page(worker, "metrics")
    assert 'tollgate_alarm{name="records_lost",partition=""} 1.0' in page
    assert f'tollgate_lost_records_total{{topic="queries"}} {float(QUERIES)}' in page
    report = run_verify.verify(stopped)
    assert (report.counts.missed_queries, report.counts.queries) == (QUERIES, 2 * QUERIES)
    assert all("left the topic before a worker read them" in finding for finding in problems(report))


def test_retention_overtakes_a_running_worker(system: System, prepare: Prepare, rows: Rows) -> None:
    """A worker that is stopped while its queries are removed does not go on elsewhere in silence: it leaves with 3,
    and the next one records the loss."""
    settings = prepare(kafka={"session_timeout_ms": 60_000})
    system.start_workers(1)
    decide(settings, rows)
    worker = system.workers[0]
    worker.send(signal.SIGSTOP)
    load = LoadGenerator(settings, rows[1], QUERIES, 0)
    load.start()
    assert load.finish() == QUERIES
    lose(settings, settings.topics.queries)
    worker.send(signal.SIGCONT)
    wait_for("the worker to leave", lambda: not worker.running, PATIENCE_SECONDS)
    assert (worker.exit_code, "is not in the topic" in worker.tail()) == (3, True)
    again(system)
    report = run_verify.verify(load_settings(system.config))
    assert report.counts.missed_queries == QUERIES
