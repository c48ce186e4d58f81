"""Follows the ledger topic: the state of a system now, and again every second."""

from __future__ import annotations

import time
from collections.abc import Iterator

from worker.audit.ledger_view import Witness
from worker.audit.status import Status, status
from worker.contract.messages import Offsets
from worker.contract.settings import Settings
from worker.contract.topic_names import TopicNames
from worker.kafka.reader import KafkaReader, OpenReader, Reader, silent

EVERY_SECONDS = 1.0


def statuses(settings: Settings, open_reader: OpenReader = KafkaReader) -> Iterator[Status]:
    """The status now, and again every EVERY_SECONDS for as long as anybody asks. Raises CheckBroker."""
    topics = settings.topics
    witnesses = [Witness(partition) for partition in range(settings.kafka.partitions)]
    with open_reader(settings, silent) as reader:
        starts = reader.oldest((topics.ledger, witness.partition) for witness in witnesses)
        while True:
            for record in reader.read(starts):
                witnesses[record.partition].read(record)
                starts[record.topic, record.partition] = record.offset + 1
            yield status(witnesses, [_behind(reader, topics, witness) for witness in witnesses])
            time.sleep(EVERY_SECONDS)


def _behind(reader: Reader, topics: TopicNames, witness: Witness) -> Offsets:
    """How many offsets of its inputs a partition has not applied. Commit markers count, so one may stay for good."""
    applied = Offsets() if witness.row is None else witness.row.offsets
    queries, completions = (topics.queries, witness.partition), (topics.completions, witness.partition)
    ends = reader.ends((queries, completions))
    return Offsets(max(0, ends[queries] - applied.queries - 1), max(0, ends[completions] - applied.completions - 1))
