"""What queries with each tag have cost, for reports. Nothing is decided by it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from worker.contract.messages import TagTotal

# The totals are in each account row, so a row of some 5 kB is the most that a lane writes with each transaction.
MOST_TAGS = 100
# The total of all tags that came when there were so many.
OTHERS = "(others)"


class TagTotals:
    """The totals of one lane, by `<name>=<value>`. The first MOST_TAGS tags have totals of their own."""

    def __init__(self, totals: Mapping[str, TagTotal]) -> None:
        self._totals = dict(totals)

    def totals(self) -> dict[str, TagTotal]:
        """The totals so far."""
        return self._totals.copy()

    def count(self, tags: Mapping[str, str]) -> None:
        """A query with these tags was decided for the first time."""
        for name in self._names(tags):
            old = self._totals.get(name, TagTotal())
            self._totals[name] = TagTotal(old.queries + 1, old.spent_micros)

    def spend(self, tags: Mapping[str, str], micros: int) -> None:
        """An answer to a query with these tags cost so much more than was booked for it before."""
        for name in self._names(tags):
            old = self._totals.get(name, TagTotal())
            self._totals[name] = TagTotal(old.queries, old.spent_micros + micros)

    def _names(self, tags: Mapping[str, str]) -> list[str]:
        if not tags:
            return []
        names = dict.fromkeys(f"{name}={value}" for name, value in tags.items())
        known = len(self._totals)
        kept = [name for name in names if name in self._totals]
        new = [name for name in names if name not in self._totals]
        room = max(0, MOST_TAGS - known)
        return [*kept, *new[:room], *([OTHERS] if new[room:] else [])]
