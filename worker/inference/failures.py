"""Counts failed calls, and logs each kind now and then: an LLM that is down would fill the log."""

from __future__ import annotations

import asyncio
from collections import Counter

import structlog

from worker.contract.codes import ErrorClass

LOG_SECONDS = 10.0

logger = structlog.get_logger()


class Failures:
    """Failed calls since the last line of the log, by LLM and error class."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, ErrorClass]] = Counter()

    def count(self, llm: str, error_class: ErrorClass) -> None:
        """One more."""
        self._counts[llm, error_class] += 1

    async def run(self) -> None:
        """Log every LOG_SECONDS what has failed."""
        while True:
            await asyncio.sleep(LOG_SECONDS)
            for (llm, error_class), count in self._counts.items():
                logger.warning("calls_failed", llm=llm, error_class=error_class, count=count)
            self._counts.clear()
