"""One partition's ledger topic as a table: the rows that the next owner of the partition would restore. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from worker.audit.mismatch import Mismatch, compared
from worker.audit.topics import Topics
from worker.contract import codec
from worker.contract.accounts import Account, AccountKey
from worker.contract.messages import AccountRow, ClosedDispatch, Configuration, Reservation
from worker.contract.record import Record
from worker.core.journal import record_hash
from worker.core.outbox import (
    ACCOUNT_KEY,
    BUDGET_PREFIX,
    CLOSED_PREFIX,
    CONFIGURATION_KEY,
    RESERVATION_PREFIX,
    WINDOW_PREFIX,
    account_key,
)

# About 250 bytes each. Older transactions are not checked for being torn.
MARKS = 100_000

_account = msgspec.msgpack.Decoder(Account).decode
_closed = msgspec.msgpack.Decoder(ClosedDispatch).decode
_configuration = msgspec.msgpack.Decoder(Configuration).decode


Content = Account | Configuration | Reservation | ClosedDispatch | bytes | None


class Mark(NamedTuple):
    """What an account row says about the chain at the end of its transaction."""

    sequence: int
    decisions: int
    dispatches: int
    head: bytes
    digest: bytes


class LedgerView:
    """The newest account row, the configuration, the accounts of budgets, the open reservations, and the marks of the
    newest transactions.

    `window` maps the keys of the window's rows to hashes of these rows. `next_offset` follows the last row that was
    read. Rows count once the account row that ends their transaction is read: a reader of a running system may stop
    between them.
    """

    def __init__(self) -> None:
        self.row: AccountRow | None = None
        self.config: Configuration | None = None
        self.accounts: dict[AccountKey, Account] = {}
        self.reservations: dict[str, Reservation] = {}
        self.closed: dict[str, ClosedDispatch] = {}
        self.window: dict[str, bytes] = {}
        self.next_offset = 0
        self.marks: deque[Mark] = deque(maxlen=MARKS)
        self._unfinished: list[tuple[str, Content]] = []

    @property
    def is_whole(self) -> bool:
        """Whether the last row read was an account row, as the last row of every transaction is."""
        return not self._unfinished

    def add(self, record: Record) -> Mismatch | None:
        """Add the next record of the partition; returns what is wrong with it."""
        self.next_offset = record.offset + 1
        what = self._add(record)
        return None if what is None else Mismatch(what).at(record.topic, record.partition, record.offset)

    def _add(self, record: Record) -> str | None:
        key = (record.key or b"").decode(errors="replace")
        try:
            if key == ACCOUNT_KEY and record.value is not None:
                return self._end_transaction(codec.decode_account(record.value))
            self._unfinished.append((key, _content(key, record.value)))
        except codec.UNREADABLE as error:
            return f"is not a row of key {key!r}: {error}"
        return None

    def _end_transaction(self, row: AccountRow) -> str | None:
        for key, content in self._unfinished:
            self._put(key, content)
        self._unfinished.clear()
        last, self.row = self.row, row
        self.marks.append(Mark(row.sequence, row.decisions, row.dispatches, row.head, row.digest))
        if last is not None and row.sequence <= last.sequence:
            return f"is account row {row.sequence}, but the account row before it is {last.sequence}"
        return None

    def _put(self, key: str, content: Content) -> None:
        if key.startswith(RESERVATION_PREFIX):
            self.reservations.pop(key.removeprefix(RESERVATION_PREFIX), None)
        if key.startswith(CLOSED_PREFIX):
            self.closed.pop(key.removeprefix(CLOSED_PREFIX), None)
        self.window.pop(key, None)
        if isinstance(content, Configuration):
            self.config = content
        elif isinstance(content, Account):
            self.accounts[content.key] = content
        elif isinstance(content, Reservation):
            self.reservations[key.removeprefix(RESERVATION_PREFIX)] = content
        elif isinstance(content, ClosedDispatch):
            self.closed[content.dispatch_id] = content
        elif content is not None:
            self.window[key] = content
        elif key == CONFIGURATION_KEY:
            self.config = None
        elif key.startswith(BUDGET_PREFIX):
            self.accounts = {one: account for one, account in self.accounts.items() if account_key(one) != key}

    def differences(
        self,
        config: Configuration | None,
        reservations: Mapping[str, Reservation],
        closed: Mapping[str, ClosedDispatch],
    ) -> Iterator[Mismatch | None]:
        """Compare the rows with the configuration, the reservations and the closed dispatches that they must hold."""
        yield compared("the configuration row", self.config, config)
        for dispatch_id in sorted(self.reservations.keys() | reservations.keys()):
            row, expected = self.reservations.get(dispatch_id), reservations.get(dispatch_id)
            name = f"row {RESERVATION_PREFIX}{dispatch_id}"
            if row is None:
                yield Mismatch(f"{name} is missing: by the decisions it is open")
            elif expected is None:
                yield Mismatch(f"{name} is there: by the decisions it was closed, or never made")
            else:
                yield compared(name, row, expected)
        for dispatch_id in sorted(self.closed.keys() | closed.keys()):
            name = f"row {CLOSED_PREFIX}{dispatch_id}"
            yield compared(name, self.closed.get(dispatch_id), closed.get(dispatch_id))
        if not self.is_whole:
            yield Mismatch("rows after the last account row belong to no transaction")


def _content(key: str, value: bytes | None) -> Content:
    """What the view keeps of a row."""
    if value is None:
        return None
    if key == CONFIGURATION_KEY:
        return _configuration(value)
    if key.startswith(BUDGET_PREFIX):
        return _account(value)
    if key.startswith(RESERVATION_PREFIX):
        return codec.decode_reservation(value)
    if key.startswith(CLOSED_PREFIX):
        return _closed(value)
    return record_hash(value) if key.startswith(WINDOW_PREFIX) else None


def read_ledger(topics: Topics, topic: str) -> LedgerView:
    """The ledger as it is now."""
    ledger = LedgerView()
    for record in topics.read([topic], lambda: ledger.is_whole):
        ledger.add(record)
    return ledger
