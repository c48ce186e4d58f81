"""Structured events on standard error, ours and those of Faust and aiokafka alike. Called by commands only.

No part of the process waits for whoever reads standard error, or fails because nobody does: a thread writes the lines.
"""

from __future__ import annotations

import atexit
import io
import logging
import math
import queue
import sys
import threading
from typing import TextIO, cast

import structlog
from structlog.typing import Processor

from worker.contract.settings import LogSettings

logger = structlog.get_logger()

# Kafka's codes for a consumer group that is starting (COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE), and the
# time that it may take.
STARTING = (14, 15)
GRACE_SECONDS = 30.0
# The client libraries repeat a sentence ten times a second while a broker is away.
SELDOM_SECONDS = 60.0
# Some packages put names and numbers into the sentence itself, so that each is another one.
KEPT_SENTENCES = 1_000
# A reader that is slow for a moment loses no line.
QUEUED_LINES = 10_000
DRAIN_SECONDS = 1.0


def configure(settings: LogSettings) -> None:
    """Send every event to standard error: JSON, or lines for a person. Other packages from `warning` on.

    From here on, `sys.stderr` is a `DetachedStream`.
    """
    if not isinstance(sys.stderr, DetachedStream):
        sys.stderr = DetachedStream(sys.stderr)
        sys.stderr.start()
        atexit.register(sys.stderr.drain, DRAIN_SECONDS)
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
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, sys.stderr)),
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
    handler.addFilter(Seldom())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def drain() -> None:
    """Wait until the lines so far are written, for DRAIN_SECONDS at most."""
    if isinstance(sys.stderr, DetachedStream):
        sys.stderr.drain(DRAIN_SECONDS)


class DetachedStream(io.TextIOBase):
    """A stream whose writer never waits and never fails: a thread of its own writes to `stream`.

    Lines that do not fit into the queue are dropped. A later line says how many. Call `start` once.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | threading.Event] = queue.Queue(QUEUED_LINES)
        self._dropped = 0

    def start(self) -> None:
        """Begin to write."""
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        """Queue some text. It is dropped if the queue is full."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self._dropped += 1
        return len(text)

    def drain(self, seconds: float) -> None:
        """Wait until everything that was queued so far is written, for so long at most."""
        written = threading.Event()
        try:
            self._lines.put(written, timeout=seconds)
        except queue.Full:
            return
        written.wait(seconds)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def _write_all(self) -> None:
        while True:
            line = self._lines.get()
            if isinstance(line, threading.Event):
                line.set()
                continue
            dropped, self._dropped = self._dropped, 0
            if dropped:
                logger.warning("log_lines_dropped", lines=dropped, remedy="read standard error faster")
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):
                # The reader is gone, or the stream is closed. The process goes on without a log.
                pass


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


class Seldom(logging.Filter):
    """Lets each sentence of another package pass once in SELDOM_SECONDS, with the number of those that were dropped.

    Sentences are the same if they come from one logger and one template; the values in them may differ.
    """

    def __init__(self) -> None:
        super().__init__()
        # When a sentence last passed, and how many were dropped since; the one that passed longest ago first.
        self._passed: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a record that is dropped."""
        sentence = record.name, str(record.msg)
        passed, dropped = self._passed.get(sentence, (-math.inf, 0))
        if record.created - passed < SELDOM_SECONDS:
            self._passed[sentence] = passed, dropped + 1
            return False
        self._passed.pop(sentence, None)
        self._passed[sentence] = record.created, 0
        if len(self._passed) > KEPT_SENTENCES:
            del self._passed[next(iter(self._passed))]
        if dropped:
            seconds = record.created - passed
            record.msg = f"{record.msg} (and {dropped} times more in the {seconds:.0f} s before)"
        return True
