"""What a verb writes: its result to standard output and to a file, and its progress to standard error."""

from __future__ import annotations

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


@contextmanager
def reading() -> Iterator[Progress]:
    """Shows on a terminal which topic is being read, and the number of its records read so far."""
    counts: dict[str, int] = {}
    with working("reading") as show:

        def progress(topic: str, records: int) -> None:
            counts[topic] = counts.get(topic, 0) + records
            show(f"{topic}: {counts[topic]:,} records")

        yield progress
