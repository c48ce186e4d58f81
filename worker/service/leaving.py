"""How a worker's process ends at once, and what it says last."""

from __future__ import annotations

import os

import structlog

from worker.contract.errors import TollgateError
from worker.service import log

logger = structlog.get_logger()


def leave(error: BaseException) -> None:
    """End this process now: what is true is in Kafka, and the next owner restores it.

    The end needs nothing: neither a broker, nor an event loop, nor somebody who reads the log.
    """
    try:
        logger.critical(
            "leaving", error=str(error) or repr(error), remedy="the next owner restores from Kafka; restart this one"
        )
        log.drain()
    finally:
        os._exit(error.exit_code if isinstance(error, TollgateError) else 1)
