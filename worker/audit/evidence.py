"""What a replay is compared with beside the records of `decisions` themselves. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worker.audit.chain import Anchor
from worker.audit.ledger_view import LedgerView
from worker.contract.messages import AccountRow, Configuration
from worker.core.events import Event

Difference = tuple[str, Any, Any]
Original = Callable[[Event, Configuration | None], Event | Difference]


def unchecked(event: Event, _: Configuration | None) -> Event:
    """No originals to compare events with."""
    return event


@dataclass(frozen=True)
class Evidence:
    """What the events, the chain and the state of a replay must agree with.

    `original` takes an event and the configuration in force to the input record that the event came from; it gives the
    event as that record has it, or what differs: (field, recorded, found). `anchor` is a head that the chain must pass,
    `row` an account row that the state must pass, `witness` the ledger's other rows as of it.
    """

    original: Original = unchecked
    anchor: Anchor | None = None
    row: AccountRow | None = None
    witness: LedgerView | None = None
