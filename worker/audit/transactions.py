"""Compares every transaction that the ledger names with the decisions that it must end with. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from worker.audit.ledger_view import Mark
from worker.audit.mismatch import Mismatch
from worker.contract.decisions import Decision, Routed
from worker.contract.dispatch_id import DispatchId
from worker.core.journal import record_hash


class Transactions:
    """The transactions of one partition, in the order of its decisions; `marks` are what their account rows say."""

    def __init__(self, partition: int, marks: deque[Mark]) -> None:
        self._partition = partition
        self._marks = marks
        self._compared = Mark(0, 0, 0, b"", b"")
        self._dispatch_ids: list[str] = []

    def add(self, decision: Decision, decisions: int, dispatches: int, head: bytes) -> Iterator[Mismatch]:
        """Compare the transactions that end with this decision, the last of so many; yields what is wrong with them."""
        if isinstance(decision, Routed) and decision.llm is not None:
            self._dispatch_ids.append(str(DispatchId(self._partition, decision.offset, decision.attempt)))
        while self._marks and self._marks[0].decisions <= decisions:
            mark = self._marks.popleft()
            if mark.decisions == decisions:
                yield from self._compare(mark, dispatches, head)
        if self._marks and self._marks[0].sequence != self._compared.sequence + 1:
            # The beginning of this transaction is not known, and with it not all of its dispatches.
            self._dispatch_ids.clear()

    def _compare(self, mark: Mark, dispatches: int, head: bytes) -> Iterator[Mismatch]:
        digest = record_hash("".join(self._dispatch_ids).encode() + head)
        if mark.head != head or mark.dispatches != dispatches:
            yield Mismatch(
                f"is not the end of transaction {mark.sequence} that its account row names: changed, or torn"
            )
        elif mark.sequence == self._compared.sequence + 1 and mark.digest != digest:
            yield Mismatch(f"ends transaction {mark.sequence}, whose account row has another digest: torn")
        self._compared = mark
        self._dispatch_ids.clear()
