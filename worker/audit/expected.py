"""What a topic must hold by the decisions, crossed off as its records are read. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator
from enum import Enum


class Met(Enum):
    """What came of a record that was looked up among those expected."""

    EXPECTED = "expected"
    TWICE = "is there twice"
    DIFFERENT = "does not say what its decision says"
    UNKNOWN = "follows from no decision"


class Expected:
    """Records that must be in one partition of a topic, exactly once each. Keys are small integers."""

    def __init__(self) -> None:
        self.unmet = 0
        self._content: dict[int, int | None] = {}
        self._first_met: int | None = None

    def expect(self, key: int, content: Hashable) -> None:
        """A record with this key and content must be there."""
        self._content[key] = hash(content)
        self.unmet += 1

    def meet(self, key: int, content: Hashable) -> Met:
        """Cross off a record that is there."""
        if key not in self._content:
            return Met.UNKNOWN
        wanted = self._content[key]
        if wanted is None:
            return Met.TWICE
        self._content[key] = None
        self.unmet -= 1
        if self._first_met is None:
            self._first_met = key
        return Met.EXPECTED if wanted == hash(content) else Met.DIFFERENT

    def missing(self, shortened: bool) -> tuple[int, list[int]]:
        """How many have left the topic by its retention, and the keys of those that should be there.

        `shortened`: the topic has lost its beginning, so what was expected before the first record met has left it.
        """
        gone, missing, leaving = 0, [], shortened
        for key, content in self._content.items():
            leaving = leaving and key != self._first_met
            if content is not None and leaving:
                gone += 1
            elif content is not None:
                missing.append(key)
        return gone, missing


class Inputs:
    """One partition of an input topic against the offsets that were decided: each exactly once, in order.

    Offsets up to `base` were decided before the audit begins. `gone` have left the topic, `waiting` are undecided.
    """

    def __init__(self) -> None:
        self.base = self.applied = -1
        self.gone = self.waiting = 0
        self._decided = array("q")
        self._next = 0

    @property
    def count(self) -> int:
        """How many records were decided."""
        return len(self._decided)

    def begin(self, applied: int) -> None:
        """Start after what was applied at a checkpoint."""
        self.base = self.applied = applied

    def decide(self, offset: int) -> bool:
        """A first decision about the record at `offset`; False if there was one before, or it is out of order."""
        if offset <= self.applied:
            return False
        self._decided.append(offset)
        self.applied = offset
        return True

    def read(self, offset: int, oldest: int) -> Iterator[tuple[int, str]]:
        """A record of the topic, in order; yields (offset, what is wrong). `oldest` is the topic's first offset."""
        yield from self._absent(offset, oldest)
        if offset > self.applied:
            self.waiting += 1
        elif self._next < len(self._decided) and self._decided[self._next] == offset:
            self._next += 1
        elif offset > self.base:
            yield offset, "was passed over: it has no decision"

    def end(self, oldest: int) -> Iterator[tuple[int, str]]:
        """After the topic's last record: decided offsets that are not in it."""
        yield from self._absent(self.applied + 1, oldest)

    def _absent(self, before: int, oldest: int) -> Iterator[tuple[int, str]]:
        while self._next < len(self._decided) and self._decided[self._next] < before:
            offset = self._decided[self._next]
            self._next += 1
            if offset < oldest:
                self.gone += 1
            else:
                yield offset, "was decided, but is not in the topic"
