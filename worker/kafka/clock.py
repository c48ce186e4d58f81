"""The clock of a process. Whoever needs the time is given this clock, so that a test can give another."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """`now_ms` is the time of day, in milliseconds since 1970: events carry it into the core. `monotonic` is in seconds
    and only grows: durations and deadlines are measured with it."""

    def now_ms(self) -> int: ...
    def monotonic(self) -> float: ...


class SystemClock:
    """The clock of this machine."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic()


SYSTEM_CLOCK = SystemClock()
