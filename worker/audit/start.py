"""Where an audit of one partition begins: with its chain, or at the first whole checkpoint. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from worker.audit.chain import DecisionRecord
from worker.contract.accounts import Account
from worker.contract.decisions import Checkpoint, Configured
from worker.contract.messages import AccountRow, ClosedDispatch, Configuration, Reservation
from worker.core.ledger import BrokenInvariant
from worker.core.pricing import Policies, Prior
from worker.core.router import Router
from worker.core.snapshot import LaneState


class Start(Struct, frozen=True):
    """A place at which the state of a partition is known: the chain's first record, or all parts of a checkpoint.

    `records` are that record, or those parts. `skipped` counts the records read before them.
    """

    records: tuple[DecisionRecord, ...]
    skipped: int

    @property
    def is_chain(self) -> bool:
        """Whether this is the beginning of the chain."""
        return isinstance(self.records[0].decision, Configured)

    @property
    def offset(self) -> int:
        """The offset of the first of the records."""
        return self.records[0].offset

    @property
    def parts(self) -> list[Checkpoint]:
        """The parts of the checkpoint; none at the beginning of the chain."""
        decisions = (record.decision for record in self.records)
        return [decision for decision in decisions if isinstance(decision, Checkpoint)]

    @property
    def row(self) -> AccountRow | None:
        """The account row of the checkpoint; None at the beginning of the chain."""
        return self.parts[0].row if self.parts else None

    @property
    def config(self) -> Configuration | None:
        """The configuration of the checkpoint; None at the beginning of the chain."""
        return self.parts[0].config if self.parts else None

    @property
    def accounts(self) -> list[Account]:
        """The accounts of the checkpoint; none at the beginning of the chain."""
        return self.parts[0].accounts if self.parts else []

    @property
    def reservations(self) -> list[Reservation]:
        """The reservations of all parts of the checkpoint."""
        return [reservation for part in self.parts for reservation in part.reservations]

    @property
    def closed(self) -> list[ClosedDispatch]:
        """The closed dispatches of all parts of the checkpoint."""
        return [dispatch for part in self.parts for dispatch in part.closed]

    @property
    def before(self) -> int:
        """How many decisions the chain has before these records."""
        return 0 if self.row is None else self.row.decisions


class StartSearch:
    """Looks for the first start among records that are given in order. `skipped` counts the records before it."""

    def __init__(self) -> None:
        self.skipped = 0
        self._parts: list[DecisionRecord] = []

    def add(self, record: DecisionRecord) -> Start | None:
        """The start that this record completes, if it completes one."""
        decision = record.decision
        if isinstance(decision, Configured) and not decision.prev:
            return Start((record,), self._skip(0))
        if not isinstance(decision, Checkpoint) or decision.part not in (0, len(self._parts)):
            self._skip(1)
            return None
        if decision.part == 0:
            self._skip(0)
            if decision.row is None or decision.config is None:
                self._skip(1)
                return None
        self._parts.append(record)
        return Start(tuple(self._parts), self.skipped) if len(self._parts) == decision.parts else None

    def _skip(self, more: int) -> int:
        """Count `more` records and the parts of a checkpoint that is not whole as skipped."""
        self.skipped += len(self._parts) + more
        self._parts = []
        return self.skipped


def find_start(records: Iterator[DecisionRecord]) -> tuple[Start | None, int]:
    """Read on to the first start, its last record included. Returns it, if there is one, and how many were skipped."""
    search = StartSearch()
    for record in records:
        if (start := search.add(record)) is not None:
            return start, search.skipped
    return None, search.skipped


def router_at(start: Start, partition: int, prior: Prior, policies: Policies) -> Router:
    """The router as it was before the chain's first record, or after the records of a checkpoint.

    Raises BrokenInvariant, or what impossible numbers make of a router, if the checkpoint does not add up.
    """
    row, config = start.row, start.config
    if row is None or config is None:
        return Router(partition, prior, policies)
    if row.head != start.parts[0].prev:
        raise BrokenInvariant("its account row does not name the record before it")
    # The records of the checkpoint are decisions too.
    row = replace(row, head=start.records[-1].head, decisions=row.decisions + len(start.records))
    state = LaneState(
        row, config, start.accounts, start.reservations, start.closed, dict(enumerate(start.parts[0].window))
    )
    return Router.restored(partition, prior, state, policies)
