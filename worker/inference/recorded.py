"""Answers dispatches from a table of recorded answers, instead of calling LLMs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil, isnan, log
from typing import Any

from msgspec import json

from worker.contract.messages import Completion, Dispatch
from worker.estimation.history import History
from worker.inference.published import Answered

# Nothing is called: only memory limits how many dispatches wait for their time.
MAX_OPEN = 100_000


@dataclass(frozen=True)
class Rules:
    """How the simulated LLMs behave. `latency_ms` is the mean of an exponential distribution.

    Every draw depends on the seed and the dispatch alone, so a dispatch that is answered twice gets the same answer.
    """

    latency_ms: float = 50.0
    error_rate: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class RecordedAnswers:
    """The score and cost of each LLM on each query of a table, by query id."""

    rows: Mapping[str, int]
    history: History

    @classmethod
    def of(cls, history: History) -> RecordedAnswers:
        """The answers of a table."""
        return cls({query_id: row for row, query_id in enumerate(history.ids)}, history)

    def outcome(self, query_id: str, llm: str) -> tuple[float, int] | None:
        """Score and cost in micro-dollars; None if the table has none. `<id>/<n>` is the same query once more."""
        row = self.rows.get(query_id.split("/", 1)[0])
        if row is None or llm not in self.history.llms:
            return None
        column = self.history.llms.index(llm)
        quality, cost_micros = self.history.quality[row, column], self.history.cost_micros[row, column]
        return None if isnan(quality + cost_micros) else (float(quality), round(float(cost_micros)))


@dataclass(frozen=True)
class TableAnswerer:
    """An Answerer that looks answers up. Its answers hold what the table knows: a score and a cost, and no text."""

    recorded: RecordedAnswers
    rules: Rules
    costs_money: bool = False
    held_bytes: int = 0

    async def __aenter__(self) -> TableAnswerer:
        return self

    async def __aexit__(self, *error: Any) -> None: ...

    async def answer(self, dispatch: Dispatch) -> Answered:
        completion, seconds = self.outcome(dispatch)
        await asyncio.sleep(seconds)
        told = {"recorded": {"quality": completion.quality, "cost_micros": completion.cost_micros}}
        response = json.encode(told) if completion.status == "ok" else None
        return Answered(completion, response, round(seconds * 1000))

    def max_open(self, llm: str) -> int:
        return MAX_OPEN

    def outcome(self, dispatch: Dispatch) -> tuple[Completion, float]:
        """The completion of a dispatch, and the seconds that it takes.

        An answer that was not recorded costs as much as was estimated, and has no score.
        """
        failure, pace = _draws(self.rules.seed, dispatch.id)
        seconds = -log(1.0 - pace) * self.rules.latency_ms / 1000
        known = self.recorded.outcome(dispatch.query_id, dispatch.llm)
        common: dict[str, Any] = {
            "dispatch_id": dispatch.id,
            "origin_partition": dispatch.origin.partition,
            "llm": dispatch.llm,
        }
        if failure < self.rules.error_rate:
            error: dict[str, Any] = {"error": "simulated: overloaded", "error_class": "overloaded", "cost": "zero"}
            return Completion(**common, status="error", **error), seconds
        quality, cost_micros = known if known is not None else (None, ceil(dispatch.cost_micros))
        return Completion(**common, status="ok", cost="known", cost_micros=cost_micros, quality=quality), seconds


def _draws(seed: int, dispatch_id: str) -> tuple[float, float]:
    digest = blake2b(f"{seed}/{dispatch_id}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:7], "little") / 2**56, int.from_bytes(digest[8:15], "little") / 2**56
