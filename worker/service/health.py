"""Whether the broker answers, and whether decisions move: what /healthz, /readyz and two alarms tell. Pure.

A worker that decides nothing is not alive, however well its web server is: something in it waits for what never comes.
But only if there is something to decide, and if the broker answers: without a broker, a new process helps nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from worker.contract.settings import KafkaSettings
from worker.kafka.reader import Place

# The broker is asked this often. A broker that has not answered for the second time is not there; a new leader is found
# sooner.
ASK_SECONDS = 2.0
ABSENT_SECONDS = 8.0
# Longer than a rebalance and a transaction may take.
STALLED_SECONDS, STALLED_TRANSACTIONS = 60.0, 3


class Standing(NamedTuple):
    """An input that has not moved since a time of the clock: every record below `settled` is decided."""

    settled: int
    since: float


class Health:
    """`seconds` is a clock that only grows."""

    def __init__(self, kafka: KafkaSettings, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._stalled_seconds = max(STALLED_SECONDS, STALLED_TRANSACTIONS * kafka.transaction_timeout_ms / 1000)
        self._answered = seconds()
        self._standing: dict[Place, Standing] = {}

    def answered(self, ends: Mapping[Place, int], settled: Mapping[Place, int]) -> None:
        """The broker has told the ends of these inputs. All records below `settled` are decided; a place that is not in
        it has no open lane."""
        now = self._seconds()
        was_absent, self._answered = not self.broker_answers, now
        before = {} if was_absent else self._standing
        waiting = {place: settled[place] for place in ends.keys() & settled.keys() if ends[place] > settled[place]}
        self._standing = {
            place: before[place] if place in before and before[place].settled == offset else Standing(offset, now)
            for place, offset in waiting.items()
        }

    @property
    def broker_answers(self) -> bool:
        """Whether the broker has answered lately."""
        return self._seconds() - self._answered < ABSENT_SECONDS

    @property
    def absent(self) -> str | None:
        """How long the broker has not answered, as a sentence; None if it answers."""
        if self.broker_answers:
            return None
        return f"the broker has not answered for {self._seconds() - self._answered:.0f} s"

    def stalled(self) -> list[str]:
        """The inputs that wait though the broker answers, and that have not moved for too long: a sentence each."""
        if not self.broker_answers:
            return []
        now = self._seconds()
        return [
            f"{topic}/{partition}: nothing was decided for {now - standing.since:.0f} s, and records from offset "
            f"{standing.settled} on wait"
            for (topic, partition), standing in sorted(self._standing.items())
            if now - standing.since >= self._stalled_seconds
        ]
