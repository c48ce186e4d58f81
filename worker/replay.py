"""Re-executes one partition's decisions from their records and compares every record bit for bit. Pure.

Feed it `decisions` in order. It begins at the first record of the chain or at any checkpoint. It stops at the first
record that comes out differently; its memory does not grow with the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from worker import wire
from worker.errors import FixSetting
from worker.events import Event
from worker.journal import record_hash
from worker.ledger import BrokenInvariant
from worker.messages import Account, AccountRow, Checkpoint, Configured, Decision, Priced, Reservation
from worker.record import Record
from worker.router import Prior, Router
from worker.snapshot import assemble
from worker.solutions import Solutions
from worker.stimuli import event_of, goes_on, may_go_on

# What an event that no lane can have had makes of a router: numbers and lists that do not fit together.
IMPOSSIBLE = (BrokenInvariant, FixSetting, ValueError, LookupError, ArithmeticError, TypeError)
# The account row's other fields say how records were cut into transactions.
COMPARED = ("offsets", "accounts", "prices", "fit", "seen", "decisions", "dispatches", "head", "window_from")

Original = Callable[[Event], "tuple[str, Any, Any] | None"]


class Anchor(Struct, frozen=True):
    """The head of a partition's chain after so many decisions, in hexadecimal, kept outside of Kafka."""

    partition: int
    decisions: int
    head: str


class Divergence(Struct, frozen=True):
    """The first record that does not come out as it was recorded. `before` is the ledger before its event."""

    topic: str
    partition: int
    offset: int | None
    kind: str
    field: str
    recorded: Any
    recomputed: Any
    before: dict[str, Account]

    def __str__(self) -> str:
        place = "" if self.offset is None else f" offset {self.offset}"
        if self.kind == "log":
            return f"{self.topic}/{self.partition}{place}: {self.recomputed}"
        return (
            f"{self.topic}/{self.partition}{place}: {self.kind}.{self.field} is {_short(self.recorded)}, "
            f"recomputed {_short(self.recomputed)}"
        )


class Recorded(NamedTuple):
    """One decision record as it was read."""

    offset: int
    key: bytes | None
    value: bytes
    decision: Decision


def unchecked(_: Event) -> None:
    """No originals to compare events with."""


@dataclass(frozen=True)
class Evidence:
    """What a replay is compared with beside the records themselves.

    `original` compares an event with the record of the input topic that it came from: (field, recorded, found), or
    None. `anchor` is a head that the chain must pass, `row` an account row that the state must pass.
    """

    original: Original = unchecked
    anchor: Anchor | None = None
    row: AccountRow | None = None


class Replay:
    """One partition. `compared` counts the records that came out the same, `skipped` those before the beginning.

    `anchored` says whether the chain passed the anchor, `arrived` whether the state passed the account row.
    """

    def __init__(
        self, partition: int, topic: str, prior: Prior, solutions: Solutions, evidence: Evidence | None = None
    ) -> None:
        self.partition = partition
        self.topic = topic
        self.solutions = solutions
        self.router: Router | None = None
        self.divergence: Divergence | None = None
        self.compared = self.skipped = 0
        self.first_offset: int | None = None
        self.anchored = self.arrived = False
        self._prior = prior
        self._evidence = evidence or Evidence()
        self._parts: list[Checkpoint] = []
        self._held: Recorded | None = None
        self._produced: deque[tuple[str, bytes]] = deque()
        self._before: dict[str, Account] = {}

    def feed(self, record: Record) -> None:
        """The next record of `decisions`; after a divergence nothing more is looked at."""
        if self.divergence is not None:
            return
        value = record.value or b""
        try:
            recorded = Recorded(record.offset, record.key, value, wire.decode_decision(value))
        except wire.UNREADABLE as error:
            self._diverge(record.offset, "record", "value", str(error), "a decision")
            return
        if self.router is None:
            self._begin(recorded)
        else:
            self._take(self.router, recorded)

    def finish(self) -> None:
        """After the last record: what the last event caused and was not recorded."""
        held, self._held = self._held, None
        if held is not None and self.router is not None and self.divergence is None:
            self._execute(self.router, [held])
        if self._produced and self.divergence is None:
            missing = wire.decode_decision(self._produced[0][1])
            self._diverge(None, type(missing).__name__, "record", None, missing)
        row, router = self._evidence.row, self.router
        if row is not None and router is not None and self.divergence is None and not self.arrived:
            self._diverge(None, "account row", "decisions", row.decisions, router.journal.count)

    def head(self) -> Anchor | None:
        """The head of the chain as far as it came out the same; None before the beginning, or after a divergence."""
        if self.router is None or self.divergence is not None:
            return None
        return Anchor(self.partition, self.router.journal.count, self.router.journal.head.hex())

    def gap(self, what: str) -> None:
        """Something that should be replayed is not there."""
        if self.divergence is None:
            self._diverge(self.first_offset, "log", "records", None, what)

    # The beginning

    def _begin(self, recorded: Recorded) -> None:
        decision = recorded.decision
        if isinstance(decision, Configured) and not decision.prev:
            self.first_offset = recorded.offset
            self.router = Router(self.partition, self._prior, self.solutions.policy)
            self._take(self.router, recorded)
        elif isinstance(decision, Checkpoint) and decision.part == len(self._parts):
            self._begin_at(recorded, decision)
        else:
            self._parts = []
            self.skipped += 1

    def _begin_at(self, recorded: Recorded, part: Checkpoint) -> None:
        if not self._parts:
            self.first_offset = recorded.offset
        self._parts.append(part)
        row, config = self._parts[0].row, self._parts[0].config
        if len(self._parts) < part.parts or row is None or config is None:
            return
        reservations: list[Reservation] = [held for part in self._parts for held in part.reservations]
        try:
            self.router = assemble(
                self.partition, self._prior, row, config, reservations, self._parts[0].window, self.solutions.policy
            )
        except IMPOSSIBLE as error:
            self._diverge(self.first_offset, "Checkpoint", "row", str(error), "books that add up")
            return
        self.router.journal.count += len(self._parts)
        self.router.journal.head = record_hash(recorded.value)
        self.compared += len(self._parts)
        self._parts = []
        self._pass_by(recorded)

    # One record after another

    def _take(self, router: Router, recorded: Recorded) -> None:
        if self._produced:
            self._compare(recorded)
            return
        held, self._held = self._held, None
        if held is not None and goes_on(held.decision, recorded.decision):
            self._execute(router, [held, recorded])
            return
        if held is not None:
            self._execute(router, [held])
            if self._produced or self.divergence is not None:
                self._compare(recorded)
                return
        if may_go_on(recorded.decision):
            self._held = recorded
        else:
            self._execute(router, [recorded])

    def _execute(self, router: Router, records: list[Recorded]) -> None:
        self._before = dict(router.ledger.accounts)
        decisions = [recorded.decision for recorded in records]
        self.solutions.recorded = next((decision for decision in decisions if isinstance(decision, Priced)), None)
        event = event_of(decisions)
        if (differs := self._evidence.original(event)) is not None:
            self._diverge(records[0].offset, type(decisions[0]).__name__, *differs)
            return
        try:
            self._decide(router, event, decisions[0])
        except IMPOSSIBLE as error:
            self._diverge(records[0].offset, type(decisions[0]).__name__, "event", decisions[0], str(error))
            return
        for recorded in records:
            self._compare(recorded)

    def _decide(self, router: Router, event: Event, decision: Decision) -> None:
        # An estimate that the window's float32 cannot hold is no lane's own: raised, not warned of.
        with np.errstate(over="raise", invalid="raise"):
            outbox = router.decide([event])
        if isinstance(decision, Checkpoint) and decision.row is not None:
            # Which transaction it ends, and which dispatches that had, only the record itself knows.
            router.sequence = decision.row.sequence
            row = msgspec.structs.replace(router.account_row(), digest=decision.row.digest)
            outbox.checkpoint(row, router.pricing, list(router.ledger.open.values()))
        self._produced.extend(router.journal.take())

    def _compare(self, recorded: Recorded) -> None:
        if self.divergence is not None:
            return
        key, value = self._produced.popleft() if self._produced else ("", b"")
        if value == recorded.value and (key.encode() or None) == recorded.key:
            self.compared += 1
            self._pass_by(recorded)
        else:
            self._differs(recorded, key, value)

    def _pass_by(self, recorded: Recorded) -> None:
        """Compare the chain with the anchor and the state with the account row, where they stand."""
        anchor, row, router = self._evidence.anchor, self._evidence.row, self.router
        if router is None:
            return
        # The router is ahead by what it produced for records that are still to come.
        count = router.journal.count - len(self._produced)
        if anchor is not None and count == anchor.decisions:
            self.anchored = True
            if (head := record_hash(recorded.value).hex()) != anchor.head:
                self._diverge(recorded.offset, type(recorded.decision).__name__, "anchor", head, anchor.head)
        if row is not None and count == row.decisions:
            self.arrived = True
            self._agree(row, router.account_row())

    def _agree(self, row: AccountRow, mine: AccountRow) -> None:
        for name in COMPARED:
            if getattr(row, name) != getattr(mine, name):
                self._diverge(None, "account row", name, getattr(row, name), getattr(mine, name))
                return

    def _differs(self, recorded: Recorded, key: str, value: bytes) -> None:
        kind = type(recorded.decision).__name__
        if not value:
            self._diverge(recorded.offset, kind, "record", recorded.decision, None)
            return
        mine = wire.decode_decision(value)
        self._diverge(recorded.offset, kind, *_difference(recorded, mine, key))

    def _diverge(self, offset: int | None, kind: str, field: str, recorded: Any, recomputed: Any) -> None:
        self.divergence = Divergence(
            self.topic, self.partition, offset, kind, field, _told(recorded), _told(recomputed), dict(self._before)
        )


def _difference(recorded: Recorded, mine: Decision, key: str) -> tuple[str, Any, Any]:
    """The first field in which a record differs; its link to the record before only if nothing else does."""
    theirs = recorded.decision
    if type(theirs) is not type(mine):
        return "kind", type(theirs).__name__, type(mine).__name__
    names = [name for name in theirs.__struct_fields__ if name != "prev"]
    for name in [*names, "prev"]:
        if getattr(theirs, name) != getattr(mine, name):
            return name, getattr(theirs, name), getattr(mine, name)
    if (key.encode() or None) != recorded.key:
        return "key", recorded.key, key
    return "encoding", recorded.value.hex(), wire.encode(mine).hex()


def _told(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
