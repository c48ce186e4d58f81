"""Where a replay of one partition begins: with the chain, or with all parts of a checkpoint. Pure."""

from __future__ import annotations

from worker.audit.divergence import Recorded
from worker.contract.messages import Checkpoint, Configured, Reservation
from worker.core.journal import Journal, record_hash
from worker.core.ledger import BrokenInvariant
from worker.core.pricing import Policies, Prior
from worker.core.router import Router
from worker.core.snapshot import assemble


class Beginning:
    """Looks for it among the records. `offset` is where it is, `skipped` counts the records before it.

    `whole` says that it is the chain's own; else `before` decisions precede the checkpoint, the last of hash `head`.
    """

    def __init__(self, partition: int, prior: Prior, policies: Policies) -> None:
        self.skipped = self.before = 0
        self.offset: int | None = None
        self.whole = False
        self.head = b""
        self._make = partition, prior, policies
        self._parts: list[Checkpoint] = []

    def at(self, recorded: Recorded) -> Router | None:
        """The router as of this record, before the chain's first and after a checkpoint's last; None: look further.

        Raises BrokenInvariant, or what impossible numbers make of a router, where a checkpoint does not add up.
        """
        decision = recorded.decision
        if isinstance(decision, Configured) and not decision.prev:
            self._skip()
            self.offset, self.whole = recorded.offset, True
            return Router(*self._make)
        if not isinstance(decision, Checkpoint) or decision.part not in (0, len(self._parts)):
            self._skip()
            self.skipped += 1
            return None
        if decision.part == 0:
            self._skip()
            self.offset = recorded.offset
        self._parts.append(decision)
        return self._assembled(recorded) if len(self._parts) == decision.parts else None

    def _assembled(self, last: Recorded) -> Router:
        first, (partition, prior, policies) = self._parts[0], self._make
        if first.row is None or first.config is None or first.row.head != first.prev:
            raise BrokenInvariant("its first part does not follow the record before it")
        held: list[Reservation] = [reservation for part in self._parts for reservation in part.reservations]
        router = assemble(partition, prior, first.row, first.config, held, first.window, policies)
        router.journal = Journal(record_hash(last.value), first.row.decisions + len(self._parts))
        self.before, self.head = first.row.decisions, first.row.head
        return router

    def _skip(self) -> None:
        """Parts of a checkpoint that is not all there are records like any other."""
        self.skipped += len(self._parts)
        self._parts = []
        self.offset = None
