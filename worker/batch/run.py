"""Runs a checked batch: sends its lines, writes what becomes of them, and goes on where an earlier run was stopped.

At most `most_open` lines are open, and only their ids are kept. Everything else is in the files or in Kafka.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from worker.batch import lines, results, state
from worker.batch.lines import BatchLine, query_value
from worker.batch.outputs import Outputs
from worker.batch.plan import Plan
from worker.batch.tracker import Answered, End, Failed, Spent, Tracker
from worker.batch.wire import Outgoing, Wire
from worker.contract import codec
from worker.contract.errors import FixSetting
from worker.contract.messages import Origin
from worker.contract.topic_names import TopicNames

SENT_LINES = 200
SENT_BYTES = 4_000_000
# Lines are sent when so much of the room for open lines is free: small transactions cost as much as large ones.
FREE_SHARE = 0.1
# What an answered line cost is in the books a moment later.
BOOK_SECONDS = 30.0
SILENCE_SECONDS = 30.0


# What open lines wait for: a worker that runs, its decision, an inference worker, or the last two.
Silence = Literal["worker", "decision", "answer", "both"]


class Options(Struct, frozen=True):
    """How a batch is run. `most_open` is how many lines may be open. `retry`: lines that failed are asked again."""

    most_open: int
    deadline_ms: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    retry: bool = False


class Standing(Struct, frozen=True):
    """How far a batch is."""

    lines: int
    answered: int
    failed: int
    open: int
    spent_micros: int


class Summary(Struct, frozen=True):
    """How a batch ended. `failed` counts lines by code, `spent` is by LLM, over all runs of the batch.

    `earlier` counts lines that had ended before this run. `unbooked` lines are answered, and not in the books yet.
    """

    lines: int
    answered: int
    failed: dict[str, int]
    earlier: int
    spent_micros: int
    spent: dict[str, Spent]
    unbooked: int
    seconds: float
    results: str
    errors: str | None


class Batch:
    """One run of a batch. `show` hears where it stands, a few times a second; `warn` that nothing ends, and how many
    lines are open."""

    def __init__(
        self,
        plan: Plan,
        outputs: Outputs,
        wire: Wire,
        topics: TopicNames,
        options: Options,
        show: Callable[[Standing], None] = lambda _: None,
        warn: Callable[[Silence, int], None] = lambda *_: None,
    ) -> None:
        self._plan, self._outputs, self._wire, self._options = plan, outputs, wire, options
        self._topics, self._show, self._warn = topics, show, warn
        self._tracker = Tracker()
        self._turns = array("L", bytes(len(plan) * array("L").itemsize))
        self._is_sent = bytearray(len(plan))
        self._is_earlier = bytearray(len(plan))
        self._again: deque[int] = deque()
        self._cursor = 0
        self._retries = options.retry
        self._custom_ids: dict[int, str] = {}
        self._ended_at = self._warned_at = self._began = time.monotonic()

    def run(self, state_file: Path) -> Summary:
        """Run it to its end. Raises CheckBroker, LeaveProcess or FixSetting; then, run again, it goes on."""
        earlier = sum(self._outputs.has_ended)
        try:
            self._outputs.fault_lines()
            if 0 in self._outputs.has_ended:
                self._run(state_file, has_outputs=earlier > 0)
        finally:
            self._outputs.close()
        if not self._outputs.failed:
            state_file.unlink(missing_ok=True)
        return self._summary(earlier)

    def _run(self, state_file: Path, has_outputs: bool) -> None:
        known = state.load(state_file)
        # Without a state, nobody asked for the failures of an earlier run: its answers are taken, and the rest asked.
        self._retries = self._options.retry or known is None
        begun = self._wire.begin(known, everything=has_outputs)
        state.save(state_file, begun)
        for origin, key in self._wire.sent(begun):
            self._found(origin, key)
        self._wire.follow(begun)
        while not self._wire.has_caught_up():
            self._read()
        while 0 in self._outputs.has_ended:
            self._send()
            self._read()
        while len(self._tracker) and time.monotonic() - self._ended_at < BOOK_SECONDS:
            self._read()

    def _found(self, origin: Origin, key: str) -> None:
        """A query that is there already. It is one of this batch if its id is that of a line."""
        parsed = lines.parse_query_id(key)
        index = None if parsed is None else self._plan.find(parsed[0].custom)
        if parsed is None or index is None or self._plan.digests(index) != parsed[0]:
            return
        self._tracker.follow(index, parsed[1], origin)
        self._turns[index] = max(self._turns[index], parsed[1])
        self._is_sent[index] = self._is_earlier[index] = True

    # Sending

    def _send(self) -> None:
        free = self._options.most_open - self._tracker.open
        if free < max(1, self._options.most_open * FREE_SHARE):
            return
        sending, size = list[Outgoing](), 0
        for index in self._unsent():
            line = self._line(index)
            self._turns[index] += 1
            query_id = self._plan.digests(index).query_id(self._turns[index])
            value = query_value(line, query_id, self._options.deadline_ms)
            self._custom_ids[index] = line.custom_id
            sending.append(Outgoing(index, query_id, value, self._options.headers))
            size += len(value)
            if len(sending) == min(free, SENT_LINES) or size >= SENT_BYTES:
                break
        if not sending:
            return
        for query, origin in zip(sending, self._wire.send(sending), strict=True):
            self._tracker.follow(query.line, self._turns[query.line], origin)

    def _unsent(self) -> Iterator[int]:
        """Lines to send, each marked as sent when it is taken."""
        while self._again or self._cursor < len(self._plan):
            if self._again:
                index = self._again.popleft()
            else:
                index = self._cursor
                self._cursor += 1
            if not self._is_sent[index] and not self._outputs.has_ended[index]:
                self._is_sent[index] = True
                yield index

    def _line(self, index: int) -> BatchLine:
        line = self._plan.read(index)
        if not isinstance(line, BatchLine) or lines.digests_of(line) != self._plan.digests(index):
            raise FixSetting(f"{self._plan.source.path}: it was changed while the batch ran; run the batch again")
        return line

    # Reading

    def _read(self) -> None:
        read, now = self._wire.read(), time.monotonic()
        for record in read.records:
            if record.value is None:
                continue
            if record.topic == self._topics.answers:
                end = self._tracker.answered(codec.decode_answer(record.value))
            else:
                end = self._tracker.decided(record.partition, codec.decode_decision(record.value), now)
            if end is not None:
                self._end(end)
        for end in self._tracker.overdue(now, read.at_end):
            self._end(end)
        self._outputs.flush()
        self._tell(now)

    def _end(self, end: End) -> None:
        self._ended_at = time.monotonic()
        index = end.index
        if self._outputs.has_ended[index]:
            return
        if isinstance(end, Answered):
            self._outputs.answer(index, results.result(self._custom_id(index), end.answer))
        elif end.turn == self._turns[index]:
            self._failed(end)

    def _failed(self, end: Failed) -> None:
        index = end.index
        if self._retries and self._is_earlier[index]:
            self._is_earlier[index] = self._is_sent[index] = False
            self._again.append(index)
            return
        query_id = self._plan.digests(index).query_id(end.turn)
        self._outputs.fail(index, end.code, results.failure(self._custom_id(index), query_id, end))

    def _custom_id(self, index: int) -> str:
        return self._custom_ids.pop(index, None) or self._line(index).custom_id

    # What is told

    def _tell(self, now: float) -> None:
        outputs, tracker = self._outputs, self._tracker
        self._show(
            Standing(len(self._plan), outputs.answered, outputs.failed.total(), tracker.open, self._spent_micros)
        )
        if tracker.open and now - max(self._ended_at, self._warned_at) >= SILENCE_SECONDS:
            self._warned_at = now
            self._warn(tracker.waiting if self._wire.has_workers() else "worker", tracker.open)

    @property
    def _spent_micros(self) -> int:
        return sum(one.spent_micros for one in self._tracker.spent.values())

    def _summary(self, earlier: int) -> Summary:
        errors = self._outputs.errors.path
        return Summary(
            lines=len(self._plan),
            answered=self._outputs.answered,
            failed=dict(self._outputs.failed),
            earlier=earlier,
            spent_micros=self._spent_micros,
            spent=self._tracker.spent,
            unbooked=len(self._tracker),
            seconds=round(time.monotonic() - self._began, 1),
            results=str(self._outputs.results.path),
            errors=str(errors) if errors.exists() else None,
        )
