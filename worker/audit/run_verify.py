"""Reads the topics of a running or stopped system and proves its books; `verify` has the rules.

A transaction becomes visible in one partition a moment before it does in another. So a record that must be there and
is not is waited for a little, before it is called missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from worker.audit.report import Report, report
from worker.audit.verify import verify as verify_partition
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.kafka.reader import KafkaReader, OpenReader, Progress, Reader, silent


def verify(settings: Settings, progress: Progress = silent, open_reader: OpenReader = KafkaReader) -> Report:
    """Prove the books of every partition. `progress` hears what is being read, and how many more records were read.

    Raises CheckBroker if the broker does not answer or a topic is missing.
    """
    with open_reader(settings, progress) as reader:
        partitions = range(settings.kafka.partitions)
        return report(
            [verify_partition(n, settings.topics, settings.llms, PartitionTopics(reader, n)) for n in partitions]
        )


class PartitionTopics:
    """One partition of every topic, as `verify.Topics` describes it. Its methods raise CheckBroker."""

    def __init__(self, reader: Reader, partition: int) -> None:
        self._reader = reader
        self._partition = partition

    def oldest(self, topic: str) -> int:
        """The first offset of a topic."""
        place = topic, self._partition
        return self._reader.oldest([place])[place]

    def read(
        self, topics: Sequence[str], done: Callable[[], bool] = lambda: True, start: int | None = None
    ) -> Iterator[StoredRecord]:
        """The committed records from `start` (None: the oldest) to the ends, and more if they are not `done` then."""
        places = [(topic, self._partition) for topic in topics]
        starts = self._reader.oldest(places) if start is None else dict.fromkeys(places, start)
        return self._reader.read(starts, done)
