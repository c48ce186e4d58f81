"""The state of a lane as it wrote it: the compacted rows of its ledger, or a checkpoint in `decisions`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from worker.contract.accounts import Account
from worker.contract.errors import FixSetting
from worker.contract.messages import FORMAT, AccountRow, ClosedDispatch, Configuration, Reservation, WindowBlock
from worker.core.outbox import (
    ACCOUNT_KEY,
    BUDGET_PREFIX,
    CLOSED_PREFIX,
    CONFIGURATION_KEY,
    RESERVATION_PREFIX,
    WINDOW_PREFIX,
)

_account_row = msgspec.msgpack.Decoder(AccountRow).decode
_account = msgspec.msgpack.Decoder(Account).decode
_configuration = msgspec.msgpack.Decoder(Configuration).decode
_reservation = msgspec.msgpack.Decoder(Reservation).decode
_closed = msgspec.msgpack.Decoder(ClosedDispatch).decode
_block = msgspec.msgpack.Decoder(WindowBlock).decode

Kind = TypeVar("Kind")


class ForeignRow(ValueError):
    """A row that no lane has written, or that is missing. `key` is its key."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"row {key!r}: {problem}")
        self.key = key


class LaneState(NamedTuple):
    """All that `Router.restored` makes a router of. `window` has the blocks that were written, by number."""

    row: AccountRow
    config: Configuration
    accounts: Sequence[Account]
    reservations: Sequence[Reservation]
    closed: Sequence[ClosedDispatch]
    window: Mapping[int, WindowBlock]


def read_rows(rows: Mapping[str, bytes]) -> LaneState | None:
    """The state that a ledger partition holds; None if nothing was written. `rows` has the last value of each key.

    Raises ForeignRow, and FixSetting if another version wrote it.
    """
    if ACCOUNT_KEY not in rows:
        return None
    row = _read(_account_row, rows, ACCOUNT_KEY)
    # The other rows of another format may not be readable.
    check_format(row)
    return LaneState(
        row=row,
        config=_read(_configuration, rows, CONFIGURATION_KEY),
        accounts=[_read(_account, rows, key) for key in rows if key.startswith(BUDGET_PREFIX)],
        reservations=[_read(_reservation, rows, key) for key in rows if key.startswith(RESERVATION_PREFIX)],
        closed=[_read(_closed, rows, key) for key in rows if key.startswith(CLOSED_PREFIX)],
        window={_number(key): _read(_block, rows, key) for key in rows if key.startswith(WINDOW_PREFIX)},
    )


def check_format(row: AccountRow) -> None:
    """Raise FixSetting for the rows of another version."""
    if row.format != FORMAT:
        raise FixSetting(
            f"the ledger has format {row.format}, but this version reads format {FORMAT}; run the version that wrote "
            "it, or begin afresh with another kafka.topic_prefix and kafka.group"
        )


def _read(decode: Callable[[bytes], Kind], rows: Mapping[str, bytes], key: str) -> Kind:
    if key not in rows:
        raise ForeignRow(key, "missing")
    try:
        return decode(rows[key])
    except msgspec.MsgspecError as error:
        raise ForeignRow(key, f"no lane has written it: {error}") from error


def _number(key: str) -> int:
    number = key.removeprefix(WINDOW_PREFIX)
    if not number.isdecimal():
        raise ForeignRow(key, "no lane has written it: its key has no number")
    return int(number)
