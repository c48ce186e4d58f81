"""The topics of one partition, as an audit reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from worker.contract.record import StoredRecord
from worker.kafka.reader import Reader, at_once


class Topics(Protocol):
    """One partition of every topic. Methods raise CheckBroker."""

    def oldest(self, topic: str) -> int:
        """The first offset of a topic."""

    def ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Kafka's id of each topic that exists."""

    def read(
        self, topics: Sequence[str], done: Callable[[], bool] = at_once, start: int | None = None
    ) -> Iterator[StoredRecord]:
        """The committed records of these topics, each topic in order, from `start` (None: the oldest) to their ends.

        If they are not `done` then, records that are written in the next moments are read too. Several iterators may
        be read in turns.
        """


class PartitionTopics:
    """One partition of every topic, read through a reader."""

    def __init__(self, reader: Reader, partition: int) -> None:
        self._reader = reader
        self._partition = partition

    def oldest(self, topic: str) -> int:
        place = topic, self._partition
        return self._reader.oldest([place])[place]

    def ids(self, topics: Iterable[str]) -> dict[str, str]:
        return self._reader.topic_ids(topics)

    def read(
        self, topics: Sequence[str], done: Callable[[], bool] = at_once, start: int | None = None
    ) -> Iterator[StoredRecord]:
        places = [(topic, self._partition) for topic in topics]
        if start is None:
            return self._reader.read(self._reader.oldest(places), done)
        # A consumer that is sent beyond the end begins at the oldest record.
        ends = self._reader.ends(places)
        return self._reader.read({place: min(start, ends[place]) for place in places}, done)
