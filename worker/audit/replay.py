"""Decides one partition's decisions again from their records, and compares every record bit for bit. Pure.

A replay begins with the chain or at the first whole checkpoint, follows the hash chain through all records, and stops
at the first record that comes out differently. Its memory does not grow with the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat

import numpy as np

from worker.audit.chain import Anchor, DecisionRecord, linked
from worker.audit.decision_events import event_of, grouped
from worker.audit.divergence import ledger_mismatch, record_mismatch
from worker.audit.ledger_view import LedgerView
from worker.audit.mismatch import Mismatch
from worker.audit.recorded_prices import Solutions
from worker.audit.start import Start, find_start, router_at
from worker.contract import codec
from worker.contract.accounts import Account
from worker.contract.decisions import Checkpoint, Priced
from worker.contract.errors import FixSetting
from worker.contract.messages import Configuration
from worker.contract.record import Record
from worker.core.events import Event
from worker.core.ledger import BrokenInvariant
from worker.core.router import Prior, Router

# What an event that no lane can have had makes of a router: numbers and lists that do not fit together, or anywhere.
IMPOSSIBLE = (BrokenInvariant, FixSetting, ValueError, LookupError, ArithmeticError, TypeError, MemoryError)

# In place of a record that the replay did not make.
NOTHING = ("", b"")

Original = Callable[[Event, Configuration | None], Event | Mismatch]


def unchecked(event: Event, _: Configuration | None) -> Event:
    """There are no input records to compare events with."""
    return event


@dataclass(frozen=True)
class Checks:
    """What a replay is compared with, besides the records of `decisions`.

    `original` compares an event, under the configuration in force, with the input record that it came from. It returns
    the event as that record has it, or what differs. `anchor` is a head that the chain must pass. `read_ledger` reads
    the ledger rows that the state must pass; it is called once, when the start is known.
    """

    original: Original = unchecked
    anchor: Anchor | None = None
    read_ledger: Callable[[], LedgerView | None] = lambda: None


@dataclass
class Replay:
    """The result of one partition. `compared` records came out the same; `mismatch` is the first that did not.

    `accounts` are those before the event of that record. `start` is where the replay began, and `skipped` counts the
    records before it. `first_offset` is that of the first record that was read, and `count` is how many decisions the
    chain has up to the last one. `head` is that of the last record compared. `anchored` says whether the chain passed
    the anchor, `arrived` whether the state passed the account row of `ledger`, `limited` whether the limit ended the
    replay. `first_ms` and `last_ms` are the lane's times at the first and the last record compared.
    """

    partition: int
    topic: str
    start: Start | None = None
    skipped: int = 0
    first_offset: int | None = None
    ledger: LedgerView | None = None
    router: Router | None = None
    compared: int = 0
    count: int = 0
    head: Anchor | None = None
    anchored: bool = False
    arrived: bool = False
    limited: bool = False
    first_ms: int = 0
    last_ms: int = 0
    mismatch: Mismatch | None = None
    accounts: list[Account] = field(default_factory=list)

    def find(self, offset: int | None, mismatch: Mismatch | None) -> bool:
        """Note the first mismatch, and where it is; returns whether there is one."""
        if self.mismatch is None and mismatch is not None:
            self.mismatch = mismatch.at(self.topic, self.partition, offset)
            self.head = None
        return self.mismatch is not None

    @property
    def is_at_row(self) -> bool:
        """Whether every decision that the ledger counts was read."""
        row = None if self.ledger is None else self.ledger.row
        return row is None or self.count >= row.decisions


def replay(
    result: Replay,
    records: Iterable[Record],
    prior: Prior,
    solutions: Solutions,
    checks: Checks | None = None,
    limit: int | None = None,
) -> Replay:
    """Replay the records of one partition into `result`, which a reader may look at meanwhile; returns it.

    `limit` ends the replay at the first event whose records begin at this offset or after it.
    """
    checks = checks or Checks()
    decisions = _Decisions(result, linked(records))
    start, result.skipped = find_start(_before(decisions, result, limit))
    result.ledger = checks.read_ledger()
    if start is not None:
        _begin(result, start, prior, solutions, checks)
    if result.router is not None and result.mismatch is None:
        _decide_all(result, result.router, decisions, solutions, checks, limit)
    if (broken := decisions.broken) is not None and (
        result.mismatch is None or result.mismatch.offset != broken.offset
    ):
        # A record that was changed says itself what is wrong. Else the broken link is all that is known.
        result.mismatch, result.head = broken, None
    if not result.limited:
        _check_end(result, decisions.last_offset, checks.anchor)
    return result


class _Decisions:
    """The records of a chain up to its first broken link, which is `broken`, and one more.

    That one, `after`, may belong to the event of a record that was changed, and so help to say what was changed.
    """

    def __init__(self, result: Replay, links: Iterator[DecisionRecord | Mismatch]) -> None:
        self.broken: Mismatch | None = None
        self.after: DecisionRecord | None = None
        self.last_offset: int | None = None
        self._result = result
        self._links = links

    def __iter__(self) -> Iterator[DecisionRecord]:
        return self

    def __next__(self) -> DecisionRecord:
        link = next(self._links)
        if isinstance(link, Mismatch):
            after = next(self._links, None)
            self.broken, self._links = link, iter(())
            if not isinstance(after, DecisionRecord):
                raise StopIteration
            self.after = after
            return after
        if self.last_offset is None:
            self._result.first_offset = link.offset
        self.last_offset, self._result.count = link.offset, self._result.count + 1
        return link


def _before(decisions: Iterable[DecisionRecord], result: Replay, limit: int | None) -> Iterator[DecisionRecord]:
    """The records before the limit."""
    for record in decisions:
        if limit is not None and record.offset >= limit:
            result.limited = True
            return
        yield record


def _begin(result: Replay, start: Start, prior: Prior, solutions: Solutions, checks: Checks) -> None:
    """Make the router of the start; the records of a checkpoint count as compared if it adds up."""
    result.start, result.count = start, start.before + len(start.records)
    try:
        result.router = router_at(start, result.partition, prior, solutions.policy)
    except IMPOSSIBLE as error:
        result.find(start.offset, Mismatch(f"Checkpoint: its books do not add up: {error}"))
        return
    if start.is_chain:
        return
    if start.row is not None and checks.anchor is not None and checks.anchor.decisions == start.before:
        _check_anchor(result, start.records[0], start.row.head, checks.anchor)
    for record in start.records:
        _pass(result, result.router, record, checks)


def _decide_all(
    result: Replay,
    router: Router,
    decisions: _Decisions,
    solutions: Solutions,
    checks: Checks,
    limit: int | None,
) -> None:
    """Decide each event again, to the limit or to the first record that comes out differently."""
    first = result.start.records if result.start is not None and result.start.is_chain else ()
    for group in grouped(chain(first, decisions)):
        if limit is not None and group[0].offset >= limit:
            result.limited = True
            return
        if group[0] is decisions.after:
            return
        if decisions.broken is not None and isinstance(group[-1].decision, Priced):
            # The query that prices were solved for is missing, so its event is not known.
            return
        if _decide_group(result, router, group, solutions, checks):
            return


def _decide_group(
    result: Replay, router: Router, group: list[DecisionRecord], solutions: Solutions, checks: Checks
) -> bool:
    """Decide the event of these records again; returns whether something comes out differently."""
    result.accounts = router.view.accounts
    solutions.recorded = next((r.decision for r in group if isinstance(r.decision, Priced)), None)
    first, name = group[0], type(group[0].decision).__name__
    event = checks.original(event_of([record.decision for record in group]), router.view.config)
    if isinstance(event, Mismatch):
        return result.find(first.offset, event)
    try:
        made = _decide(router, event, first)
    except IMPOSSIBLE as error:
        return result.find(first.offset, Mismatch(f"{name}: cannot be decided: {error or type(error).__name__}"))
    return _compare(result, router, group, made, checks)


def _decide(router: Router, event: Event, first: DecisionRecord) -> list[tuple[str, bytes]]:
    """The records that the router makes of an event."""
    if isinstance(first.decision, Checkpoint):
        row = first.decision.row
        return [] if row is None else router.checkpoint(row, first.decision.at_ms)
    # An estimate that the window's float32 cannot hold does not come from a lane: raised, not warned of.
    with np.errstate(over="raise", invalid="raise"):
        return router.decide(event)


def _compare(
    result: Replay, router: Router, group: list[DecisionRecord], made: list[tuple[str, bytes]], checks: Checks
) -> bool:
    for record, (key, value) in zip(group, chain(made, repeat(NOTHING)), strict=False):
        if result.find(record.offset, record_mismatch(record, key, value)) or _pass(result, router, record, checks):
            return True
    if len(made) <= len(group):
        return False
    missing = codec.decode_decision(made[len(group)][1])
    return result.find(group[-1].offset, Mismatch(type(missing).__name__, "record", None, missing))


def _pass(result: Replay, router: Router, record: DecisionRecord, checks: Checks) -> bool:
    """Count a record that came out the same; the anchor and the account row must agree where they stand."""
    assert result.start is not None, "records are compared from the start on"
    result.compared += 1
    number = result.start.before + result.compared
    result.head = Anchor(result.partition, number, record.head.hex(), record.decision.at_ms)
    result.last_ms = record.decision.at_ms
    result.first_ms = result.first_ms or result.last_ms
    if checks.anchor is not None and checks.anchor.decisions == number:
        _check_anchor(result, record, record.head, checks.anchor)
    ledger = result.ledger
    if ledger is not None and ledger.row is not None and ledger.row.decisions == number:
        result.arrived = True
        result.find(record.offset, ledger_mismatch(ledger, ledger.row, router))
    return result.mismatch is not None


def _check_anchor(result: Replay, record: DecisionRecord, head: bytes, anchor: Anchor) -> None:
    result.anchored = True
    if head.hex() != anchor.head:
        result.find(record.offset, Mismatch(type(record.decision).__name__, "anchor", head.hex(), anchor.head))


def _check_end(result: Replay, offset: int | None, anchor: Anchor | None) -> None:
    """The chain must go as far as the account row and the anchor say."""
    row, began = None if result.ledger is None else result.ledger.row, result.start is not None
    count = result.count if began else 0
    ends = f"the chain ends here, at {count} decisions"
    if began and row is not None and row.decisions > count:
        result.find(offset, Mismatch(f"{ends}, but the account row says {row.decisions}"))
    elif anchor is not None and anchor.decisions > count:
        result.find(offset, Mismatch(f"{ends}, but the anchor says {anchor.decisions}"))
    elif began and result.ledger is not None and not result.arrived:
        said = "the ledger has no account row" if row is None else f"the account row says {row.decisions} decisions"
        result.find(offset, Mismatch(f"{said}, which the decisions up to here must have"))
