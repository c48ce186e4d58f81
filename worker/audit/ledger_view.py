"""What one partition's ledger topic says, to be compared with the decisions. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from worker.contract import codec
from worker.contract.messages import AccountRow, Configuration, Reservation, Routed
from worker.contract.record import Record
from worker.core.journal import record_hash
from worker.core.outbox import ACCOUNT_KEY, CONFIGURATION_KEY, RESERVATION_PREFIX, WINDOW_PREFIX

# What transactions of the past are checked for being torn: about 250 bytes each.
MARKS = 100_000

_configuration = msgspec.msgpack.Decoder(Configuration).decode


class Mark(NamedTuple):
    """What an account row says about the chain as of its transaction."""

    sequence: int
    decisions: int
    dispatches: int
    head: bytes
    digest: bytes


class Witness:
    """The last account row, configuration and open reservations, and the marks of the newest transactions.

    `window` holds the hashes of the window's rows by their keys. Rows count once the account row that ends their
    transaction is read: whoever reads a running system may stop between them.
    """

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.row: AccountRow | None = None
        self.config: Configuration | None = None
        self.reservations: dict[str, Reservation] = {}
        self.window: dict[str, bytes] = {}
        self._open: list[tuple[str, Configuration | Reservation | bytes | None]] = []
        self._marks: deque[Mark] = deque(maxlen=MARKS)
        self._passed = Mark(0, 0, 0, b"", b"")
        self._dispatch_ids: list[str] = []

    @property
    def is_whole(self) -> bool:
        """Whether the last row read was an account row, as every transaction's last is."""
        return not self._open

    def read(self, record: Record) -> str | None:
        """The next record of the ledger partition; returns what is wrong with it."""
        key = (record.key or b"").decode(errors="replace")
        try:
            if key == ACCOUNT_KEY and record.value is not None:
                return self._account_row(codec.decode_account(record.value))
            self._open.append((key, _content(key, record.value)))
        except codec.UNREADABLE as error:
            return f"is no {key} row: {error}"
        return None

    def _account_row(self, row: AccountRow) -> str | None:
        for key, content in self._open:
            self._put(key, content)
        self._open.clear()
        last, self.row = self.row, row
        self._marks.append(Mark(row.sequence, row.decisions, row.dispatches, row.head, row.digest))
        if last is not None and row.sequence <= last.sequence:
            return f"account row {row.sequence} comes after {last.sequence}"
        return None

    def _put(self, key: str, content: Configuration | Reservation | bytes | None) -> None:
        self.reservations.pop(key.removeprefix(RESERVATION_PREFIX), None)
        self.window.pop(key, None)
        if isinstance(content, Configuration):
            self.config = content
        elif isinstance(content, Reservation):
            self.reservations[key.removeprefix(RESERVATION_PREFIX)] = content
        elif content is not None:
            self.window[key] = content
        elif key == CONFIGURATION_KEY:
            self.config = None

    def decided(self, decision: Routed) -> None:
        """A decision whose dispatch belongs to the transaction under way."""
        if decision.llm is not None:
            self._dispatch_ids.append(f"{self.partition}-{decision.offset}-{decision.attempt}")

    def pass_by(self, decisions: int, dispatches: int, head: bytes) -> Iterator[str]:
        """Compare the transactions that end with record number `decisions`; yields what is wrong with them."""
        while self._marks and self._marks[0].decisions <= decisions:
            mark = self._marks.popleft()
            if mark.decisions == decisions:
                yield from self._torn(mark, dispatches, head)
        if self._marks and self._marks[0].sequence != self._passed.sequence + 1:
            self._dispatch_ids.clear()

    def _torn(self, mark: Mark, dispatches: int, head: bytes) -> Iterator[str]:
        digest = record_hash("".join(self._dispatch_ids).encode() + head)
        if mark.head != head or mark.dispatches != dispatches:
            yield f"is not the end of transaction {mark.sequence} that its account row names: changed, or torn"
        elif mark.sequence == self._passed.sequence + 1 and mark.digest != digest:
            yield f"transaction {mark.sequence} has another digest than its account row says: torn"
        self._passed = mark
        self._dispatch_ids.clear()

    def differing(self, reservations: Mapping[str, Reservation]) -> Iterator[str]:
        """Open reservations that the ledger and the decisions do not agree on."""
        for dispatch_id in sorted(self.reservations.keys() | reservations.keys()):
            row, decided = self.reservations.get(dispatch_id), reservations.get(dispatch_id)
            if row is None:
                yield f"{RESERVATION_PREFIX}{dispatch_id} is missing: by the decisions it is open"
            elif decided is None:
                yield f"{RESERVATION_PREFIX}{dispatch_id} is open: by the decisions it was closed, or never made"
            elif row != decided:
                yield f"{RESERVATION_PREFIX}{dispatch_id} is not as it was decided"


def _content(key: str, value: bytes | None) -> Configuration | Reservation | bytes | None:
    """What a row says, as far as it is kept; of the window's rows only their hashes."""
    if value is None:
        return None
    if key == CONFIGURATION_KEY:
        return _configuration(value)
    if key.startswith(RESERVATION_PREFIX):
        return codec.decode_reservation(value)
    return record_hash(value) if key.startswith(WINDOW_PREFIX) else None
