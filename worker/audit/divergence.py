"""Compares what a replay makes with what was recorded: one decision record, or the rows of the ledger. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from worker.audit.chain import DecisionRecord
from worker.audit.ledger_view import LedgerView
from worker.audit.mismatch import Mismatch, compared, shown
from worker.contract import codec
from worker.contract.messages import AccountRow, WindowBlock
from worker.core.journal import record_hash
from worker.core.outbox import CLOSED_PREFIX, RESERVATION_PREFIX, WINDOW_PREFIX, account_key
from worker.core.router import Router

# The account row's other fields say how the decisions were cut into transactions.
COMPARED = (
    "offsets",
    "prices",
    "fit",
    "seen",
    "decisions",
    "dispatches",
    "head",
    "window_from",
    "tags",
    "breakers",
)


def record_mismatch(recorded: DecisionRecord, key: str, value: bytes) -> Mismatch | None:
    """The first field in which a record differs from what the replay made; None if they are the same bytes.

    Its link to the record before it is compared last. `value` is empty if the replay made nothing.
    """
    if value == recorded.value and (key.encode() or None) == recorded.key:
        return None
    theirs, name = recorded.decision, type(recorded.decision).__name__
    if not value:
        return Mismatch(name, "record", theirs, None)
    mine = codec.decode_decision(value)
    if type(theirs) is not type(mine):
        return Mismatch(name, "kind", name, type(mine).__name__)
    fields = [field for field in theirs.__struct_fields__ if field != "prev"]
    pairs: list[tuple[str, Any, Any]] = [(field, getattr(theirs, field), getattr(mine, field)) for field in fields]
    pairs += [("prev", theirs.prev, mine.prev), ("key", recorded.key, key.encode() or None)]
    pairs += [("encoding", recorded.value, value)]
    field, said, made = next(pair for pair in pairs if pair[1] != pair[2])
    return Mismatch(name, field, shown(said), shown(made))


def ledger_mismatch(ledger: LedgerView, row: AccountRow, router: Router) -> Mismatch | None:
    """The first difference between the rows of the ledger and the state of the router; None if they agree."""
    return next((found for found in _ledger_mismatches(ledger, row, router) if found is not None), None)


def _ledger_mismatches(ledger: LedgerView, row: AccountRow, router: Router) -> Iterator[Mismatch | None]:
    mine = router.view.account_row()
    for name in COMPARED:
        if (recorded := getattr(row, name)) != (expected := getattr(mine, name)):
            yield Mismatch("account row", name, shown(recorded), shown(expected))
    if not ledger.is_whole:
        yield Mismatch("the ledger has rows after its last account row: they belong to no transaction")
    yield compared("configuration row", ledger.config, router.view.config)
    accounts = {account.key: account for account in router.view.accounts}
    for key in sorted(ledger.accounts.keys() | accounts.keys()):
        yield compared(f"{account_key(key)} row", ledger.accounts.get(key), accounts.get(key))
    yield from _window_mismatches(ledger, router)
    for dispatch_id in sorted(ledger.reservations.keys() | router.view.open.keys()):
        theirs, held = ledger.reservations.get(dispatch_id), router.view.open.get(dispatch_id)
        yield compared(f"{RESERVATION_PREFIX}{dispatch_id} row", theirs, held)
    closed = {dispatch.dispatch_id: dispatch for dispatch in router.view.closed}
    for dispatch_id in sorted(ledger.closed.keys() | closed.keys()):
        yield compared(f"{CLOSED_PREFIX}{dispatch_id} row", ledger.closed.get(dispatch_id), closed.get(dispatch_id))


def _window_mismatches(ledger: LedgerView, router: Router) -> Iterator[Mismatch | None]:
    blocks = {f"{WINDOW_PREFIX}{number}": block for number, block in router.view.window().items()}
    for key in sorted(ledger.window.keys() | blocks.keys()):
        block, theirs = blocks.get(key), ledger.window.get(key)
        mine = None if block is None else record_hash(codec.encode(block))
        # A block that no query has touched has no row.
        if theirs != mine and not (theirs is None and block is not None and _is_untouched(block)):
            yield Mismatch(f"{key} row", "hash", shown(theirs), shown(mine))


def _is_untouched(block: WindowBlock) -> bool:
    return not any(block.quality) and not any(block.cost_micros)
