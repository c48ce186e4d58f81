"""The state of a lane as it wrote it: the compacted rows of its ledger, or a checkpoint in `decisions`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from worker.contract.messages import AccountRow, ClosedDispatch, Configuration, Reservation, WindowBlock
from worker.core.outbox import (
    ACCOUNT_KEY,
    CLOSED_PREFIX,
    CONFIGURATION_KEY,
    RESERVATION_PREFIX,
    WINDOW_PREFIX,
)

_account = msgspec.msgpack.Decoder(AccountRow).decode
_configuration = msgspec.msgpack.Decoder(Configuration).decode
_reservation = msgspec.msgpack.Decoder(Reservation).decode
_closed = msgspec.msgpack.Decoder(ClosedDispatch).decode
_block = msgspec.msgpack.Decoder(WindowBlock).decode


class LaneState(NamedTuple):
    """All that `Router.restored` makes a router of. `window` has the blocks that were written, by number."""

    row: AccountRow
    config: Configuration
    reservations: Sequence[Reservation]
    closed: Sequence[ClosedDispatch]
    window: Mapping[int, WindowBlock]


def read_rows(rows: Mapping[str, bytes]) -> LaneState | None:
    """The state that a ledger partition holds; None if nothing was written. `rows` has the last value of each key."""
    if ACCOUNT_KEY not in rows:
        return None
    return LaneState(
        row=_account(rows[ACCOUNT_KEY]),
        config=_configuration(rows[CONFIGURATION_KEY]),
        reservations=[_reservation(row) for key, row in rows.items() if key.startswith(RESERVATION_PREFIX)],
        closed=[_closed(row) for key, row in rows.items() if key.startswith(CLOSED_PREFIX)],
        window={
            int(key.removeprefix(WINDOW_PREFIX)): _block(row)
            for key, row in rows.items()
            if key.startswith(WINDOW_PREFIX)
        },
    )
