"""What the ledger says: the rows of whole transactions, also where reading stopped inside of one."""

from __future__ import annotations

import pytest

from tests.drive import query
from tests.topics import NAMES, Recorded
from worker.audit.ledger_view import LedgerView

LEDGER = Recorded().run([query(0), query(1)]).topics()[NAMES.ledger]
ENDS = [number for number, stored in enumerate(LEDGER, 1) if stored.key == b"account"]


def view_after(rows: int) -> LedgerView:
    """The view of the ledger after so many rows."""
    read = LedgerView()
    for stored in LEDGER[:rows]:
        read.add(stored)
    return read


def witness(rows: int) -> tuple[object, ...]:
    """The content of the view after so many rows."""
    read = view_after(rows)
    return read.row, read.config, read.reservations, read.window


@pytest.mark.parametrize("rows", range(1, len(LEDGER)))
def test_rows_count_once_their_account_row_is_read(rows: int) -> None:
    """A reader that stops between them has the state of the transaction before."""
    read = view_after(rows)
    ended = max((end for end in ENDS if end <= rows), default=0)
    assert witness(rows) == witness(ended)
    assert read.is_whole is (rows in ENDS)


def test_every_row_is_kept() -> None:
    """The configuration, the open reservations, and a hash for each block of the window that was touched."""
    read = view_after(len(LEDGER))
    assert read.config is not None
    assert sorted(read.reservations) == ["0-0-1", "0-1-1"]
    assert sorted(read.window) == ["window/0"]
