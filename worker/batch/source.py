"""Reads the lines of a file of requests. Only LF ends a line; numbers count from 1, as an editor counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from worker.batch.lines import BOM, is_blank_line

# Longer than any query that limits.max_query_bytes may allow (40 MB).
MOST_LINE_BYTES = 64_000_000
SKIP_BYTES = 1_000_000


class SourceLine(NamedTuple):
    """A line with content. `raw` is None for a line above MOST_LINE_BYTES. `offset` is where it begins in the file."""

    number: int
    offset: int
    raw: bytes | None


class Source:
    """A file of requests. Lines can be read in order, and one of them again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, start: int = 0, number: int = 0) -> Iterator[SourceLine]:
        """Every line with content, from the offset `start` on, which is the end of line `number`."""
        with self.path.open("rb") as file:
            file.seek(start)
            while True:
                offset = file.tell()
                raw = _read(file)
                if raw == b"":
                    return
                number += 1
                if raw is None or not is_blank_line(raw := _plain(raw, offset)):
                    yield SourceLine(number, offset, raw)

    def read(self, offset: int) -> bytes | None:
        """The line that begins at `offset`."""
        with self.path.open("rb") as file:
            file.seek(offset)
            raw = _read(file)
            return None if raw is None else _plain(raw, offset)


def _plain(raw: bytes, offset: int) -> bytes:
    return raw.removeprefix(BOM) if offset == 0 else raw


def _read(file: BinaryIO) -> bytes | None:
    """The next line with its end; empty at the end of the file, None for a line that is too long."""
    raw = file.readline(MOST_LINE_BYTES)
    if len(raw) < MOST_LINE_BYTES or raw.endswith(b"\n"):
        return raw
    while part := file.readline(SKIP_BYTES):
        if part.endswith(b"\n"):
            break
    return None
