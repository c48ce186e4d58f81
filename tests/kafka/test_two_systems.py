"""Two systems on one broker."""

from __future__ import annotations

from collections.abc import Callable

from tests.kafka.commands import PATIENCE_SECONDS, run
from tests.kafka.test_topics import decide
from worker.contract.settings import Settings, load_settings
from worker.estimation.history import History
from worker.local.processes import Child, wait_for
from worker.local.system import System

Prepare = Callable[..., Settings]
Rows = tuple[History, History]


def test_two_systems_with_one_name_of_the_group(system: System, prepare: Prepare, rows: Rows) -> None:
    """Their prefixes differ, so their ledgers do: neither fences the other, and both decide."""
    settings = prepare()
    system.start_workers(1)
    other = {"TOLLGATE_KAFKA__TOPIC_PREFIX": "other."}
    code, said = run(system, "topics", "create", env=other)
    assert code == 0, said
    theirs = load_settings(system.config, {"kafka": {"topic_prefix": "other."}})
    arguments = ["run", "--web-port", "0", "--config", str(system.config)]
    worker = system.processes.start(Child("other", arguments, system.directory / "other.log", other))
    wait_for("the other worker", lambda: "lanes_assigned" in worker.log.read_text(), PATIENCE_SECONDS)
    decide(theirs, rows)
    decide(settings, rows)
    assert (worker.running, system.workers[0].running) == (True, True)
