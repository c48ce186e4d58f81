"""What a worker says when it cannot start, or cannot go on: its exit code and the name of what is wrong."""

from __future__ import annotations

import json
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.kafka.commands import PATIENCE_SECONDS, run
from tests.kafka.load import problems
from worker.audit import run_verify
from worker.contract.settings import KafkaSettings, Settings, load_settings
from worker.estimation.history import History
from worker.kafka import admin, clients
from worker.kafka.reader import KafkaReader
from worker.local.broker import Broker
from worker.local.follower import DecisionFollower
from worker.local.load import LoadGenerator
from worker.local.processes import Child, wait_for
from worker.local.system import System
from worker.service.ports import free_port

Prepare = Callable[..., Settings]
Rows = tuple[History, History]


def shrink(settings: Settings) -> None:
    """`completions` anew with two partitions."""
    admin = AdminClient(clients.common_config(settings))
    name = settings.topics.completions
    admin.delete_topics([name], operation_timeout=30)[name].result(PATIENCE_SECONDS)
    wait_for("the topic to go", lambda: name not in admin.list_topics(timeout=10).topics, PATIENCE_SECONDS)
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(PATIENCE_SECONDS)


def uncompact(settings: Settings) -> None:
    """`ledger` with another cleanup policy."""
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    entry = ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, settings.topics.ledger, incremental_configs=[entry])
    admin = AdminClient(clients.common_config(settings))
    admin.incremental_alter_configs([resource])[resource].result(PATIENCE_SECONDS)


LAYOUTS = [(shrink, "completions: 2 partitions, not 4"), (uncompact, "ledger: cleanup.policy is delete")]


@pytest.mark.parametrize(("spoil", "said"), LAYOUTS, ids=["partitions", "compaction"])
def test_a_wrong_topic(system: System, prepare: Prepare, spoil: Callable[[Settings], None], said: str) -> None:
    """A topic with the wrong partitions or without compaction stops `run` with 4 and `topics check` with 1, both
    naming it."""
    spoil(prepare())
    (ran, run_said), (checked, check_said) = run(system, "run"), run(system, "topics", "check")
    assert ran == 4
    assert said in run_said
    assert checked == 1
    assert said in check_said


def test_another_llm(system: System, prepare: Prepare) -> None:
    """An index whose LLMs differ from the configuration stops `run` with 4 and names the difference."""
    prepare()
    system.config.write_text(system.config.read_text() + "[llms.newcomer]\nbudget_usd = 1\n")
    code, said = run(system, "run")
    assert (code, "only in the settings: ['newcomer']" in said) == (4, True)


def test_no_broker(system: System, prepare: Prepare) -> None:
    """An unreachable broker stops every verb that needs one with 3."""
    prepare()
    nobody = {"TOLLGATE_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}
    verbs = [("run",), ("topics", "check"), ("status",), ("verify",)]
    with ThreadPoolExecutor() as pool:
        codes = pool.map(lambda verb: run(system, *verb, env=nobody)[0], verbs)
    assert [*codes] == [3, 3, 3, 3]


@pytest.fixture
def small_broker(tmp_path: Path) -> Iterator[Broker]:
    """A Kafka of its own, for a test that breaks it."""
    with Broker(tmp_path / "kafka") as running:
        yield running


def test_a_reader_outlives_a_broker(small_broker: Broker) -> None:
    """A reader that stays open answers again when its broker has come back, as the leader of another epoch."""
    settings = Settings(kafka=KafkaSettings(bootstrap_servers=small_broker.bootstrap_servers, partitions=1))
    admin.create(settings)
    place = settings.topics.queries, 0
    with KafkaReader(settings) as reader:
        assert reader.ends([place]) == {place: 0}
        small_broker.kill()
        small_broker.start()
        assert reader.ends([place]) == {place: 0}


def test_an_end_without_a_broker(small_broker: Broker, tmp_path: Path, index_directory: Path, rows: Rows) -> None:
    """SIGTERM ends workers also when the broker is gone: an inference worker at once, a worker with 3 in the time of a
    transaction and 5 s more."""
    (tmp_path / "index").symlink_to(index_directory)
    with System(tmp_path, small_broker) as system:
        kafka = {"group": "alone", "transaction_timeout_ms": 5_000}
        system.prepare(rows[0], dict.fromkeys(rows[0].llms, 1.0), "wordllama", kafka=kafka)
        system.start_workers(1)
        worker, inference = system.workers[0], system.start_inference(latency_ms=1)
        wait_for("the inference worker", lambda: "inference_started" in inference.tail(), PATIENCE_SECONDS)
        small_broker.kill()
        for child in (inference, worker):
            child.send(signal.SIGTERM)
        wait_for("their end", lambda: not (inference.running or worker.running), 60)
        assert inference.exit_code == 0
        assert worker.exit_code == 3
        assert "leaving the group" in worker.tail(1)


@pytest.mark.long
def test_a_full_disk(small_broker: Broker, tmp_path: Path, index_directory: Path, rows: Rows) -> None:
    """A broker whose disk is full stops the workers with a clear last line; when there is room again and all is
    started again, nothing was lost or doubled."""
    (tmp_path / "index").symlink_to(index_directory)
    with System(tmp_path, small_broker) as system:
        kafka = {"partitions": 2, "group": "full", "session_timeout_ms": 3_000}
        settings = system.prepare(rows[0], dict.fromkeys(rows[0].llms, 1.0), "wordllama", kafka=kafka)
        system.start_workers(1)
        load, watch = LoadGenerator(settings, rows[1], 2_000, 200), DecisionFollower(settings)
        load.start()
        watch.wait("some decisions", lambda: len(watch.decided) >= 500, PATIENCE_SECONDS, lambda: None)
        # No file may grow any more: what a broker sees of a full disk.
        resource.prlimit(small_broker.pid, resource.RLIMIT_FSIZE, (4_096, 4_096))
        wait_for("the worker to leave", lambda: not system.workers[0].running, PATIENCE_SECONDS)
        left = system.workers[0].exit_code, "leaving" in system.workers[0].tail(3)
        small_broker.kill()
        small_broker.start()
        system.start_inference(latency_ms=1)
        system.processes.revive()
        watch.wait(
            "all decisions", lambda: len(watch.decided) >= 2_000 and watch.open == 0, PATIENCE_SECONDS, lambda: None
        )
        watch.close()
        assert (load.finish(), left) == (2_000, (3, True))
        assert problems(run_verify.verify(load_settings(system.config))) == []


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_was_set_and_is_taken(system: System, prepare: Prepare, taken: int) -> None:
    """`run` stops with 4 and names the setting and the port."""
    prepare(web={"port": taken})
    code, said = run(system, "run")
    assert code == 4, said
    assert f"web.port: {taken} of 127.0.0.1 is in use" in said


def test_a_second_worker_takes_a_free_port(system: System, prepare: Prepare) -> None:
    """Both have no web.port: the second listens elsewhere, and a healthy start has no line of an error."""
    prepare()
    workers = [
        Child(f"plain-{n}", ["run", "--config", str(system.config)], system.directory / f"plain-{n}.log")
        for n in range(2)
    ]
    for worker in workers:
        system.processes.start(worker)
        wait_for("the worker to own lanes", partial(_owns_lanes, worker), PATIENCE_SECONDS)
    starts = [json.loads(line)["web"] for worker in workers for line in log_of(worker).splitlines() if '"web"' in line]
    assert len(set(starts)) == 2, starts
    errors = [line for worker in workers for line in log_of(worker).splitlines() if '"level": "error"' in line]
    assert errors == []


def _owns_lanes(worker: Child) -> bool:
    return "lanes_assigned" in log_of(worker)


def log_of(worker: Child) -> str:
    """What a process has logged so far."""
    return worker.log.read_text() if worker.log.exists() else ""
