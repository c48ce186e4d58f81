"""How many inputs one transaction takes. Pure.

A transaction that does not fit the broker's time fails, and would fail again as it is. So a transaction is bounded by
bytes and by time. A lane begins with one input: if the process before it died of a record, that record is alone now.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

# What waits while a transaction commits becomes the next one. More at once saves nothing.
MOST_INPUTS = 4_096
MOST_BYTES = 16_000_000


class TransactionSize:
    """`seconds` is how long a transaction should take at most."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._most = 1

    def take(self, sizes: Iterable[int]) -> int:
        """How many of the waiting inputs the next transaction takes: one at least. `sizes` are their bytes."""
        total = accumulate(sizes)
        fitting = sum(1 for number, size in enumerate(total) if number < self._most and size <= MOST_BYTES)
        return max(1, fitting)

    def committed(self, inputs: int, seconds: float) -> None:
        """A transaction of so many inputs was committed: the next may be twice as large, unless this one was slow."""
        if seconds > self._seconds:
            self._most = max(1, inputs // 2)
        elif inputs >= self._most:
            self._most = min(MOST_INPUTS, 2 * self._most)

    def failed(self, inputs: int) -> None:
        """A transaction of so many inputs was aborted: the next is half of it."""
        self._most = max(1, inputs // 2)
