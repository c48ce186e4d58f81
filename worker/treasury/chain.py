"""The treasury's decisions, each with the hash of the one before it. Pure."""

from __future__ import annotations

from collections.abc import Callable

from worker.contract.treasury_records import TreasuryDecision
from worker.core.journal import Journal

# Compaction never runs on `treasury-decisions`, so that one key serves all records.
KEY = "treasury"


class Chain:
    """Adds decisions behind the last one."""

    def __init__(self, head: bytes, count: int) -> None:
        self._journal = Journal(head, count)

    @property
    def head(self) -> bytes:
        """The hash of the last decision."""
        return self._journal.head

    @property
    def count(self) -> int:
        """How many decisions there are."""
        return self._journal.count

    def add(self, decision: Callable[[bytes], TreasuryDecision]) -> None:
        """Add the decision that is made of the hash of the last one."""
        self._journal.append(KEY, decision(self._journal.head))

    def take(self) -> list[tuple[str, bytes]]:
        """The decisions added since the last call, with their keys."""
        return self._journal.take()
