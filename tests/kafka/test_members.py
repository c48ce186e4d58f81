"""Static members: a worker with `kafka.instance_id` keeps its partitions while it restarts."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from tests.kafka.commands import PATIENCE_SECONDS
from tests.kafka.talk import Talk
from worker.contract.decisions import Closed
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.kafka import clients
from worker.kafka.clock import poll_until
from worker.local.load import query_of
from worker.local.processes import Child, wait_for
from worker.local.system import System

Prepare = Callable[..., Settings]
Rows = tuple[History, History]
# Longer than a restart on a busy machine. In this time the group gives the partitions to nobody else.
SESSION_MS = 60_000


def member(system: System, name: str, *arguments: str) -> Child:
    """A process whose instance id is its name."""
    env = {"TOLLGATE_KAFKA__INSTANCE_ID": name}
    return system.processes.start(
        Child(name, [*arguments, "--config", str(system.config)], system.directory / f"{name}.log", env)
    )


def assignments(child: Child) -> int:
    """How often the group has given it partitions since it was started the first time."""
    said = child.log.read_text() if child.log.exists() else ""
    return said.count('"lanes_assigned"') + said.count('"partitions_assigned"')


def rests(settings: Settings) -> bool:
    """Whether the groups of workers and of inference workers have two members each, and do not rebalance. A member that
    has to join again does so within a heartbeat."""
    admin = AdminClient(clients.common_config(settings))
    groups = [settings.kafka.group, f"{settings.kafka.group}-inference"]

    def moves() -> bool:
        found = [future.result(PATIENCE_SECONDS) for future in admin.describe_consumer_groups(groups).values()]
        return any((one.state, len(one.members)) != (ConsumerGroupState.STABLE, 2) for one in found)

    return not poll_until(moves, SESSION_MS / 1000 / 4, every_seconds=0.5)


def ask(settings: Settings, rows: Rows, count: int) -> None:
    """A query to each partition, until all of them are answered."""
    talks = [Talk(settings, partition) for partition in range(settings.kafka.partitions)]
    for talk in talks:
        talk.query(msgspec.msgpack.encode(query_of(rows[1], count)))
    for talk in talks:
        talk.wait_decisions(Closed, count)


def test_static_members_keep_their_partitions(system: System, prepare: Prepare, rows: Rows) -> None:
    """Two workers and two inference workers: one of each is killed and started again. It goes on with its partitions,
    and the group of the other does not rebalance."""
    settings = prepare(kafka={"session_timeout_ms": SESSION_MS})
    first, second = (member(system, name, "run", "--web-port", "0") for name in ("worker-a", "worker-b"))
    calls, others = (member(system, name, "infer", "--latency-ms", "1") for name in ("calls-a", "calls-b"))
    ask(settings, rows, 1)
    wait_for("all to have partitions", lambda: all(map(assignments, (first, second, calls, others))), PATIENCE_SECONDS)
    wait_for("both groups to rest", lambda: rests(settings), PATIENCE_SECONDS)
    before = [assignments(child) for child in (second, others)]
    for child in (first, calls):
        seen = assignments(child)
        child.kill()
        system.processes.revive()
        wait_for(f"{child.name} again", lambda: assignments(child) > seen, PATIENCE_SECONDS)  # noqa: B023
    ask(settings, rows, 2)
    assert [assignments(child) for child in (second, others)] == before


@pytest.mark.parametrize("verb", [["run", "--web-port", "0"], ["infer", "--latency-ms", "1"]], ids=["run", "infer"])
def test_two_with_one_instance_id(system: System, prepare: Prepare, rows: Rows, verb: list[str]) -> None:
    """One of them ends with 4 and names the setting; the other goes on. They do not put each other out for ever."""
    settings = prepare()
    first = member(system, "one", *verb)
    wait_for("partitions", lambda: assignments(first) > 0, PATIENCE_SECONDS)
    double = Child(
        "double",
        [*verb, "--config", str(system.config)],
        system.directory / "double.log",
        {"TOLLGATE_KAFKA__INSTANCE_ID": "one"},
    )
    system.processes.start(double)
    wait_for("one to end", lambda: not (first.running and double.running), PATIENCE_SECONDS)
    gone = double if first.running else first
    assert gone.exit_code == 4, gone.tail(20)
    assert "kafka.instance_id" in gone.tail(20)
    member(system, "other", *(["infer", "--latency-ms", "1"] if verb[0] == "run" else ["run", "--web-port", "0"]))
    ask(settings, rows, 1)
