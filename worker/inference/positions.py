"""How far each partition of dispatches is done. Pure.

The position that may be committed is a low-water mark: that of the oldest dispatch that is not done. Dispatches above
it may be done already; after a restart, `restore` knows them from what was published.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Positions:
    """One partition of one LLM's dispatches. Offsets are taken in order, and done in any order."""

    _open: set[int] = field(default_factory=set)
    _after: int | None = None

    def take(self, offset: int) -> None:
        """A record that was read and is not done."""
        self._open.add(offset)
        self._after = offset + 1

    def reached(self, offset: int) -> None:
        """All records below `offset` were taken. The markers of transactions are no records, and have offsets too."""
        self._after = max(self._after or 0, offset)

    def done(self, offset: int) -> None:
        """A record that needs nothing more."""
        self._open.discard(offset)

    @property
    def position(self) -> int | None:
        """The offset that may be committed; None before the first record and the first end."""
        return min(self._open, default=self._after)
