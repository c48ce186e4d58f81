"""A limit for a call whose own limit does not hold."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def within(seconds: float, call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call returns or raises, in a thread of its own. Raises TimeoutError after `seconds`.

    The call is then left behind: its thread and all that it holds stay until it returns, or until the process ends.
    """
    future = Future[Any]()

    def run() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:
            future.set_exception(error)

    # The end of the process does not wait for a daemon.
    threading.Thread(target=run, name="limited", daemon=True).start()
    return future.result(seconds)
