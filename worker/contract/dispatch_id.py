"""The name of a dispatch."""

from __future__ import annotations

import re
from typing import NamedTuple

_TEXT = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})")


class DispatchId(NamedTuple):
    """The name of one dispatch: attempt number `attempt` (from 1) for the query at `offset` of `partition`.

    On the topics it is the text `<partition>-<offset>-<attempt>`.
    """

    partition: int
    offset: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.partition}-{self.offset}-{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> DispatchId | None:
        """The dispatch that a text names; None for a text that Tollgate cannot have written."""
        match = _TEXT.fullmatch(text)
        return None if match is None else cls(*map(int, match.groups()))
