"""Which lines of other packages are logged."""

from __future__ import annotations

import io
import logging
import threading
import time
from typing import TextIO, cast

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, GroupCoordinatorNotAvailableError

from worker.service.log import GRACE_SECONDS, QUEUED_LINES, SELDOM_SECONDS, DetachedStream, PassingState, Seldom

STARTING, REFUSED = GroupCoordinatorNotAvailableError(), GroupAuthorizationFailedError()
G = GRACE_SECONDS
CASES = [
    ("a group that starts", [(0.0, STARTING), (1.0, STARTING)], [False, False]),
    ("a group that does not come up", [(0.0, STARTING), (G - 1, STARTING), (G + 1, STARTING)], [False, False, True]),
    ("a group that fails again much later", [(0.0, STARTING), (3 * G, STARTING)], [False, False]),
    ("another error", [(0.0, REFUSED)], [True]),
]


@pytest.mark.parametrize(("errors", "logged"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_passing_state_is_not_an_error(errors: list[tuple[float, Exception]], logged: list[bool]) -> None:
    """A group that is starting looks for its coordinator for a moment; only one that goes on failing is logged."""
    state = PassingState()
    lines = []
    for seconds, error in errors:
        line = logging.LogRecord(
            "aiokafka", logging.ERROR, "", 0, "Group Coordinator Request failed: %s", (error,), None
        )
        line.created = 1_000_000 + seconds
        lines.append(state.filter(line))
    assert lines == logged


def said(filtering: logging.Filter, second: float, sentence: str, name: str = "aiokafka") -> str | None:
    """The line that passes the filter; None if none does."""
    line = logging.LogRecord(name, logging.ERROR, "", 0, sentence, ("broker-1",), None)
    line.created = 1_000_000 + second
    return line.getMessage() if filtering.filter(line) else None


def test_a_sentence_that_is_repeated_is_logged_once_in_a_while() -> None:
    """With the number of times that it was said; another sentence, or that of another package, passes."""
    seldom = Seldom()
    lines = [said(seldom, second / 10, "no answer of %s") for second in range(300)]
    assert [line for line in lines if line is not None] == ["no answer of broker-1"]
    assert said(seldom, 30.0, "no leader at %s") == "no leader at broker-1"
    assert said(seldom, 30.0, "no answer of %s", "faust") == "no answer of broker-1"
    later = said(seldom, SELDOM_SECONDS + 1, "no answer of %s")
    assert later == "no answer of broker-1 (and 299 times more in the 61 s before)"


class Reader(io.StringIO):
    """What reads standard error: `may_read` lets it go on; it is gone if `is_gone`."""

    def __init__(self, is_gone: bool = False) -> None:
        super().__init__()
        self.may_read = threading.Event()
        self.is_gone = is_gone

    def write(self, text: str) -> int:
        self.may_read.wait(10)
        if self.is_gone:
            raise BrokenPipeError
        return super().write(text)


def test_nobody_waits_for_a_reader_that_is_stuck() -> None:
    """Writing takes no time, draining no more than its limit, memory is bounded. What is dropped is lost."""
    reader = Reader()
    stream = DetachedStream(cast(TextIO, reader))
    stream.start()
    began = time.monotonic()
    for number in range(2 * QUEUED_LINES):
        stream.write(f"{number}\n")
    stream.drain(0.1)
    assert time.monotonic() - began < 5
    reader.may_read.set()
    stream.drain(10)
    assert QUEUED_LINES <= len(reader.getvalue().splitlines()) <= QUEUED_LINES + 1


def test_nobody_fails_because_the_reader_is_gone() -> None:
    """Lines are lost, and nothing else."""
    reader = Reader(is_gone=True)
    reader.may_read.set()
    stream = DetachedStream(cast(TextIO, reader))
    stream.start()
    assert stream.write("one\n") == 4
    stream.drain(10)
    assert reader.getvalue() == ""
