"""Reads the topics of a running or stopped system and proves its books; `verify` has the rules.

A transaction becomes visible in one partition a moment before it does in another. So a record that must be there and
is not is waited for a little, before it is called missing.
"""

from __future__ import annotations

from worker.audit.report import Report, report
from worker.audit.topics import PartitionTopics
from worker.audit.verify import verify as verify_partition
from worker.contract.settings import Settings
from worker.kafka.reader import KafkaReader, OpenReader, Progress, silent


def verify(settings: Settings, progress: Progress = silent, open_reader: OpenReader = KafkaReader) -> Report:
    """Prove the books of every partition. `progress` hears what is being read, and how many more records were read.

    Raises CheckBroker if the broker does not answer or a topic is missing.
    """
    with open_reader(settings, progress) as reader:
        partitions = range(settings.kafka.partitions)
        return report(
            [verify_partition(n, settings.topics, settings.llms, PartitionTopics(reader, n)) for n in partitions]
        )
