"""What an open reservation comes to in the end: settled, released or expired, and what is booked as spent. Pure."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from worker.contract.messages import Reservation
from worker.core.events import Completed


class Charge(Struct, frozen=True):
    """How a reservation closes: what is spent in micro-dollars, and on what basis."""

    outcome: Literal["settled", "released", "expired"]
    spent_micros: int
    basis: Literal["cost", "usage", "reservation", "none"]
    quality: float | None = None
    error: str | None = None


EXPIRED = Charge("expired", 0, "none")


def charge(reservation: Reservation, completion: Completed) -> Charge:
    """What the completion of this reservation's dispatch charges.

    An answer of unknown cost is booked at what was held for it: unknown is not zero. An error costs nothing unless it
    names a cost.
    """
    quality, error = completion.quality, completion.error
    if completion.cost_micros is None and completion.ok:
        return Charge("settled", reservation.reserved_micros, "reservation", quality, error)
    spent = completion.cost_micros or 0
    basis = "none" if completion.cost_micros is None else completion.basis
    return Charge("settled" if completion.ok or spent else "released", spent, basis, quality, error)
