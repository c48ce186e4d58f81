"""What a verb writes: its result to standard output and to a file, and its progress to standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.text import Text

# Wider than any table. A pipe has no width, and what reads it wants whole lines.
PIPE_WIDTH = 10_000

Progress = Callable[[str, int], None]


def console() -> Console:
    """Standard output. Names and findings may hold brackets, which are not markup."""
    made = Console(markup=False, highlight=False)
    return made if made.is_terminal else Console(markup=False, highlight=False, width=PIPE_WIDTH)


def errors() -> Console:
    """Standard error."""
    return Console(stderr=True, markup=False, highlight=False)


def pretty(result: Any) -> str:
    """A result as JSON that people can read."""
    return msgspec.json.format(msgspec.json.encode(result), indent=2).decode()


def present(result: Any, as_json: bool, file: Path | None, show: Callable[[Console], None]) -> None:
    """Write a result as --json and --output ask. Without --json it is shown as `show` does."""
    if as_json:
        typer.echo(pretty(result))
    else:
        show(console())
    # Last: a file that cannot be written any more does not hide the result.
    if file is not None:
        try:
            file.write_text(pretty(result) + "\n")
        except OSError as error:
            # A full disk is reported by `write`, which does not know the name.
            error.filename = error.filename or str(file)
            raise


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal what is being done, until the block ends. Yields a function that changes the text."""
    with errors().status(Text(text)) as status:
        yield lambda changed: status.update(Text(changed))


class Steps:
    """Shows the steps of a long work and the time that each has left, and counts the CPU seconds of each.

    Call it with the name of a step, and how many of its parts are done, of how many.
    """

    def __init__(
        self,
        show: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self.cpu_seconds: dict[str, float] = {}
        self._show, self._now, self._cpu = show, now, cpu
        self._step, self._began = "", cpu()
        self._marks: list[tuple[int, float]] = []

    def __call__(self, step: str, done: int, parts: int) -> None:
        if step != self._step:
            self.end()
            self._step, self._marks = step, []
        self._marks.append((done, self._now()))
        left = self._seconds_left(parts)
        self._show(f"{step}: {done:,} of {parts:,}" + ("" if left is None else f", about {_duration(left)} left"))

    def end(self) -> None:
        """The last step has ended."""
        now = self._cpu()
        if self._step:
            self.cpu_seconds[self._step] = self.cpu_seconds.get(self._step, 0.0) + now - self._began
        self._step, self._began = "", now

    def _seconds_left(self, parts: int) -> float | None:
        """At the speed since half of the parts that are done: a graph grows slower as it becomes larger."""
        done, now = self._marks[-1]
        since, then = max((mark for mark in self._marks if mark[0] <= done // 2), default=self._marks[-1])
        return None if done == since else (parts - done) * (now - then) / (done - since)


def _duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes, or hours and minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def reading() -> Iterator[Progress]:
    """Shows on a terminal which topic is being read, and the number of its records read so far."""
    counts: dict[str, int] = {}
    with working("reading") as show:

        def progress(topic: str, records: int) -> None:
            counts[topic] = counts.get(topic, 0) + records
            show(f"{topic}: {counts[topic]:,} records")

        yield progress
