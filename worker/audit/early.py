"""Decisions that are dated later than the broker wrote them: a worker's clock was ahead. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from worker.audit.chain import DecisionRecord
from worker.audit.mismatch import Mismatch

# Clocks that are kept right differ by less, and a row is under way for a moment.
TOLERANCE_MS = 5_000


class Early:
    """Compares the times of decisions with those of their records, given in order. `offset` is the first that differs.

    Without LogAppendTime a record has the time of the worker that wrote it, and no decision is later than that.
    """

    def __init__(self) -> None:
        self.offset: int | None = None
        self._count = self._most_ms = 0

    def add(self, record: DecisionRecord) -> None:
        """The next decision."""
        ahead_ms = record.decision.at_ms - record.appended_ms
        if record.appended_ms > 0 and ahead_ms > TOLERANCE_MS:
            self.offset = record.offset if self.offset is None else self.offset
            self._count += 1
            self._most_ms = max(self._most_ms, ahead_ms)

    def findings(self) -> Iterator[Mismatch]:
        """One finding for all of them, if there are any."""
        if self._count:
            yield Mismatch(
                f"is the first of {self._count} decisions that are dated up to {self._most_ms} ms later than "
                "the broker wrote them: a worker's clock was ahead, so reservations expired too early"
            )
