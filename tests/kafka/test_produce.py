"""`tollgate produce` puts recorded queries on the topic, each in the partition of its id."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from tests.contract.fixtures import partition_of
from tests.kafka.commands import PATIENCE_SECONDS
from worker.contract import codec
from worker.contract.messages import Query
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.kafka.reader import KafkaReader
from worker.local.system import System

COUNT = 50


def test_produce(system: System, prepare: Callable[..., Settings], rows: tuple[History, History]) -> None:
    """All of them, once, with the ids and embeddings of the questions that the demo's index leaves out."""
    settings = prepare()
    command = [sys.executable, "-m", "worker", "produce", "--count", str(COUNT), "--rate", "0"]
    done = subprocess.run(
        [*command, "--config", str(system.config)], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    records = [
        record
        for partition in range(settings.kafka.partitions)
        for record in KafkaReader(settings).read_partition(settings.topics.queries, partition)
    ]
    limits = settings.limits
    decoded = [codec.decode_query(record.value, limits.max_query_bytes, limits.max_nesting) for record in records]
    found = [query for query in decoded if isinstance(query, Query)]
    wanted = {
        id_: row.astype("<f2").tobytes() for id_, row in zip(rows[1].ids[:COUNT], rows[1].embeddings, strict=False)
    }
    told = f"{COUNT} queries on {settings.topics.queries}\n"
    sent = {query.id: query.embedding for query in found}
    assert (done.stdout, sent) == (told, wanted)
    assert len(found) == COUNT
    assert [record.key for record in records] == [str(query.id).encode() for query in found]
    partitions = [partition_of(str(query.id), settings.kafka.partitions) for query in found]
    assert [record.partition for record in records] == partitions
