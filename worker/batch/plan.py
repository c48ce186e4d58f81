"""Checks a whole file of requests before anything is sent, and keeps some 40 bytes of each line."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import blake2b

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from worker.batch import lines
from worker.batch.faults import LineFault
from worker.batch.lines import BatchLine, Digests
from worker.batch.source import MOST_LINE_BYTES, Source
from worker.contract.formats import COMPRESSED, UTF16_MARKS
from worker.contract.rejections import Limits

# What a file is that has no line of JSON.
FORMATS = ((UTF16_MARKS, "is UTF-16; write it as UTF-8"), (COMPRESSED, "is compressed; unpack it first"))
PROGRESS_LINES = 1_000


class Repeated(Struct, frozen=True):
    """Lines that have the same id."""

    custom_id: str
    lines: list[int]


class UnknownModel(Struct, frozen=True):
    """Lines that name an LLM that is not configured."""

    model: str
    lines: list[int]


class Refusal(Struct, frozen=True):
    """Why a whole file is refused. `problem` says what is wrong with the file itself."""

    problem: str | None = None
    repeated: list[Repeated] = []
    unknown: list[UnknownModel] = []


class Plan:
    """The lines of a checked file, by their place among the lines with content.

    A faulty line keeps only its number and offset: what is wrong with it is found again when it is read again.
    """

    def __init__(self, source: Source, limits: Limits, model: tuple[str, ...]) -> None:
        self.source, self.limits, self.model = source, limits, model
        self.numbers, self.offsets = array("Q"), array("Q")
        self.custom, self.request = array("Q"), array("Q")
        self.is_faulty = bytearray()
        self.streams = 0
        self._digest = blake2b(digest_size=12)
        self._order: NDArray[np.intp] = np.empty(0, np.intp)
        self._sorted: NDArray[np.uint64] = np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def name(self) -> str:
        """A name of what the file asks: the same for the same requests in the same order."""
        return self._digest.hexdigest()

    def add(self, number: int, offset: int, line: BatchLine | LineFault) -> Digests | None:
        """The next line with content. Returns its digests, or None for a faulty line without an id."""
        self.numbers.append(number)
        self.offsets.append(offset)
        self.is_faulty.append(isinstance(line, LineFault))
        if isinstance(line, LineFault):
            named = None if line.custom_id is None else Digests(lines.custom_digest(line.custom_id), 0)
        else:
            named = lines.digests_of(line)
            self.streams += line.was_stream
        self.custom.append(0 if named is None else named.custom)
        self.request.append(0 if named is None else named.request)
        if named is not None:
            self._digest.update(named.custom.to_bytes(8) + named.request.to_bytes(8))
        return named

    def close(self) -> None:
        """All lines were added: from now on they are found by their ids."""
        digests = np.asarray(self.custom, np.uint64)
        self._order = np.argsort(digests, kind="stable")
        self._sorted = digests[self._order]

    def find(self, custom: int) -> int | None:
        """The line whose id has this hash."""
        at = int(np.searchsorted(self._sorted, np.uint64(custom)))
        return int(self._order[at]) if at < len(self._sorted) and int(self._sorted[at]) == custom else None

    def repeated(self) -> Iterator[list[int]]:
        """The lines of each id that several lines have."""
        starts = np.flatnonzero(np.diff(self._sorted, prepend=np.uint64(0)) != 0)
        for group in np.split(self._order, starts):
            if len(group) > 1 and self.custom[group[0]]:
                yield [int(line) for line in group]

    def digests(self, index: int) -> Digests:
        """What a line is known by."""
        return Digests(self.custom[index], self.request[index])

    def read(self, index: int) -> BatchLine | LineFault:
        """A line, read again."""
        return read(self.source.read(self.offsets[index]), self.numbers[index], self.limits, self.model)


def read(raw: bytes | None, number: int, limits: Limits, model: tuple[str, ...]) -> BatchLine | LineFault:
    """A line, or why it cannot be sent."""
    if raw is None:
        return LineFault("line_too_long", str(MOST_LINE_BYTES))
    return lines.read_line(raw, number, limits, model)


def check(
    source: Source,
    limits: Limits,
    llms: Collection[str],
    model: tuple[str, ...] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Plan | Refusal:
    """The plan of a whole file, or why it is refused. `llms` are those that there are."""
    if (problem := _problem(source)) is not None:
        return Refusal(problem)
    plan = Plan(source, limits, model)
    unknown: defaultdict[str, list[int]] = defaultdict(list)
    for number, offset, raw in source.lines():
        line = read(raw, number, limits, model)
        plan.add(number, offset, line)
        for name in line.models if isinstance(line, BatchLine) else ():
            if name not in llms:
                unknown[name].append(number)
        if len(plan) % PROGRESS_LINES == 0:
            progress(len(plan))
    plan.close()
    if not len(plan):
        return Refusal("has no requests")
    repeated = sorted((_repeated(plan, group) for group in plan.repeated()), key=lambda one: one.lines)
    if repeated or unknown:
        return Refusal(None, repeated, [UnknownModel(name, numbers) for name, numbers in unknown.items()])
    return plan


def _problem(source: Source) -> str | None:
    with source.path.open("rb") as file:
        first = file.read(8)
    return next((problem for marks, problem in FORMATS if first.startswith(marks)), None)


def _repeated(plan: Plan, group: Sequence[int]) -> Repeated:
    first = plan.read(group[0])
    return Repeated(first.custom_id or "", [plan.numbers[line] for line in group])
