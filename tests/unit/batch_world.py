"""A system in memory for batches: queries go in, decisions and answers come out as a lane and a provider make them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from worker.batch.outputs import Outputs
from worker.batch.plan import Plan, check
from worker.batch.run import Batch, Options, Summary
from worker.batch.source import Source
from worker.batch.state import BatchState, state_path
from worker.batch.wire import Outgoing, Read
from worker.contract import codec
from worker.contract.answers import Answer
from worker.contract.completions import Remark
from worker.contract.decisions import Cause, Closed, Decision, Rejected, Routed
from worker.contract.messages import Origin
from worker.contract.record import StoredRecord
from worker.contract.rejections import Limits
from worker.contract.topic_names import TopicNames

PARTITIONS = 2
LLMS = ("big", "small")
COST_MICROS = 486
LIMITS = Limits(1_000_000, 49_152, 64)
TOPICS = TopicNames()

# What the world does with a question, by its first word.
Fate = Literal["answer", "defer", "reject", "filter", "retry", "expire", "late", "hurry", "lose", "silent"]


class Killed(BaseException):
    """The process ends here, as by SIGKILL."""


@dataclass
class World:
    """The topics, and what was ever called. `fates` says what becomes of a text; the others are answered."""

    fates: dict[str, Fate] = field(default_factory=dict)
    queries: list[list[tuple[str, bytes]]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    decisions: list[list[Decision]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    answers: list[list[Answer]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    sent: Counter[str] = field(default_factory=Counter)
    billed: Counter[str] = field(default_factory=Counter)

    def take(self, queries: Sequence[Outgoing]) -> list[Origin]:
        """Queries arrive, and all of them are decided and answered."""
        return [self._arrive(query) for query in queries]

    def _arrive(self, query: Outgoing) -> Origin:
        partition = sum(query.query_id.encode()) % PARTITIONS
        origin = Origin(partition, len(self.queries[partition]))
        self.queries[partition].append((query.query_id, query.value))
        self.sent[query.query_id] += 1
        body = msgspec.json.decode(query.value)["body"]
        text = body["messages"][-1]["content"]
        self._decide(query.query_id, origin, self.fates.get(text.split()[0], "answer"))
        return origin

    def _decide(self, query_id: str, origin: Origin, fate: Fate) -> None:
        cause = Cause("queries", origin.offset)
        if fate == "reject":
            self._note(origin, Rejected(b"", cause, 0, "no_embedding"))
        elif fate == "defer":
            self._route(query_id, origin, 1, None, "priced_out")
        elif fate != "silent":
            self._route(query_id, origin, 1, "big", "best_score", 0 if fate == "late" else None)
            called: dict[str, Callable[[str, Origin], None]] = {
                "answer": self._answer,
                "filter": self._filter,
                "retry": self._retry,
                "expire": self._expire,
                "late": self._expire,
                "hurry": self._hurry,
                "lose": self._lose,
            }
            called[fate](query_id, origin)

    def _answer(self, query_id: str, origin: Origin, attempt: int = 1) -> None:
        llm = LLMS[attempt - 1]
        id_ = f"{origin.partition}-{origin.offset}-{attempt}"
        said = msgspec.Raw(msgspec.json.encode({"choices": [{"message": {"content": "four"}}], "id": query_id}))
        self.billed[query_id] += COST_MICROS
        usage: dict[str, Any] = {"completion_tokens": 30}
        answer = Answer(query_id, id_, origin, attempt, llm, llm, "known", COST_MICROS, usage, 5, 0, (), said)
        self.answers[origin.partition].append(answer)
        self._close(query_id, origin, attempt)

    def _filter(self, query_id: str, origin: Origin) -> None:
        self._close(query_id, origin, 1, "content_filter", 99)
        self._route(query_id, origin, 2, None, "failed")

    def _retry(self, query_id: str, origin: Origin) -> None:
        self._close(query_id, origin, 1, "overloaded", 0)
        self._route(query_id, origin, 2, "small", "best_score")
        self._answer(query_id, origin, 2)

    def _expire(self, query_id: str, origin: Origin) -> None:
        self._close(query_id, origin, 1, spent=0, outcome="expired")

    def _hurry(self, query_id: str, origin: Origin) -> None:
        self._close(query_id, origin, 1, "timeout", 0, remarks=("deadline",))
        self._route(query_id, origin, 2, None, "failed")

    def _lose(self, query_id: str, origin: Origin) -> None:
        self._close(query_id, origin, 1)

    def _route(
        self,
        query_id: str,
        origin: Origin,
        attempt: int,
        llm: str | None,
        reason: Any,
        deadline_ms: int | None = None,
    ) -> None:
        routed = Routed(
            prev=b"",
            cause=Cause("queries", origin.offset),
            at_ms=0,
            query_id=query_id,
            offset=origin.offset,
            attempt=attempt,
            quality=[0.5],
            cost_micros=[1.0],
            charges=[0.0],
            llm=llm,
            reason=reason,
            query_deadline_ms=deadline_ms,
        )
        self._note(origin, routed)

    def _close(
        self,
        query_id: str,
        origin: Origin,
        attempt: int,
        error: str | None = None,
        spent: int = COST_MICROS,
        outcome: Any = "settled",
        remarks: tuple[Remark, ...] = (),
    ) -> None:
        id_ = f"{origin.partition}-{origin.offset}-{attempt}"
        llm = LLMS[attempt - 1]
        cause = Cause("completions", 0)
        basis: Any = "usage" if error is None else "reservation"
        how = Closed(b"", cause, 0, id_, query_id, llm, outcome, 100, spent, basis, error=error, remarks=remarks)
        self._note(origin, how)

    def _note(self, origin: Origin, decision: Decision) -> None:
        self.decisions[origin.partition].append(decision)


@dataclass
class MemoryWire:
    """The Wire of a world. `kill_after` counts down with every call, and ends the process when it is used up."""

    world: World
    kill_after: int | None = None
    block: int = 7
    most_open: int = 0
    _next: dict[tuple[str, int], int] = field(default_factory=dict)
    _all: dict[tuple[str, int], int] = field(default_factory=dict)

    def _step(self) -> None:
        if self.kill_after is not None:
            self.kill_after -= 1
            if self.kill_after < 0:
                raise Killed

    def begin(self, state: BatchState | None, everything: bool) -> BatchState:
        self._step()
        zeros = [0] * PARTITIONS
        return state or BatchState(1, "memory", "", 0, zeros, zeros, zeros)

    def sent(self, state: BatchState) -> Iterator[tuple[Origin, str]]:
        self._step()
        for partition, queries in enumerate(self.world.queries):
            for offset in range(state.queries[partition], len(queries)):
                yield Origin(partition, offset), queries[offset][0]

    def send(self, queries: Sequence[Outgoing]) -> list[Origin]:
        # Before the commit nothing is sent, after it everything is, whether or not the process hears of it.
        self._step()
        places = self.world.take(queries)
        self._step()
        return places

    def follow(self, state: BatchState) -> None:
        for topic, starts in ((TOPICS.decisions, state.decisions), (TOPICS.answers, state.answers)):
            for partition, start in enumerate(starts):
                self._next[topic, partition] = start
                self._all[topic, partition] = len(self._log(topic)[partition])

    def _log(self, topic: str) -> list[list[Any]]:
        return self.world.answers if topic == TOPICS.answers else self.world.decisions

    def read(self) -> Read:
        self._step()
        records: list[StoredRecord] = []
        for (topic, partition), start in self._next.items():
            log = self._log(topic)[partition][start : start + self.block]
            encode = msgspec.json.encode if topic == TOPICS.answers else codec.encode
            records += [
                StoredRecord(topic, partition, start + number, 0, None, encode(one), ())
                for number, one in enumerate(log)
            ]
            self._next[topic, partition] += len(log)
        ends = {p for p in range(PARTITIONS) if self._next[TOPICS.answers, p] == len(self.world.answers[p])}
        return Read(records, ends)

    def has_caught_up(self) -> bool:
        return all(self._next[place] >= end for place, end in self._all.items())

    def has_workers(self) -> bool:
        return True


def plan_of(path: Path, model: tuple[str, ...] = ()) -> Plan:
    """The plan of a file that is not refused."""
    plan = check(Source(path), LIMITS, LLMS, model)
    assert isinstance(plan, Plan), plan
    return plan


def run_batch(
    requests: Path, results: Path, world: World, kill_after: int | None = None, most_open: int = 10, retry: bool = False
) -> Summary:
    """Run a batch to its end, or until it is killed."""
    plan = plan_of(requests)
    outputs = Outputs(plan, results, results.with_name("errors.jsonl"))
    outputs.load(retry)
    batch = Batch(plan, outputs, MemoryWire(world, kill_after), TOPICS, Options(most_open, retry=retry))
    return batch.run(state_path(results))
