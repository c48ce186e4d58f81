"""Collects what one transaction of the treasury says to lanes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from worker.contract.leases import GrantMessage, Item
from worker.treasury.books import Books

_encode = msgspec.msgpack.Encoder().encode


class Outbox:
    """The items to each lane, in their order. Grouping them by kind would move an answer over the end of a period."""

    def __init__(self) -> None:
        self._items: dict[int, list[Item]] = {}
        self._digest = blake2b(digest_size=16)
        self._said = 0

    def tell(self, lane: int, item: Item) -> None:
        """Say something to one lane."""
        self._items.setdefault(lane, []).append(item)
        self._digest.update(_encode((lane, item)))
        self._said += 1

    def tell_all(self, lanes: Iterable[int], item: Item) -> None:
        """Say something to all lanes, in the order of their numbers."""
        for lane in sorted(lanes):
            self.tell(lane, item)

    def take_digest(self) -> bytes:
        """The hash of what was said since the last call; empty if nothing was."""
        digest = self._digest.digest() if self._said else b""
        self._digest, self._said = blake2b(digest_size=16), 0
        return digest

    def messages(self, books: Books) -> dict[int, GrantMessage]:
        """One message to each lane that something was said to, numbered in the lane's row."""
        messages = {}
        for lane in sorted(self._items):
            row = books.lanes[lane]
            row = msgspec.structs.replace(row, messages=row.messages + 1)
            books.put_lane(lane, row)
            messages[lane] = GrantMessage(row.messages, books.row.at_ms, tuple(self._items[lane]))
        return messages
