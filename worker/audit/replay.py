"""Re-executes one partition's decisions from their records and compares every record bit for bit. Pure.

Feed it `decisions` in order. It begins at the first record of the chain or at any checkpoint, and follows the hash
chain through all records, also those before its beginning. A record is decided again when the next one has linked to
it, so that a changed one is blamed itself and not what stands around it. It stops at the first record that comes out
differently; its memory does not grow with the log.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
import numpy as np

from worker.audit.agreement import disagreement
from worker.audit.chain import Anchor, Chain
from worker.audit.decision_events import event_of, goes_on, may_go_on
from worker.audit.divergence import Divergence, Recorded, difference, told
from worker.audit.evidence import Evidence, Original, unchecked
from worker.audit.recorded_prices import Solutions
from worker.audit.replay_start import Beginning
from worker.contract import codec
from worker.contract.errors import FixSetting
from worker.contract.messages import Account, Checkpoint, Decision, Priced
from worker.contract.record import Record
from worker.core.events import Event
from worker.core.journal import record_hash
from worker.core.ledger import BrokenInvariant
from worker.core.router import Prior, Router

# What an event that no lane can have had makes of a router: numbers and lists that do not fit together, or anywhere.
IMPOSSIBLE = (BrokenInvariant, FixSetting, ValueError, LookupError, ArithmeticError, TypeError, MemoryError)


class Replay:
    """One partition, from its `beginning` on. `compared` counts the records that came out the same.

    `limit` ends it, `done`, at the first event that begins at this offset or after it. `anchored` says whether the
    chain passed the anchor, `arrived` whether the state passed the account row. `evidence` may be replaced by newer
    rows. `first_ms` and `last_ms` are the lane's times at the first and the last record compared.
    """

    def __init__(
        self,
        partition: int,
        topic: str,
        prior: Prior,
        solutions: Solutions,
        evidence: Evidence | None = None,
        limit: int | None = None,
    ) -> None:
        self.partition = partition
        self.topic = topic
        self.solutions = solutions
        self.evidence = evidence or Evidence()
        self.router: Router | None = None
        self.divergence: Divergence | None = None
        self.beginning = Beginning(partition, prior, solutions.policy)
        self.compared = self.first_ms = self.last_ms = 0
        self.anchored = self.arrived = self.done = False
        self._limit = limit
        self._chain: Chain | None = None
        self._base = 0
        self._last: Recorded | None = None
        self._passed: Recorded | None = None
        self._held: Recorded | None = None
        self._produced: deque[tuple[str, bytes]] = deque()
        self._before: dict[str, Account] = {}

    @property
    def read(self) -> int:
        """How many decisions the chain has up to the last one read; as from the beginning only once there is one."""
        return self._base + (0 if self._chain is None else self._chain.count)

    def feed(self, record: Record) -> None:
        """The next record of `decisions`; after a divergence, or the limit, nothing more is looked at."""
        if self.divergence is not None or self.done:
            return
        value = record.value or b""
        try:
            decision = codec.decode_decision(value)
        except codec.UNREADABLE as error:
            self._settle()
            if self.divergence is None:
                self._diverge(record.offset, "record", "value", str(error), "a decision")
            return
        chain = self._chain = self._chain or Chain(decision.prev)
        breaks = chain.follow(record.offset, decision.prev, value)
        last, self._last = self._last, Recorded(record.offset, chain.count, record.key, value, decision)
        if breaks:
            self._wrong(*breaks[0])
        elif last is not None:
            self._take(last, linked=not chain.is_broken)

    def finish(self) -> None:
        """After the last record: what the last event caused and was not recorded."""
        offset = None if self._last is None else self._last.offset
        if self.divergence is None and not self.done:
            self._settle()
            self._check_end(offset)
        held, self._held = self._held, None
        if held is not None and self.router is not None and self.divergence is None:
            self._execute(self.router, [held])
        if self.divergence is None and not self.done:
            self._check_rest(offset)

    def head(self) -> Anchor | None:
        """The head of the chain as far as it came out the same; None before the beginning, or after a divergence."""
        if self._passed is None or self.divergence is not None:
            return None
        return Anchor(self.partition, self._number(self._passed), record_hash(self._passed.value).hex())

    def gap(self, what: str) -> None:
        """Something that should be replayed is not there."""
        if self.divergence is None:
            self._wrong(self.beginning.offset, what)

    # The chain

    def _settle(self) -> None:
        """Take the last record, which none has linked to."""
        breaks = [] if self._chain is None else self._chain.end()
        last, self._last = self._last, None
        if breaks:
            self._wrong(*breaks[0])
        elif last is not None:
            row, named = self.evidence.row, self.read
            linked = row is None or row.decisions != named or row.head == record_hash(last.value)
            self._take(last, linked)
            if not linked and self.divergence is None:
                self._wrong(last.offset, "was changed: the account row names another record as the last")

    def _take(self, recorded: Recorded, linked: bool) -> None:
        if self.router is not None:
            self._next(self.router, recorded)
        elif self._limit is not None and recorded.offset >= self._limit:
            self.done = True
        else:
            self._begin(recorded)
        if not linked:
            self._doubt(recorded)

    def _doubt(self, recorded: Recorded) -> None:
        """A record that the next one does not link to: if it was changed, it says how itself; else the chain does."""
        held, after, router = self._held, self._last, self.router
        if held is not None and router is not None and after is not None and self.divergence is None:
            self._held = None
            if goes_on(held.decision, after.decision):
                self._execute(router, [held, after])
            elif not isinstance(held.decision, Priced):
                self._execute(router, [held], unchecked)
        if self.divergence is not None and self.divergence.offset != recorded.offset:
            self.divergence = None

    def _check_end(self, offset: int | None) -> None:
        """The chain must go as far as the account row and the anchor say."""
        row, anchor = self.evidence.row, self.evidence.anchor
        read = 0 if self.router is None else self.read
        ends = f"the chain ends here, at {read} decisions"
        if self.divergence is not None:
            return
        if row is not None and self.router is not None and row.decisions > read:
            self._wrong(offset, f"{ends}, but the account row says {row.decisions}")
        elif anchor is not None and anchor.decisions > read:
            self._wrong(offset, f"{ends}, but the anchor says {anchor.decisions}")

    def _check_rest(self, offset: int | None) -> None:
        row = self.evidence.row
        if self._produced:
            missing = codec.decode_decision(self._produced[0][1])
            self._diverge(offset, type(missing).__name__, "record", None, missing)
        elif self.router is None or self.arrived:
            return
        elif row is not None:
            self._wrong(offset, f"the account row says {row.decisions} decisions, before those that were replayed")
        elif self.evidence.witness is not None:
            self._wrong(offset, "the ledger has no account row for the decisions up to here")

    # The beginning

    def _begin(self, recorded: Recorded) -> None:
        beginning = self.beginning
        try:
            self.router = router = beginning.at(recorded)
        except IMPOSSIBLE as error:
            self._diverge(beginning.offset, "Checkpoint", "row", str(error), "books that add up")
            return
        if router is None:
            return
        if beginning.whole:
            self._base = 1 - recorded.number
            self._next(router, recorded)
            return
        self._base = router.journal.count - recorded.number
        self.compared += router.journal.count - beginning.before
        self._pass_by(router, recorded)
        if self._is_anchor(beginning.before):
            self._check_anchor(recorded, beginning.head)

    # One record after another

    def _next(self, router: Router, recorded: Recorded) -> None:
        if self._produced:
            self._compare(router, recorded)
            return
        held, self._held = self._held, None
        if held is not None and goes_on(held.decision, recorded.decision):
            self._execute(router, [held, recorded])
            return
        if held is not None:
            self._execute(router, [held])
        if self.divergence is not None:
            return
        if self._produced:
            self._compare(router, recorded)
        elif self._limit is not None and recorded.offset >= self._limit:
            self.done = True
        elif may_go_on(recorded.decision):
            self._held = recorded
        else:
            self._execute(router, [recorded])

    def _execute(self, router: Router, records: list[Recorded], original: Original | None = None) -> None:
        self._before = dict(router.ledger.accounts)
        decisions = [recorded.decision for recorded in records]
        kind = type(decisions[0]).__name__
        self.solutions.recorded = next((decision for decision in decisions if isinstance(decision, Priced)), None)
        event = (original or self.evidence.original)(event_of(decisions), router.config)
        if isinstance(event, tuple):
            self._diverge(records[0].offset, kind, *event)
            return
        try:
            self._decide(router, event, decisions[0])
        except IMPOSSIBLE as error:
            self._diverge(records[0].offset, kind, "event", decisions[0], str(error) or type(error).__name__)
            return
        for recorded in records:
            self._compare(router, recorded)

    def _decide(self, router: Router, event: Event, decision: Decision) -> None:
        checkpoint = isinstance(decision, Checkpoint)
        if checkpoint:
            # Time that went by without an event that left a record. What is due stays open: no tick took it up.
            router.clock_ms = max(router.clock_ms, decision.at_ms)
        # An estimate that the window's float32 cannot hold is no lane's own: raised, not warned of.
        with np.errstate(over="raise", invalid="raise"):
            outbox = router.decide([] if checkpoint else [event])
        if isinstance(decision, Checkpoint) and decision.row is not None:
            # Which transaction it ends, and which dispatches that had, only the record itself knows.
            router.sequence = decision.row.sequence
            row = msgspec.structs.replace(router.account_row(), digest=decision.row.digest)
            outbox.checkpoint(row, router.pricing, list(router.ledger.open.values()))
        self._produced.extend(router.journal.take())

    def _compare(self, router: Router, recorded: Recorded) -> None:
        if self.divergence is not None:
            return
        key, value = self._produced.popleft() if self._produced else ("", b"")
        if value == recorded.value and (key.encode() or None) == recorded.key:
            self.compared += 1
            self._pass_by(router, recorded)
        else:
            self._diverge(recorded.offset, type(recorded.decision).__name__, *difference(recorded, key, value))

    def _pass_by(self, router: Router, recorded: Recorded) -> None:
        """Compare the chain with the anchor and the state with the rows of the ledger, where they stand."""
        row = self.evidence.row
        self._passed, self.last_ms = recorded, recorded.decision.at_ms
        self.first_ms = self.first_ms or self.last_ms
        count = self._number(recorded)
        if self._is_anchor(count):
            self._check_anchor(recorded, record_hash(recorded.value))
        if row is not None and count == row.decisions:
            self.arrived = True
            if (differs := disagreement(row, self.evidence.witness, router)) is not None:
                self._diverge(recorded.offset, *differs)

    def _is_anchor(self, count: int) -> bool:
        return self.evidence.anchor is not None and self.evidence.anchor.decisions == count

    def _check_anchor(self, recorded: Recorded, head: bytes) -> None:
        self.anchored = True
        if self.evidence.anchor is not None and head.hex() != self.evidence.anchor.head:
            kind = type(recorded.decision).__name__
            self._diverge(recorded.offset, kind, "anchor", head.hex(), self.evidence.anchor.head)

    def _number(self, recorded: Recorded) -> int:
        return self._base + recorded.number

    def _wrong(self, offset: int | None, what: str) -> None:
        self._diverge(offset, "log", "records", None, what)

    def _diverge(self, offset: int | None, kind: str, field: str, recorded: Any, recomputed: Any) -> None:
        self.divergence = Divergence(
            self.topic, self.partition, offset, kind, field, told(recorded), told(recomputed), dict(self._before)
        )
