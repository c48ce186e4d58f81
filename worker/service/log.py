"""Structured events on standard error, ours and those of Faust and aiokafka alike. Called by commands only."""

from __future__ import annotations

import logging
import math
import sys

import structlog
from structlog.typing import Processor

from worker.contract.settings import LogSettings

# Kafka's codes for a consumer group that is starting (COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE), and the
# time that it may take.
STARTING = (14, 15)
GRACE_SECONDS = 30.0


def configure(settings: LogSettings) -> None:
    """Send every event to standard error: JSON, or lines for a person. Other packages from `warning` on."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                last,
            ],
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        )
    )
    handler.addFilter(PassingState())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


class PassingState(logging.Filter):
    """Drops errors of a consumer group that is starting: they end by themselves. After GRACE_SECONDS it lets them pass.

    A group that rests and fails again begins a new time of grace.
    """

    def __init__(self) -> None:
        super().__init__()
        self._since = self._last = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a record that is dropped."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        if not any(getattr(argument, "errno", None) in STARTING for argument in arguments):
            return True
        if record.created - self._last > GRACE_SECONDS:
            self._since = record.created
        self._last = record.created
        return record.created - self._since > GRACE_SECONDS
