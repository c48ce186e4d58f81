"""A worker as operators meet it: how it leaves, what its pages tell, what it logs, and what lag monitors see.

The broker is as many are: it creates topics that somebody asks for, and it forgets transactional ids that rest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from tests.kafka.commands import PATIENCE_SECONDS, run
from tests.kafka.talk import Talk
from worker.contract.decisions import Closed, Routed
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.kafka import clients
from worker.local.broker import Broker
from worker.local.load import query_of
from worker.local.processes import Child, dying_with_parent, wait_for
from worker.local.system import System

Prepare = Callable[..., Settings]
Rows = tuple[History, History]
BROKER = {
    "auto.create.topics.enable": "true",
    "group.max.session.timeout.ms": "5000",
    "transactional.id.expiration.ms": "3000",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with settings that others have changed."""
    with Broker(tmp_path_factory.mktemp("others"), properties=BROKER) as running:
        yield running


def ask(talk: Talk, rows: Rows, number: int = 0) -> None:
    """Send one query, and wait until it is decided."""
    before = len([one for one in talk.decisions() if isinstance(one, Routed)])
    talk.query(msgspec.msgpack.encode(query_of(rows[1], number)))
    talk.wait_decisions(Routed, before + 1)


def logged(worker: Child, event: str) -> list[str]:
    """The lines of a worker's log that hold this text."""
    return [line for line in worker.log.read_text().splitlines() if event in line] if worker.log.exists() else []


# Leaving


@pytest.mark.parametrize("reader", ["gone", "stuck"])
def test_a_worker_leaves_though_nobody_reads_its_log(system: System, prepare: Prepare, rows: Rows, reader: str) -> None:
    """The reader of standard error dies, or stops reading; then a commit fails. The worker ends with 3. Before, it
    lived on, answered 200 on its pages, and decided nothing for ever."""
    settings = prepare()
    out, into = os.pipe()
    command = [sys.executable, "-m", "worker", "run", "--config", str(system.config), "--web-port", "0"]
    process = subprocess.Popen(dying_with_parent(command), stdin=subprocess.DEVNULL, stdout=into, stderr=into)
    os.close(into)
    try:
        with os.fdopen(out) as lines:
            assert any("lanes_assigned" in line for line in lines)
            if reader == "gone":
                lines.close()
            wait_for("the worker's end", lambda: has_left(process, settings, rows), PATIENCE_SECONDS, 1.0)
            assert process.returncode == 3
    finally:
        process.kill()
        process.wait()


def has_left(process: subprocess.Popen[bytes], settings: Settings, rows: Rows) -> bool:
    """Whether a worker has ended; if not, a commit of its is refused, because another owner has begun. (A worker that
    has just looked whether it is the owner takes the lane back once.)"""
    Producer(clients.transactional_config(settings, 0)).init_transactions(PATIENCE_SECONDS)
    Talk(settings).query(msgspec.msgpack.encode(query_of(rows[1], 0)))
    return process.poll() is not None


def test_signals_that_are_for_nobody(system: System, prepare: Prepare, rows: Rows) -> None:
    """SIGHUP, SIGUSR1 and SIGUSR2 are one line each, and both kinds of workers go on. Before, SIGHUP killed, SIGUSR1
    printed all stacks, SIGUSR2 opened a debugger."""
    talk = Talk(prepare())
    system.start_workers(1)
    worker, inference = system.workers[0], system.start_inference(latency_ms=1)
    wait_for("the inference worker", lambda: bool(logged(inference, "inference_started")), PATIENCE_SECONDS)
    for child in (worker, inference):
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            child.send(number)
            wait_for("a line", partial(logged, child, f'"signal": "{number.name}"'), PATIENCE_SECONDS)  # type: ignore[arg-type]
    ask(talk, rows)
    assert all(child.running for child in (worker, inference))
    assert [line for line in worker.log.read_text().splitlines() if not line.startswith("{")] == []


# What the pages tell


def test_a_lane_that_cannot_open_is_alone(system: System, prepare: Prepare, rows: Rows) -> None:
    """A row that no lane has written: its lane is quarantined by topic, partition, offset and row; the others are
    decided; and when the row is gone, the lane opens by itself. Before, the whole process ended, and the error was
    'invalid opcode'."""
    settings = prepare()
    talks = [Talk(settings, partition) for partition in (0, 2)]
    system.start_workers(1)
    for talk in talks:
        ask(talk, rows)
    assert system.workers[0].stop() == 0
    key = "reservation/0-0-0"
    stranger = Producer(clients.producer_config(settings))
    stranger.produce(settings.topics.ledger, b"\xc1", key, 2)
    stranger.flush(PATIENCE_SECONDS)
    worker = system.start_worker()
    wait_for("a lane in quarantine", lambda: bool(logged(worker, "lane_quarantined")), PATIENCE_SECONDS)
    ask(talks[0], rows, 1)
    status, text = system.page(worker, "readyz")
    told = json.loads(text)
    assert status == 503
    assert told["partitions"] == [0, 1, 3]
    [reason] = told["quarantined"].values()
    assert f"{settings.topics.ledger}/2 at offset" in reason
    assert key in reason
    metrics = system.page(worker, "metrics")[1]
    assert 'tollgate_alarm{name="quarantined",partition="2"} 1.0' in metrics
    assert system.page(worker, "healthz")[0] == 200
    stranger.produce(settings.topics.ledger, None, key, 2)
    stranger.flush(PATIENCE_SECONDS)
    wait_for("the lane to open", lambda: system.is_ready(worker), PATIENCE_SECONDS)
    ask(talks[1], rows, 1)


def test_a_broker_that_is_away(tmp_path: Path, index_directory: Path, rows: Rows) -> None:
    """Readiness and an alarm say so; liveness does not, because a restart helps nobody; and the log has few lines.
    Before, /readyz said 200, and the log got some 50 lines a second."""
    (tmp_path / "index").symlink_to(index_directory)
    with Broker(tmp_path / "kafka") as broker, System(tmp_path, broker) as system:
        kafka = {"group": "away", "session_timeout_ms": 3_000}
        budgets = dict.fromkeys(rows[0].llms, 1.0)
        system.prepare(rows[0], budgets, "wordllama", kafka=kafka, log={"format": "json"})
        system.start_workers(1)
        [worker] = system.workers
        before = len(worker.log.read_text().splitlines())
        broker.kill()
        wait_for("the alarm", lambda: bool(logged(worker, '"name": "no_broker"')), PATIENCE_SECONDS)
        assert system.page(worker, "readyz")[0] == 503
        assert "has not answered" in json.loads(system.page(worker, "readyz")[1])["broker"]
        assert system.page(worker, "healthz")[0] == 200
        assert len(worker.log.read_text().splitlines()) - before < 40
        broker.start()
        wait_for("the worker to be ready", lambda: system.is_ready(worker), PATIENCE_SECONDS)


# What the broker refuses


def test_a_session_timeout_that_the_broker_refuses(system: System, prepare: Prepare) -> None:
    """The worker ends with 4 and names the setting and the broker's bounds, as an event. Before, it was never ready and
    never ended."""
    prepare(kafka={"session_timeout_ms": 6_000})
    code, said = run(system, "run", "--web-port", "0")
    last = json.loads(said.splitlines()[-1])
    assert code == 4
    assert "kafka.session_timeout_ms" in last["error"]
    assert "group.max.session.timeout.ms" in last["error"]


def test_the_last_line_without_a_broker_is_an_event(system: System, prepare: Prepare) -> None:
    """A log of JSON is JSON to its end."""
    prepare()
    code, said = run(system, "run", env={"TOLLGATE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert code == 3
    assert [json.loads(line)["level"] for line in said.splitlines()][-1] == "critical"


def test_a_topic_that_is_deleted_is_not_made_again(system: System, prepare: Prepare, rows: Rows) -> None:
    """Though the broker would make it for whoever asks, with one partition; and the log does not repeat itself.
    Before, a worker made it by asking, and logged 40 lines a second."""
    settings = prepare()
    system.start_workers(1)
    [worker] = system.workers
    ask(Talk(settings), rows)
    admin, name = AdminClient(clients.common_config(settings)), settings.topics.completions
    admin.delete_topics([name], operation_timeout=30)[name].result(PATIENCE_SECONDS)
    wait_for("a word about it", lambda: bool(logged(worker, name)), PATIENCE_SECONDS)
    for number in range(3):
        Talk(settings).query(msgspec.msgpack.encode(query_of(rows[1], number)))
    assert name not in admin.list_topics(timeout=10).topics
    assert len(logged(worker, name)) < 20


def test_a_lane_that_rested_for_longer_than_the_broker_remembers(system: System, prepare: Prepare, rows: Rows) -> None:
    """Kafka forgets a transactional id that rests (7 days by default, 3 seconds here). Before, the first query after
    that ended the worker."""
    settings = prepare()
    system.start_workers(1)
    talk, [worker] = Talk(settings), system.workers
    ask(talk, rows)
    # Each of them has rested for a shorter time than the lane. One that is asked too early begins anew.
    witnesses = [committed(settings, f"witness-{number}") for number in range(30)]
    wait_for("the broker to forget", lambda: is_forgotten(settings, witnesses.pop()), 60, every_seconds=1.5)
    pid = worker.pid
    ask(talk, rows, 1)
    assert (worker.running, worker.pid) == (True, pid)


def committed(settings: Settings, name: str) -> Producer:
    """A producer that has ended a transaction."""
    producer = Producer(clients.producer_config(settings) | {"transactional.id": f"{settings.kafka.group}-{name}"})
    producer.init_transactions(PATIENCE_SECONDS)
    end_one(producer, settings.topics.answers)
    return producer


def end_one(producer: Producer, topic: str) -> None:
    """Write a record in a transaction of its own."""
    producer.begin_transaction()
    producer.produce(topic, b"", partition=0)
    producer.commit_transaction(PATIENCE_SECONDS)


def is_forgotten(settings: Settings, producer: Producer) -> bool:
    """Whether the broker no longer knows the transactional id of a producer."""
    try:
        end_one(producer, settings.topics.answers)
    except KafkaException:
        return True
    return False


# Lag


def lag(settings: Settings, group: str, topics: Mapping[str, int]) -> dict[tuple[str, int], int | None]:
    """The lag of each partition as monitors compute it: the end of the log less what is committed; None where nothing
    is committed."""
    admin = AdminClient(clients.common_config(settings))
    places = [(topic, partition) for topic, partitions in topics.items() for partition in range(partitions)]
    asked = {TopicPartition(*place): OffsetSpec.latest() for place in places}
    uncommitted = IsolationLevel.READ_UNCOMMITTED
    ends = {
        (where.topic, where.partition): future.result(PATIENCE_SECONDS).offset
        for where, future in admin.list_offsets(asked, isolation_level=uncommitted).items()
    }
    request = ConsumerGroupTopicPartitions(group, [TopicPartition(*place) for place in places])
    answer = admin.list_consumer_group_offsets([request])[group].result(PATIENCE_SECONDS)
    committed = {(where.topic, where.partition): where.offset for where in answer.topic_partitions}
    return {place: None if committed[place] < 0 else ends[place] - committed[place] for place in places}


def test_answered_dispatches_have_no_lag(system: System, prepare: Prepare, rows: Rows) -> None:
    """In no partition of no LLM: not behind the marker of the last dispatch, not where nothing ever came. So the number
    of inference workers can follow the lag down to 0."""
    settings = prepare()
    system.start_workers(1)
    system.start_inference(latency_ms=1)
    talk = Talk(settings, 0)
    ask(talk, rows)
    topics = {settings.topics.dispatch(llm): settings.kafka.partitions for llm in settings.llms}
    group = f"{settings.kafka.group}-inference"
    talk.wait_decisions(Closed, 1)
    wait_for("no lag", lambda: set(lag(settings, group, topics).values()) == {0}, PATIENCE_SECONDS)


def test_a_drained_system_has_no_lag(system: System, prepare: Prepare, rows: Rows) -> None:
    """In no partition of no input: not after producers aborted, not where nothing ever came, not after a SIGKILL.
    Before: 3, "-", and 65 to 100."""
    settings = prepare()
    names = settings.topics
    inputs = {names.queries: settings.kafka.partitions, names.completions: settings.kafka.partitions}
    system.start_workers(1)
    ask(Talk(settings, 0), rows)
    aborting = Producer(clients.producer_config(settings) | {"transactional.id": "aborting"})
    aborting.init_transactions(PATIENCE_SECONDS)
    for _ in range(3):
        aborting.begin_transaction()
        aborting.produce(names.queries, b"never", partition=1)
        aborting.flush(PATIENCE_SECONDS)
        aborting.abort_transaction(PATIENCE_SECONDS)

    def drained() -> bool:
        return set(lag(settings, settings.kafka.group, inputs).values()) == {0}

    wait_for("no lag", drained, PATIENCE_SECONDS)
    for number in range(100):
        Talk(settings, 0).query(msgspec.msgpack.encode(query_of(rows[1], number)))
    system.workers[0].kill()
    system.processes.revive()
    wait_for("no lag after a SIGKILL", drained, PATIENCE_SECONDS)
