"""Simulated time, and work in threads that stops at every gate until the simulator lets it go on.

One thread runs at a time: the simulator's, or that of the one piece of work it has just let go. So a run is a function
of the simulator's choices alone.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar

START_SECONDS = 1_000_000.0

T = TypeVar("T")


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when nothing is left to do: then it jumps to the next timer."""

    _ready: deque[asyncio.Handle]

    def __init__(self) -> None:
        self._simulated_seconds = START_SECONDS
        super().__init__(_Selector(self._pass_time))

    def time(self) -> float:
        return self._simulated_seconds

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run to the end of `main`, cancel what is still waiting then, and close."""
        try:
            return self.run_until_complete(main)
        finally:
            for task in asyncio.all_tasks(self):
                task.cancel()
            self.run_until_complete(self.settle())
            self.close()

    async def settle(self) -> None:
        """Let every task run until it waits for something."""
        while self._ready:
            await asyncio.sleep(0)

    def _pass_time(self, seconds: float | None) -> None:
        if seconds is None:
            raise RuntimeError("every task waits, and none for time")
        self._simulated_seconds += seconds


class _Selector(selectors.SelectSelector):
    def __init__(self, pass_time: Callable[[float | None], None]) -> None:
        super().__init__()
        self._pass_time = pass_time

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout != 0:
            self._pass_time(timeout)
        return ready


class Killed(BaseException):
    """The process of this work was killed."""


class Work:
    """One call in a thread of its own. It runs from gate to gate, each time `step` is called."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self.at = "start"
        self._call = call
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._killed = False

    def step(self) -> None:
        """Run to the next gate or to the end."""
        if self._thread is None:
            if not self.future.set_running_or_notify_cancel():
                self.at = "end"
                return
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        else:
            self._go.release()
        self._stopped.acquire()

    def kill(self) -> None:
        """End it where it stands; nothing after its gate happens."""
        self._killed = True
        if self._thread is not None and self.at != "end":
            self.step()

    def gate(self, name: str) -> None:
        """Called by the work itself: stop here until the next step."""
        self.at = name
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise Killed

    def _run(self) -> None:
        _current.work = self
        try:
            result = self._call()
        except Killed:
            self._finish(None)
        except BaseException as error:
            self._finish(partial(self.future.set_exception, error))
        else:
            self._finish(partial(self.future.set_result, result))

    def _finish(self, tell: Callable[[], None] | None) -> None:
        self.at = "end"
        if tell is not None:
            tell()
        self._stopped.release()


_current = threading.local()


def gate(name: str) -> None:
    """Stop the work that calls this until the simulator lets it go on; whoever is no such work goes on at once."""
    work: Work | None = getattr(_current, "work", None)
    if work is not None:
        work.gate(name)


class SteppedExecutor(Executor):
    """Takes calls and runs none: the simulator steps them, in an order of its own."""

    def __init__(self) -> None:
        self.pending: list[Work] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        work = Work(lambda: fn(*args, **kwargs))
        self.pending.append(work)
        return work.future

    def step(self, number: int) -> Work:
        """Step one of the pending calls and return it."""
        work = self.pending[number]
        work.step()
        if work.at == "end":
            self.pending.remove(work)
        return work

    def kill(self) -> None:
        """End every call where it stands."""
        for work in self.pending:
            work.kill()
        self.pending.clear()
