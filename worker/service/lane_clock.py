"""The time of a lane. It is never the word of one clock alone.

A reservation expires by the time of its lane, and a lane's time never goes back. So one machine whose clock is ahead
would expire what is open, and every later owner of the lane would go on with its time. A lane therefore has three
opinions of the time, and takes the middle one:

- the clock of this machine;
- the clock of the broker: the time at which it appended to the ledger, run on by the monotonic clock (the ledger has
  `message.timestamp.type=LogAppendTime`);
- the lane's own time at its last decision, run on by the monotonic clock.

A jump of the machine's clock changes nothing, whichever way it goes. If a lane has just been opened, its own time may
lie far back, and then the earlier of the two clocks is the middle. So a lane is late rather than early. Until the
broker has told its time, the lane takes the earlier one of its own time and the machine's.
"""

from __future__ import annotations

from typing import NamedTuple

from worker.kafka.clock import SYSTEM_CLOCK, Clock


class Heard(NamedTuple):
    """A time of the broker, in milliseconds since 1970, and when it was asked and heard by the monotonic clock."""

    broker_ms: int
    asked: float
    heard: float


class LaneClock:
    """A Clock that must `hear` the broker's time, and what was `decided`. Other threads may ask for the time."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._heard: Heard | None = None
        self._decided: tuple[int, float] | None = None

    def now_ms(self) -> int:
        """The middle one of the opinions; the earlier one of two."""
        opinions = [self._clock.now_ms()]
        heard, decided = self._heard, self._decided
        if heard is not None:
            # The broker appended before we heard of it, so this is not later than the broker's time now.
            opinions.append(heard.broker_ms + self._since_ms(heard.heard))
        if decided is not None:
            opinions.append(decided[0] + self._since_ms(decided[1]))
        return sorted(opinions)[(len(opinions) - 1) // 2]

    def monotonic(self) -> float:
        """Seconds, of this machine."""
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        self._clock.sleep(seconds)

    def hear(self, broker_ms: int, asked: float) -> None:
        """The broker has appended at this time, after the moment `asked` of the monotonic clock."""
        self._heard = Heard(broker_ms, asked, self._clock.monotonic())

    def is_old(self, seconds: float) -> bool:
        """Whether the broker's time was heard longer ago than this, or never."""
        return self._heard is None or self._clock.monotonic() - self._heard.heard > seconds

    def decided(self, clock_ms: int) -> None:
        """The lane's own time after its last decision."""
        self._decided = clock_ms, self._clock.monotonic()

    @property
    def drift_ms(self) -> int:
        """How far the machine's clock is ahead of the broker's (below 0: behind), beyond what the way of a record can
        explain; 0 if the broker's time is not known."""
        heard = self._heard
        if heard is None:
            return 0
        now_ms = self._clock.now_ms()
        latest, earliest = (heard.broker_ms + self._since_ms(at) for at in (heard.asked, heard.heard))
        return max(0, now_ms - latest) + min(0, now_ms - earliest)

    def _since_ms(self, at: float) -> int:
        return int((self._clock.monotonic() - at) * 1000)
