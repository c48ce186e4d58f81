"""The clock of a process, and waiting. Who needs the time is given a clock, so that a test can give another."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """`now_ms` is the time of day, in milliseconds since 1970: events carry it into the core. `monotonic` is in seconds
    and only grows: durations and deadlines are measured with it."""

    def now_ms(self) -> int: ...
    def monotonic(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The clock of this machine."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()


def poll_until(
    condition: Callable[[], T], seconds: float, every_seconds: float = 0.1, clock: Clock = SYSTEM_CLOCK
) -> T:
    """Ask `condition` every `every_seconds` until its answer is true or `seconds` have passed; its last answer.

    `every_seconds` is 0 for a condition that waits by itself.
    """
    end = clock.monotonic() + seconds
    while not (answer := condition()) and clock.monotonic() < end:
        if every_seconds > 0:
            clock.sleep(every_seconds)
    return answer
