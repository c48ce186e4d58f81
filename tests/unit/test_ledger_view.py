"""What the ledger says: the rows of whole transactions, also where reading stopped inside of one."""

from __future__ import annotations

import pytest

from tests.drive import query
from tests.topics import NAMES, Recorded
from worker.audit.ledger_view import LedgerView

LEDGER = Recorded().run([query(0), query(1)]).topics()[NAMES.ledger]
ENDS = [number for number, stored in enumerate(LEDGER, 1) if stored.key == b"account"]


def witness(rows: int) -> tuple[object, ...]:
    """What a witness holds after so many rows."""
    read = LedgerView()
    for stored in LEDGER[:rows]:
        read.add(stored)
    return read.row, read.config, read.reservations, read.window


@pytest.mark.parametrize("rows", range(1, len(LEDGER)))
def test_rows_count_once_their_account_row_is_read(rows: int) -> None:
    """A reader that stops between them has the state of the transaction before."""
    read = LedgerView()
    for stored in LEDGER[:rows]:
        read.add(stored)
    ended = max((end for end in ENDS if end <= rows), default=0)
    assert (witness(rows), read.is_whole) == (witness(ended), rows in ENDS)


def test_every_row_is_kept() -> None:
    """The configuration, the open reservations, and a hash for each block of the window that was touched."""
    _, config, reservations, window = witness(len(LEDGER))
    assert (config is not None, sorted(reservations), sorted(window)) == (True, ["0-0-1", "0-1-1"], ["window/0"])
