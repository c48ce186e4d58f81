"""Static members: a worker with `kafka.instance_id` keeps its partitions while it restarts."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tests.kafka.commands import PATIENCE_SECONDS
from tests.kafka.talk import Talk
from worker.contract.decisions import Closed
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.local.load import query_of
from worker.local.processes import Child, wait_for
from worker.local.system import System

Prepare = Callable[..., Settings]
Rows = tuple[History, History]
# Longer than a restart on a busy machine. In this time the group gives the partitions to nobody else.
SESSION_MS = 120_000


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
    wait_for(
        "all to have partitions", lambda: all(map(assignments, (first, second, calls, others))), PATIENCE_SECONDS
    )
    before = [assignments(child) for child in (second, others)]
    for child in (first, calls):
        seen = assignments(child)
        child.kill()
        system.processes.revive()
        wait_for(f"{child.name} again", lambda: assignments(child) > seen, PATIENCE_SECONDS)  # noqa: B023
    ask(settings, rows, 2)
    assert [assignments(child) for child in (second, others)] == before


def test_two_workers_with_one_instance_id(system: System, prepare: Prepare, rows: Rows) -> None:
    """One of them ends with 4 and names the setting; the other goes on. They do not put each other out for ever."""
    settings = prepare()
    first = member(system, "worker-a", "run", "--web-port", "0")
    wait_for("partitions", lambda: assignments(first) > 0, PATIENCE_SECONDS)
    env = {"TOLLGATE_KAFKA__INSTANCE_ID": "worker-a"}
    second = Child(
        "double", ["run", "--web-port", "0", "--config", str(system.config)], system.directory / "double.log", env
    )
    system.processes.start(second)
    wait_for("one to end", lambda: not (first.running and second.running), PATIENCE_SECONDS)
    gone = second if first.running else first
    assert gone.exit_code == 4, gone.tail(20)
    assert "kafka.instance_id" in gone.tail(20)
    member(system, "calls", "infer", "--latency-ms", "1")
    ask(settings, rows, 1)
