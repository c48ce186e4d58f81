"""The files of results and of errors: read at the start, mended, and appended to.

A line that is whole is never lost. A line that is not (the process was killed while it wrote, or the disk was full)
goes to `<file>.unreadable`, and the rest of the file stays.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from worker.batch import lines, results
from worker.batch.faults import LineFault
from worker.batch.plan import Plan
from worker.batch.results import WrittenLine
from worker.contract.codec import UNREADABLE
from worker.contract.errors import FixSetting

UNREADABLE_SUFFIX = ".unreadable"

_decode = msgspec.json.Decoder(WrittenLine).decode


class OutputFile:
    """One of the two files. `load` reads what it holds and makes it whole; then lines are appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.aside = path.with_name(path.name + UNREADABLE_SUFFIX)
        self.unreadable = 0
        self._file: BinaryIO | None = None

    def load(self, keep: Callable[[WrittenLine], bool]) -> None:
        """Read every line, and write the file anew where a line is unreadable or not to be kept. Raises FixSetting."""
        if not self.path.exists():
            return
        new = self.path.with_name(self.path.name + ".new")
        try:
            if not self._copy(new, keep):
                new.replace(self.path)
        finally:
            new.unlink(missing_ok=True)

    def _copy(self, new: Path, keep: Callable[[WrittenLine], bool]) -> bool:
        """Write what is to be kept to `new`. Returns whether that is all."""
        is_all, is_first = True, True
        with new.open("wb") as kept:
            for raw in self._lines():
                line = _read(raw)
                if line is None:
                    self._set_aside(raw, is_first)
                    is_all = False
                elif keep(line):
                    kept.write(raw)
                else:
                    is_all = False
                is_first = False
            kept.flush()
            os.fsync(kept.fileno())
        return is_all

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            yield from (raw for raw in file if not lines.is_blank_line(raw))

    def _set_aside(self, raw: bytes, is_first: bool) -> None:
        """Keep a line that is not a result. A file that begins with one, and goes on, is somebody's other file."""
        if is_first and raw.endswith(b"\n"):
            raise FixSetting(f"{self.path}: the first line is not a line of a batch; name another output file")
        self.unreadable += 1
        with self.aside.open("ab") as aside:
            aside.write(raw.removesuffix(b"\n") + b"\n")

    def append(self, line: bytes) -> None:
        """Write one line."""
        if self._file is None:
            self._file = self.path.open("ab")
        self._file.write(line)

    def flush(self) -> None:
        """Give what was written to the system: it outlives this process."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Give what was written to the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def _read(raw: bytes) -> WrittenLine | None:
    if not raw.endswith(b"\n"):
        return None
    try:
        line = _decode(raw)
    except UNREADABLE:
        return None
    return None if line.response is None and line.error is None else line


class Outputs:
    """Both files of a batch, and which lines have ended according to them."""

    def __init__(self, plan: Plan, results_path: Path, errors_path: Path) -> None:
        self.results, self.errors = OutputFile(results_path), OutputFile(errors_path)
        self.failed: Counter[str] = Counter()
        self.answered = 0
        self.has_ended = bytearray(len(plan))
        self._plan = plan

    def load(self, retry: bool) -> None:
        """Read both files. Errors of lines that were never sent are found anew; with `retry`, the others are dropped.

        Raises FixSetting if a file holds something else, or answers to other requests.
        """
        self.results.load(self._is_result)
        self.errors.load(lambda line: self._is_error(line, retry))
        # Readers that look for results find the file, even if there are none.
        self.results.path.touch()

    def fault_lines(self) -> None:
        """Write the error lines of all faulty lines."""
        for index in range(len(self._plan)):
            if not self._plan.is_faulty[index]:
                continue
            problem = self._plan.read(index)
            if isinstance(problem, LineFault):
                self.fail(index, problem.code, results.fault(self._plan.numbers[index], problem))
        self.flush()

    def answer(self, index: int, line: bytes) -> None:
        """A line has its result."""
        self.has_ended[index] = True
        self.answered += 1
        self.results.append(line)

    def fail(self, index: int, code: str, line: bytes) -> None:
        """A line has no result."""
        self.has_ended[index] = True
        self.failed[code] += 1
        self.errors.append(line)

    def flush(self) -> None:
        """Give what was written to the system."""
        self.results.flush()
        self.errors.flush()

    def close(self) -> None:
        """Give what was written to the disk. A file of errors that holds none is removed."""
        self.results.close()
        self.errors.close()
        path = self.errors.path
        if path.exists() and path.stat().st_size == 0:
            path.unlink()

    def _is_result(self, line: WrittenLine) -> bool:
        index = self._index(line, self.results.path)
        if self.has_ended[index]:
            # A copy is left out.
            return False
        self.has_ended[index] = True
        self.answered += 1
        return True

    def _is_error(self, line: WrittenLine, retry: bool) -> bool:
        if line.is_of_check:
            return False
        index = self._index(line, self.errors.path)
        if retry or self.has_ended[index]:
            return False
        self.has_ended[index] = True
        self.failed[line.code] += 1
        return True

    def _index(self, line: WrittenLine, path: Path) -> int:
        """The line of the input that a written line is of. Raises FixSetting if there is none, or it asks another."""
        custom_id = line.custom_id or ""
        index = self._plan.find(lines.custom_digest(custom_id))
        if index is None:
            raise FixSetting(
                f"{path}: it holds a line with the custom_id {custom_id[:60]!r}, which {self._plan.source.path} has "
                "not; name another output file"
            )
        parsed = lines.parse_query_id(line.id or "")
        if parsed is not None and parsed[0] != self._plan.digests(index):
            raise FixSetting(
                f"{path}: the line with the custom_id {custom_id[:60]!r} is of another request than line "
                f"{self._plan.numbers[index]} of {self._plan.source.path} is now; name another output file"
            )
        return index
