"""Which topics exist, where queries may name one for their answers."""

from __future__ import annotations

import time
from collections.abc import Callable

from worker.contract.settings import Settings

REFRESH_SECONDS = 30.0


class ReplyTopics:
    """The names of all topics as of the last `refresh`; none where queries may not name one."""

    def __init__(self, settings: Settings, ask: Callable[[], frozenset[str]]) -> None:
        self.names: frozenset[str] = frozenset()
        self._is_used = settings.inference.reply_topics is not None
        self._ask = ask
        self._asked_at = float("-inf")

    def is_due(self) -> bool:
        """Whether it is time to ask again."""
        return self._is_used and time.monotonic() - self._asked_at >= REFRESH_SECONDS

    def refresh(self) -> None:
        """Ask the broker, and wait for the answer."""
        self._asked_at = time.monotonic()
        self.names = self._ask()
