"""A worker behind a slow link: a broker that lets its clients write 20 kB a second."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from tests.kafka.commands import PATIENCE_SECONDS
from tests.kafka.load import problems
from worker.audit import run_verify
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.local import broker as local_broker
from worker.local.follower import DecisionFollower
from worker.local.load import LoadGenerator
from worker.local.system import System

Prepare = Callable[..., Settings]
Rows = tuple[History, History]
BYTES_PER_SECOND = 20_000
QUERIES = 80


def limit(settings: Settings, client_id: str) -> None:
    """A quota for a client's writes, as `kafka-configs.sh` sets it."""
    options = f"--bootstrap-server {settings.kafka.bootstrap_servers} --alter --entity-type clients".split()
    quota = f"producer_byte_rate={BYTES_PER_SECOND}"
    command = [*local_broker.java(), "kafka.admin.ConfigCommand", *options, "--entity-name", client_id]
    subprocess.run([*command, "--add-config", quota], check=True, capture_output=True, timeout=PATIENCE_SECONDS)


def test_a_quota_of_20_kb_a_second(system: System, prepare: Prepare, rows: Rows) -> None:
    """All queries wait at once. They are decided in transactions that the link can take: the worker never ends, and no
    transaction is tried again for ever. Before, it ended 17 times in 6 minutes."""
    settings = prepare()
    producer = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"group": "unlimited"})})
    load = LoadGenerator(producer, rows[1], QUERIES, 0)
    load.start()
    assert load.finish() == QUERIES
    limit(settings, settings.kafka.group)
    system.start_workers(1)
    watch = DecisionFollower(settings)
    watch.wait("all decisions", lambda: len(watch.decided) >= QUERIES, PATIENCE_SECONDS, lambda: None)
    watch.close()
    [worker] = system.workers
    assert worker.running, worker.tail(20)
    report = run_verify.verify(settings)
    assert (problems(report), report.counts.queries) == ([], QUERIES)
