"""What a replayed lane comes to, against the ledger rows that its next owner would restore. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from worker.audit.ledger_view import LedgerView
from worker.contract import codec
from worker.contract.messages import AccountRow, WindowBlock
from worker.core.journal import record_hash
from worker.core.outbox import RESERVATION_PREFIX, WINDOW_PREFIX
from worker.core.router import Router

# The account row's other fields say how records were cut into transactions.
COMPARED = ("offsets", "accounts", "prices", "fit", "seen", "decisions", "dispatches", "head", "window_from")

Disagreement = tuple[str, str, Any, Any]


def disagreement(row: AccountRow, witness: LedgerView | None, router: Router) -> Disagreement | None:
    """The first thing that the rows say otherwise than the router: (row, field, recorded, recomputed)."""
    return next(_disagreements(row, witness, router), None)


def _disagreements(row: AccountRow, witness: LedgerView | None, router: Router) -> Iterator[Disagreement]:
    mine = router.account_row()
    for name in COMPARED:
        if getattr(row, name) != getattr(mine, name):
            yield "account row", name, getattr(row, name), getattr(mine, name)
    if witness is None:
        return
    if not witness.is_whole:
        yield "ledger", "rows", "some after the last account row", "none"
    if witness.config != router.config:
        yield "configuration row", "value", witness.config, router.config
    yield from _windows(witness, router)
    for dispatch_id in sorted(witness.reservations.keys() | router.ledger.open.keys()):
        theirs, held = witness.reservations.get(dispatch_id), router.ledger.open.get(dispatch_id)
        if theirs != held:
            yield f"{RESERVATION_PREFIX}{dispatch_id} row", "value", theirs, held


def _windows(witness: LedgerView, router: Router) -> Iterator[Disagreement]:
    blocks = {f"{WINDOW_PREFIX}{number}": block for number, block in router.pricing.window.all_blocks().items()}
    for key in sorted(witness.window.keys() | blocks.keys()):
        block, theirs = blocks.get(key), witness.window.get(key)
        mine = None if block is None else record_hash(codec.encode(block))
        # A block that no query has touched has no row.
        if theirs != mine and not (theirs is None and block is not None and _is_untouched(block)):
            yield f"{key} row", "hash", theirs, mine


def _is_untouched(block: WindowBlock) -> bool:
    return not any(block.quality) and not any(block.cost_micros)
