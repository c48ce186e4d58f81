"""Decides from where the inputs are read, and whether fetched records follow those that came before them. Pure.

A client may fetch records that never reach the lanes: Faust drops fetched records in several places while the group
rebalances, calls for partitions twice at once when it rebalances again, and the driver's thread ends a fetch whose
caller was cancelled. A dropped fetch must not be passed over. So every fetch has a number. If a number does not follow,
that fetch is dropped too, and the reader is sought to the offsets that the lanes have applied.

Two objects share this work: `FetchCounter` counts where the client fetches, `Positions` checks where the records
arrive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from worker.contract.record import Record
from worker.kafka.reader import Place


class Seek(NamedTuple):
    """Where the client is to read on, by place; `number` tells seeks apart."""

    starts: Mapping[Place, int]
    number: int


class Fetch(NamedTuple):
    """The records of one fetch by place, each in their order.

    `seek` is the number of the last seek before it. `number` counts the fetches since that seek that brought records.
    It is 0 if the group has assigned partitions since then, because the client began at the group's offsets. `next` are
    the offsets that the client reads next: beyond the last record, it has gone past markers and aborted records.
    """

    records: Mapping[Place, Sequence[Record]]
    seek: int
    number: int
    next: Mapping[Place, int] = MappingProxyType({})


class Handover(NamedTuple):
    """Records of one place to hand to its lane. `after` is the offset that the reader had reached before them.

    `round` counts how often reading has begun at the applied offsets: a batch of an earlier round is void.
    """

    records: Sequence[Record]
    after: int
    round: int


class FetchCounter:
    """Numbers the fetches of one client. An assignment is any object: another one for each time the group assigns."""

    def __init__(self) -> None:
        self._assignment: object = None
        self._seek = self._number = 0

    def sought(self, seek: int, assignment: object) -> None:
        """The client was sought by the seek of this number: count from here."""
        self._seek, self._assignment, self._number = seek, assignment, 0

    def count(
        self,
        records: Mapping[Place, Sequence[Record]],
        assignment: object,
        next_offsets: Mapping[Place, int] = MappingProxyType({}),
    ) -> Fetch:
        """The client has just taken these records, and reads on at these offsets."""
        self._number += bool(records)
        return Fetch(records, self._seek, self._number if assignment is self._assignment else 0, next_offsets)


class Positions:
    """The last offset of each place that was handed over, and whether it is certain that the next fetch follows."""

    def __init__(self) -> None:
        self._needs_seek = True
        self._number = self._seek = self._round = 0
        self._reached: dict[Place, int] = {}
        self._passed: dict[Place, int] = {}

    @property
    def needs_seek(self) -> bool:
        """Whether fetched records may have been dropped since the last seek: call `seek` before the next fetch."""
        return self._needs_seek

    def lose(self) -> None:
        """Batches that were handed over may have been dropped before they reached their lanes."""
        self._needs_seek = True

    def seek(self, applied: Mapping[Place, int]) -> Seek:
        """Begin after the `applied` offsets. Earlier batches are void."""
        self._needs_seek = False
        self._round += 1
        self._reached, self._passed = dict(applied), {}
        return self._next_seek()

    def settled(self, applied: Mapping[Place, int]) -> dict[Place, int]:
        """The offset of each place below which everything is decided, given the last `applied` offsets.

        If all records that were handed over are applied, this is where the client reads next.
        """
        return {
            place: max(offset + 1, self._passed.get(place, 0)) if offset >= self._reached.get(place, -1) else offset + 1
            for place, offset in applied.items()
        }

    def next(self) -> dict[Place, int]:
        """The next offset to read of each place."""
        return {place: offset + 1 for place, offset in self._reached.items()}

    def take(self, fetch: Fetch) -> dict[Place, Handover]:
        """The batches of a fetch. None if it may not follow: then `needs_seek` is set, and the records come again."""
        if fetch.seek != self._seek:
            # The client took these records before it was sought: they come again.
            return {}
        expected = self._number + bool(fetch.records)
        self._number = fetch.number
        self._needs_seek |= fetch.number != expected
        if self._needs_seek:
            return {}
        self._passed |= fetch.next
        return self._batches(fetch.records)

    def replace(self, records: Mapping[Place, Sequence[Record]]) -> tuple[Seek, dict[Place, Handover]]:
        """The batches of records that another client has read from `next`, and the seek that goes past them."""
        batches = {} if self._needs_seek else self._batches(records)
        return self._next_seek(), batches

    def is_current(self, batch: Handover) -> bool:
        """Whether reading has not begun again since this batch was handed over."""
        return batch.round == self._round

    def _next_seek(self) -> Seek:
        self._number, self._seek = 0, self._seek + 1
        return Seek(self.next(), self._seek)

    def _batches(self, records: Mapping[Place, Sequence[Record]]) -> dict[Place, Handover]:
        batches = {}
        for place, taken in records.items():
            # A place without an open lane is not read: its offset is not known.
            if place in self._reached and taken:
                batches[place] = Handover(taken, self._reached[place], self._round)
                self._reached[place] = taken[-1].offset
        return batches
