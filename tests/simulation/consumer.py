"""The consumer of a simulated worker: a client that fetches, and everything that loses fetched records on their way.

`worker.service.positions` is the real one. What is simulated around it is what Faust and aiokafka do: a fetch whose
caller was cancelled goes on; two fetches may be under way at once; an assignment begins at the group's committed
offsets; batches that wait for an agent are dropped when partitions are assigned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from tests.simulation.broker import Broker
from worker.contract.record import StoredRecord
from worker.kafka.memory import Log
from worker.kafka.reader import Place
from worker.service.positions import Fetch, FetchCounter, Handover, Positions, Seek

FETCHED_RECORDS = 6
# How often a fetch waits while others arrive.
IN_FLIGHT = 0.2
# Faust calls for records twice at once at most.
AT_ONCE = 2


class SimulatedClient:
    """aiokafka: the position in each place, and one object for each assignment."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._counter = FetchCounter()
        self._assignment = object()
        self.positions: dict[Place, int] = {}

    def assign(self, committed: Mapping[Place, int]) -> None:
        """The group has assigned these places; reading begins at its committed offsets."""
        self._assignment = object()
        self.positions = dict(committed)

    def seek(self, seek: Seek) -> None:
        """Seek those of the places that are assigned."""
        self.positions |= {place: offset for place, offset in seek.starts.items() if place in self.positions}
        self._counter.sought(seek.number, self._assignment)

    def fetch(self, places: Iterable[Place]) -> Fetch:
        """The next records of these places."""
        taken: dict[Place, list[StoredRecord]] = {}
        for place in places:
            if records := [*islice(self._log.read(place, self.positions[place]), FETCHED_RECORDS)]:
                self.positions[place] = records[-1].offset + 1
                taken[place] = records
        return self._counter.count(taken, self._assignment)


class SimulatedConsumer:
    """Faust's consumer: it fetches for the agents of one worker. `waiting` are the batches that no agent has taken."""

    def __init__(self, client: SimulatedClient, positions: Positions, broker: Broker) -> None:
        self.client, self.positions = client, positions
        self._broker, self._random = broker, broker.random
        self._in_flight: list[Fetch] = []

    def poll(
        self, place: Place, applied: Callable[[], Mapping[Place, int]], hand_over: Callable[[Place, Handover], None]
    ) -> None:
        """One call for records: it seeks if need be, and begins a fetch that may arrive now, later or never."""
        if self.positions.needs_seek:
            self.client.seek(self.positions.seek(applied()))
        places = self.client.positions if self._random.random() < 0.3 else [place]
        self._in_flight.append(self.client.fetch([*places]))
        if self._random.random() > IN_FLIGHT or len(self._in_flight) == AT_ONCE:
            self._arrive(hand_over)

    def _arrive(self, hand_over: Callable[[Place, Handover], None]) -> None:
        fetch = self._in_flight.pop(self._random.randrange(len(self._in_flight)))
        if self._random.random() < self._broker.dropped:
            return
        for place, batch in self.positions.take(fetch).items():
            hand_over(place, batch)
