"""The threads of an inference worker. Each only waits for Kafka, so that the event loop does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from worker.contract.errors import CheckBroker

# Above what the limits inside a call add up to: a transaction is tried for one minute, and its last try, its abort and
# a new producer may take two more.
LIMIT_SECONDS = 300.0
# Each of them waits for the broker too.
TRIES, PAUSE_SECONDS = 5, 5.0

logger = structlog.get_logger()


class Threads:
    """Threads by name. `counts` says how many threads a name has; a thread runs one call at a time.

    Use it as a context manager: at the end it waits for the calls that have begun.
    """

    def __init__(self, limit_seconds: float = LIMIT_SECONDS, **counts: int) -> None:
        self._limit_seconds = limit_seconds
        self._pools = {name: ThreadPoolExecutor(count, name) for name, count in counts.items()}
        self._since: dict[object, tuple[float, str]] = {}

    async def run(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """What `work` returns or raises in a thread of this name. Other calls of the name may come first."""
        return await asyncio.get_running_loop().run_in_executor(self._pools[name], self._call, name, work, arguments)

    async def run_patiently(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """As `run`, but a broker that does not answer is asked TRIES times."""
        for left in reversed(range(TRIES)):
            try:
                return await self.run(name, work, *arguments)
            except CheckBroker as error:
                if not left:
                    raise
                logger.warning("broker_asked_again", thread=name, error=str(error), after_seconds=PAUSE_SECONDS)
                await asyncio.sleep(PAUSE_SECONDS)
        raise AssertionError("the last try returns or raises")

    def _call(self, name: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        call = object()
        self._since[call] = time.monotonic(), name
        try:
            return work(*arguments)
        finally:
            del self._since[call]

    def stuck(self) -> str | None:
        """In words: a thread that has been in one call for longer than any limit inside the call."""
        for began, name in [*self._since.values()]:
            seconds = time.monotonic() - began
            if seconds > self._limit_seconds:
                return f"the thread `{name}` has waited for Kafka for {seconds:.0f} s"
        return None

    def drop(self, name: str) -> None:
        """Begin no other call in the threads of this name, and do not wait for theirs."""
        self._pools[name].shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.shutdown()
