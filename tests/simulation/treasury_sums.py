"""What lanes of the world of the treasury were told, have told, hold and have spent, from messages and dispatches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.simulation.treasury_lane import Sent
from worker.contract.leases import Granted, LaneReport
from worker.contract.purse_rows import LaneAccount

# A budget and the number of a period.
Key = tuple[int, int]


class OfLane:
    """What one lane was told, has told, holds and has spent."""

    def __init__(self) -> None:
        self.sent, self.applied = Counter[Key](), Counter[Key]()
        self.told_spent, self.told_returned = Counter[Key](), Counter[Key]()
        self.heard_spent, self.heard_returned = Counter[Key](), Counter[Key]()
        self.messages_applied = self.reports_heard = 0
        self.ended: dict[Key, LaneAccount] = {}
        self.accounts: dict[Key, LaneAccount] = {}
        self.dispatches: dict[str, Sent] = {}
        self.answered: set[int] = set()

    def reserved(self) -> Counter[Key]:
        """What open dispatches hold of each account."""
        return _sums(one.entries for one in self.dispatches.values() if one.booked is None)

    def spent(self) -> Counter[Key]:
        """What is booked for closed dispatches on each account."""
        return _sums(one.booked for one in self.dispatches.values() if one.booked is not None)


def add_grants(sums: Counter[Key], items: Iterable[object]) -> None:
    """Add what grants among these items grant."""
    for item in items:
        if isinstance(item, Granted):
            for entry in item.entries:
                sums[entry.budget, entry.period] += entry.amount


def add_moved(spent: Counter[Key], returned: Counter[Key], report: LaneReport) -> None:
    """Add what a report tells."""
    for moved in report.accounts:
        spent[moved.budget, moved.period] += moved.spent
        returned[moved.budget, moved.period] += moved.returned


def _sums(entries: Iterable[Iterable[tuple[int, int, int]]]) -> Counter[Key]:
    sums = Counter[Key]()
    for each in entries:
        for budget, period, amount in each:
            sums[budget, period] += amount
    return sums


def added(one: LaneAccount, other: LaneAccount) -> LaneAccount:
    """Two accounts of the same budget and period, the first of which has ended."""
    return LaneAccount(
        one.granted + other.granted, one.returned + other.returned, 0, one.spent + other.spent, other.unreported
    )
