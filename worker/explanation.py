"""One query's way through the decisions, for a human. Pure."""

from __future__ import annotations

import math

from msgspec import Struct

from worker.messages import Closed, Configuration, Configured, Decision, Routed


class Candidate(Struct, frozen=True):
    """How one LLM stood in one decision. `score` is quality - price * cost; `reserve_micros` what it had to hold."""

    llm: str
    quality: float
    cost_micros: int
    price: float
    score: float
    reserve_micros: int
    verdict: str


class Attempt(Struct, frozen=True):
    """One decision about a query, the candidates by score, and how its dispatch ended (None: still open)."""

    offset: int
    decision: Routed
    candidates: list[Candidate]
    closed: Closed | None = None

    @property
    def why(self) -> str:
        """The reason in words."""
        routed = self.decision
        if routed.llm is None:
            return DEFERRED.get(routed.reason, routed.reason)
        if routed.reason == "observing":
            return f"{routed.llm} was drawn at random: the policy was still observing"
        passed = f", after {', '.join(routed.skipped)} could not reserve" if routed.skipped else ""
        return f"{routed.llm} had the best score above 0{passed}"


class Explanation(Struct, frozen=True):
    """All that was decided about a query id in one partition. `index` is the hash of the index that was asked."""

    query_id: str
    partition: int
    index: str
    attempts: list[Attempt]


DEFERRED = {
    "priced_out": "deferred: no LLM was worth the price of its budget",
    "exhausted": "deferred: no LLM worth its price had enough budget left to reserve",
    "expired": "deferred: its deadline had passed",
    "duplicate": "deferred: another dispatch of this query id was open",
    "failed": "deferred: every attempt allowed had failed",
}


class Search:
    """Collects the explanation of one query id from a partition's decisions, fed in order."""

    def __init__(self, query_id: str, partition: int) -> None:
        self.query_id = query_id
        self.partition = partition
        self._config: Configuration | None = None
        self._attempts: list[Attempt] = []

    def feed(self, offset: int, decision: Decision) -> None:
        """The next record of the partition, of this query or not."""
        match decision:
            case Configured(config=config):
                self._config = config
            case Routed(query_id=self.query_id):
                self._attempts.append(Attempt(offset, decision, _candidates(decision, self._config)))
            case Closed(query_id=self.query_id):
                self._close(decision)

    def adopt(self, config: Configuration | None) -> None:
        """The configuration in force, where the record that set it has left the topic."""
        self._config = self._config or config

    def found(self) -> Explanation | None:
        """What was found; None if this partition never decided about the query."""
        if not self._attempts:
            return None
        index = self._config.index if self._config is not None else ""
        return Explanation(self.query_id, self.partition, index, self._attempts)

    def _close(self, closed: Closed) -> None:
        for number, attempt in enumerate(self._attempts):
            routed = attempt.decision
            if closed.dispatch_id == f"{self.partition}-{routed.offset}-{routed.attempt}":
                self._attempts[number] = Attempt(attempt.offset, routed, attempt.candidates, closed)


def _candidates(routed: Routed, config: Configuration | None) -> list[Candidate]:
    if config is None:
        return []
    rows = zip(config.llms, routed.quality, routed.cost_micros, routed.prices, config.margins, strict=False)
    candidates = [
        Candidate(
            llm=llm,
            quality=quality,
            cost_micros=cost,
            price=price,
            score=quality - price * cost,
            reserve_micros=math.ceil(cost * margin),
            verdict=_verdict(routed, llm, quality - price * cost),
        )
        for llm, quality, cost, price, margin in rows
    ]
    return sorted(candidates, key=lambda candidate: -candidate.score)


def _verdict(routed: Routed, llm: str, score: float) -> str:
    if llm == routed.llm:
        return "chosen"
    if llm in routed.skipped:
        return "no budget left"
    if llm in routed.tried:
        return "failed before"
    return "too dear" if score <= 0 else "outscored"
