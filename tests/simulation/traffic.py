"""What comes from outside: good and bad queries; completions duplicated, late, forged, wrong or missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, get_args

import msgspec
import numpy as np

from worker.contract import codec
from worker.contract.codes import ErrorClass
from worker.contract.messages import Dispatch
from worker.kafka.memory import Log, Transaction

DIMENSION = 4
NONSENSE = (b"", b"\x80", b"\xc1 nonsense", b"{", b'{"unknown": 1}', b"\x81\xa9embedding\xc4\x04abcd", None)

_encode = msgspec.msgpack.encode


@dataclass
class Traffic:
    """Writes to `queries`, `completions` and `begun`. `due` are completions on their way: (due_ms, partition,
    value)."""

    log: Log
    random: Random
    partitions: int
    produced: int = 0
    due: list[tuple[int, int, bytes | None]] = field(default_factory=list)
    committed: list[tuple[int, int]] = field(default_factory=list)

    def produce_queries(self, now_ms: int) -> None:
        """A few queries to one partition, sometimes in a transaction of their producer that aborts."""
        partition = self.random.randrange(self.partitions)
        aborts = self.random.random() < 0.1
        epoch = self.log.begin_epoch("a-producer") if aborts else 0
        transaction = self.log.transaction("a-producer", epoch, now_ms) if aborts else None
        for _ in range(self.random.randrange(1, 8)):
            place, value = ("queries", partition), self._query(now_ms)
            offset = self.log.append(place, None, value, [("traceparent", b"00-1")], now_ms, transaction)
            if not aborts:
                self.committed.append((partition, offset))
        if aborts:
            self.log.begin_epoch("a-producer")

    def _query(self, now_ms: int) -> bytes | None:
        self.produced += 1
        dice = self.random.random()
        if dice < 0.05:
            return self.random.choice(NONSENSE)
        numbers = np.array([self.random.gauss(0, 1) for _ in range(DIMENSION)], "<f4")
        query: dict[str, Any] = {"embedding": numbers.tobytes(), "parameters": {"number": self.produced}}
        if dice < 0.25:
            query["id"] = f"id-{self.random.randrange(40)}"
        if self.produced % 5 < 2:
            query["tags"] = {"team": f"team-{self.produced % 3}"}
        if self.produced % 4 < 2:
            query["input_tokens"] = self.random.randrange(1, 300)
        if self.produced % 7 == 0:
            query["deny"] = ["small", "nobody"]
        if self.produced % 28 == 0:
            query["allow"] = ["small"]
        if dice > 0.85:
            query["deadline_ms"] = now_ms + self.random.randrange(-1_000, 20_000)
        return _encode(query)

    # Completions

    def answer(self, transaction: Transaction) -> None:
        """Plan what becomes of each dispatch of a committed transaction."""
        for record in transaction.records:
            if record.topic.startswith("dispatch."):
                self._plan(codec.decode_dispatch(record.value or b""), record.timestamp)

    def _plan(self, dispatch: Dispatch, now_ms: int) -> None:
        dice, partition = self.random.random(), dispatch.origin.partition
        if self.random.random() < 0.5:
            self.log.append(("begun", partition), dispatch.id.encode(), b"begun", [], now_ms)
        late_ms = dispatch.deadline_ms + self.random.randrange(1, 5_000)
        soon_ms = now_ms + self.random.randrange(5_000)
        if dice > 0.1:
            self.due.append((late_ms if dice < 0.2 else soon_ms, partition, self._completion(dispatch)))
        while self.random.random() < 0.2:
            self.due.append((soon_ms + self.random.randrange(15_000), partition, self._completion(dispatch)))
        if self.random.random() < 0.1:
            self.due.append((soon_ms, self.random.randrange(self.partitions), self._forged(dispatch)))

    def _completion(self, dispatch: Dispatch, **changes: Any) -> bytes:
        answer = {"dispatch_id": dispatch.id, "origin_partition": dispatch.origin.partition, "llm": dispatch.llm}
        dice = self.random.random()
        answer["status"] = "error" if dice < 0.25 else "ok"
        if 0.1 < dice < 0.9:
            answer["cost_micros"] = int(dispatch.reserved_micros * self.random.uniform(0.3, 1.3))
            if dice > 0.7:
                answer["usage"] = {"prompt_tokens": self.random.randrange(1, 300), "completion_tokens": 50}
        elif answer["status"] == "error" and self.random.random() < 0.5:
            answer["cost"] = "zero"
        if answer["status"] == "error" and self.random.random() < 0.7:
            answer["error_class"] = self.random.choice(get_args(ErrorClass))
            if self.random.random() < 0.2:
                answer["retry_after_ms"] = self.random.randrange(20_000)
        if dice > 0.5:
            answer["quality"] = self.random.random()
        return _encode(answer | changes)

    def _forged(self, dispatch: Dispatch) -> bytes | None:
        wrong: list[dict[str, Any]] = [
            {"dispatch_id": f"{dispatch.origin.partition}-{self.random.randrange(200)}-{self.random.randrange(1, 4)}"},
            {"llm": "nobody"},
            {"cost_micros": -1},
            {"cost_micros": 10**15},
            {"cost_micros": 0},
            {"cost_micros": "many", "usage": {"prompt_tokens": -1}},
            {"status": "done", "quality": 85, "vendor": "x"},
            {"origin_partition": self.random.randrange(self.partitions)},
            {"dispatch_id": "never-made"},
        ]
        if self.random.random() < 0.2:
            llm = self.random.choice((dispatch.llm, "nobody"))
            return _encode({"unavailable": llm, "error_class": "auth", "worker": "w"})
        return self._completion(dispatch, **self.random.choice(wrong)) if self.random.random() < 0.8 else b"\xc1"

    def deliver(self, now_ms: int) -> bool:
        """One of the completions that are due arrives, in no order. False if none is due."""
        due = [number for number, (due_ms, _, _) in enumerate(self.due) if due_ms <= now_ms]
        if due:
            _, partition, value = self.due.pop(self.random.choice(due))
            self.log.append(("completions", partition), None, value, [], now_ms)
        return bool(due)
