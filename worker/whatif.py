"""The same queries under another configuration, beside what really happened. Pure; nothing is published.

What an LLM really answered is known only where it was really asked. A dispatch to the LLM that was really chosen costs
and scores what it did; any other costs and scores what was estimated. It closes when the real one did, or at once where
there was none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from worker import wire
from worker.events import Arrived, Completed, Event, Reconfigured
from worker.messages import Closed, Configuration, Decision, Fit, Routed
from worker.policy import Policy, Reason, Solution, View, make_policy
from worker.router import Prior, Router
from worker.stimuli import events
from worker.tally import Tally

FIXED = Fit("converged", 0.0, 0.0, 0, "fixed prices")

Estimated = Callable[[Arrived], Arrived]


class Change(Struct, frozen=True):
    """What is otherwise. Budgets are of the partition; prices are in quality per micro-dollar, and fixed."""

    budget_micros: Mapping[str, int] = {}
    budget_factor: float = 1.0
    policy: str | None = None
    without: tuple[str, ...] = ()
    prices: Mapping[str, float] | None = None

    def configuration(self, config: Configuration) -> Configuration:
        """The configuration as it would have been."""
        scaled = {llm: int(budget * self.budget_factor) for llm, budget in config.budget_micros.items()}
        budgets = {**scaled, **self.budget_micros, **dict.fromkeys(self.without, 0)}
        return msgspec.structs.replace(config, budget_micros=budgets, policy=self.policy or config.policy)

    def make_policy(self, config: Configuration, partition: int) -> Policy:
        """The policy, with fixed prices where they are given."""
        policy = make_policy(config, partition)
        if self.prices is None:
            return policy
        return FixedPrices(policy, tuple(self.prices.get(llm, 0.0) for llm in config.llms))

    def arrival(self, query: Arrived, llms: Sequence[str]) -> Arrived:
        """The query as it would have been: LLMs left out are worth nothing."""
        if not self.without:
            return query
        quality = [0.0 if llm in self.without else q for llm, q in zip(llms, query.quality, strict=False)]
        return msgspec.structs.replace(query, quality=quality)


class FixedPrices:
    """A policy whose prices never move."""

    def __init__(self, policy: Policy, prices: tuple[float, ...]) -> None:
        self._policy = policy
        self._prices = prices

    def due(self, seen: int) -> bool:
        return False

    def solve(self, view: View) -> Solution:
        return Solution(self._prices, FIXED)

    def rank(
        self, seen: int, quality: Sequence[float], cost_micros: Sequence[int], prices: Sequence[float]
    ) -> list[int]:
        return self._policy.rank(seen, quality, cost_micros, prices)

    def reason(self, seen: int) -> Reason:
        return self._policy.reason(seen)


class Sent(NamedTuple):
    """An open dispatch that was never sent: what is known of it is estimated."""

    dispatch_id: str
    llm: str
    cost_micros: int


class WhatIf:
    """One partition. `real` tells what happened, `other` what would have.

    `explored` are queries whose LLM was really drawn at random, each of M alike. `weighted_quality` is the true quality
    of those that would have gone to the very LLM that was drawn, times M: divided by `explored`, it tells the other
    configuration's quality per query without any estimate (inverse propensity).
    """

    def __init__(self, partition: int, prior: Prior, change: Change, estimated: Estimated | None = None) -> None:
        self.real, self.other = Tally(), Tally()
        self._router = Router(partition, prior, change.make_policy)
        self._change = change
        self._estimated = estimated
        self._llms: tuple[str, ...] = ()
        self._open: dict[int, Sent] = {}
        self._completions = -1
        self.explored = 0
        self.weighted_quality = 0.0
        self._drawn: set[int] = set()

    def run(self, decisions: Iterable[Decision]) -> None:
        """All decisions of the partition, from the beginning of its chain."""
        for event, caused in events(decisions):
            for decision in caused:
                self.real.add(decision, self._llms)
            self._happen(event, caused)
            for decision in caused:
                self._explore(decision)

    def _happen(self, event: Event, caused: Sequence[Decision]) -> None:
        match event:
            case Reconfigured():
                self._llms = event.config.llms
                self._decide(Reconfigured(event.at_ms, self._change.configuration(event.config)))
            case Arrived():
                self._decide(self._arrival(event))
                if not _is_dispatched(caused):
                    self._settle(event.offset, event.at_ms)
            case Completed():
                self._completed(event, caused)
            case _:
                for closed in caused:
                    self._expired(closed)
                self._decide(event)

    def _explore(self, decision: Decision) -> None:
        match decision:
            case Routed(attempt=1, reason="observing"):
                self.explored += 1
                sent = self._open.get(decision.offset)
                if sent is not None and sent.llm == decision.llm:
                    self._drawn.add(decision.offset)
            case Closed() if _origin(decision.dispatch_id) in self._drawn:
                self._drawn.discard(_origin(decision.dispatch_id))
                self.weighted_quality += len(self._llms) * (decision.quality or 0.0)

    def _arrival(self, query: Arrived) -> Arrived:
        estimated = query if self._estimated is None else self._estimated(query)
        return self._change.arrival(estimated, self._llms)

    def _completed(self, event: Completed, caused: Sequence[Decision]) -> None:
        offset = _origin(event.dispatch_id)
        sent = self._open.get(offset)
        if sent is None or not isinstance(caused[0], Closed):
            return
        if sent.llm != event.llm:
            self._settle(offset, event.at_ms)
            return
        del self._open[offset]
        retry = None if event.retry is None else self._arrival(event.retry)
        self._complete(sent, msgspec.structs.replace(event, retry=retry))
        if not event.ok and not _is_dispatched(caused):
            self._settle(offset, event.at_ms)

    def _expired(self, closed: Decision) -> None:
        """A real dispatch expired; another LLM would have answered, for all that is known."""
        if isinstance(closed, Closed):
            offset = _origin(closed.dispatch_id)
            sent = self._open.get(offset)
            if sent is not None and sent.llm != closed.llm:
                self._settle(offset, closed.at_ms)
            else:
                self._open.pop(offset, None)

    def _settle(self, offset: int, at_ms: int) -> None:
        """Close a dispatch that has no real counterpart, as estimated."""
        sent = self._open.pop(offset, None)
        if sent is not None:
            self._complete(sent, Completed(0, at_ms, sent.dispatch_id, sent.llm, True, sent.cost_micros, "cost"))

    def _complete(self, sent: Sent, completion: Completed) -> None:
        self._completions += 1
        self._decide(msgspec.structs.replace(completion, offset=self._completions, dispatch_id=sent.dispatch_id))

    def _decide(self, event: Event) -> None:
        self._router.decide([event])
        for _, record in self._router.journal.take():
            decision = wire.decode_decision(record)
            self.other.add(decision, self._llms)
            if isinstance(decision, Routed) and decision.llm is not None:
                i = self._llms.index(decision.llm)
                name = f"{self._router.partition}-{decision.offset}-{decision.attempt}"
                self._open[decision.offset] = Sent(name, decision.llm, decision.cost_micros[i])


def _is_dispatched(caused: Sequence[Decision]) -> bool:
    return any(isinstance(decision, Routed) and decision.llm is not None for decision in caused)


def _origin(dispatch_id: str) -> int:
    parts = dispatch_id.split("-")
    return int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() else -1
