"""Follows the hash chain of one partition's decision records and says where it breaks. Pure."""

from __future__ import annotations

from worker.core.journal import record_hash

Break = tuple[int, str]


class Chain:
    """The chain as read so far: `head` is the hash of the last record that belongs, `count` how many there were.

    A broken link is explained when the record after it is known: whether that one goes on from the record before the
    break tells an insertion from a change.
    """

    def __init__(self, head: bytes = b"", count: int = 0) -> None:
        self.head = head
        self.count = count
        self._last: int | None = None
        self._broken: tuple[int, int, bytes] | None = None

    @property
    def is_broken(self) -> bool:
        """Whether the last link was broken, and no record has yet explained it."""
        return self._broken is not None

    def follow(self, offset: int, prev: bytes, record: bytes) -> list[Break]:
        """Add the record at `offset`, whose link is `prev`. Returns the breaks now understood: (offset, what)."""
        breaks = self._explain(prev)
        if prev != self.head:
            breaks += self.end()
            if self._last is None:
                breaks.append((offset, "the chain does not begin here: records before this one were removed"))
            else:
                self._broken = (offset, self._last, self.head)
        self.head = record_hash(record)
        self.count += 1
        self._last = offset
        return breaks

    def end(self) -> list[Break]:
        """The break that no further record can explain."""
        broken, self._broken = self._broken, None
        if broken is None:
            return []
        at, before, _ = broken
        return [(before, f"was changed, or records between it and offset {at} were removed or moved")]

    def _explain(self, prev: bytes) -> list[Break]:
        if self._broken is None:
            return []
        at, _, head = self._broken
        if prev != head:
            return self.end()
        self._broken = None
        self.head = head
        self.count -= 1
        return [(at, "does not belong here: inserted, or moved from its place")]
