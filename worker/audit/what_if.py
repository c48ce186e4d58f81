"""The same queries under another configuration, beside what really happened. Pure; nothing is published.

What an LLM really answered is known only where it was really asked. A dispatch to the LLM that was really chosen costs
and scores what it did; any other costs and scores what was estimated. It closes when the real one did, or at once where
there was none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from worker.audit.chain import DecisionRecord
from worker.audit.decision_events import event_of, grouped
from worker.audit.outcomes import Tally, origin
from worker.audit.propensity import Exploration
from worker.audit.start import Start, find_start, router_at
from worker.contract import codec
from worker.contract.accounts import Budget
from worker.contract.completions import UsableCompletion
from worker.contract.decisions import Closed, Configured, Decision, Routed
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import Configuration, Fit
from worker.core.events import Arrived, Completed, Event, Expiry, Reconfigured, Ticked, Unanswered, Withdrawn
from worker.core.policy import Policy, PolicyAround, Solution, View, make_policy
from worker.core.router import Prior, Router

FIXED = Fit("converged", 0.0, 0.0, 0, "fixed")

T = TypeVar("T")
Estimated = Callable[[Arrived], Arrived]


class Change(Struct, frozen=True):
    """What is otherwise. `amounts` are of the partition, by budget; prices, by budget too, are in quality per unit, and
    fixed."""

    amounts: Mapping[str, int] = {}
    budget_factor: float = 1.0
    policy: str | None = None
    without: tuple[str, ...] = ()
    prices: Mapping[str, float] | None = None

    def configuration(self, config: Configuration) -> Configuration:
        """The configuration as it would have been."""
        llms = tuple(self._kept(config.llms, config.llms))
        budgets = tuple(self._budget(budget) for budget in config.budgets if self._is_over_one(budget))
        return msgspec.structs.replace(
            config,
            llms=llms,
            budgets=budgets,
            margins=tuple(self._kept(config.llms, config.margins)),
            policy=self.policy or config.policy,
            unanswered_ms=tuple(self._kept(config.llms, config.unanswered_ms)),
            # Kinds are told by the estimates of all LLMs.
            kinds=None if self.without else config.kinds,
        )

    def _budget(self, budget: Budget) -> Budget:
        amount = self.amounts.get(budget.name, int(budget.amount * self.budget_factor))
        llms = tuple(llm for llm in budget.llms if llm not in self.without)
        return msgspec.structs.replace(budget, amount=amount, llms=llms)

    def _is_over_one(self, budget: Budget) -> bool:
        """Whether it is over an LLM that stays. A budget that names no LLM is over all."""
        return not budget.llms or not set(budget.llms) <= set(self.without)

    def make_policy(self, config: Configuration, partition: int) -> Policy:
        """The policy, with fixed prices where they are given."""
        policy = make_policy(config, partition)
        if self.prices is None:
            return policy
        return FixedPrices(policy, tuple(self.prices.get(budget.name, 0.0) for budget in config.budgets))

    def arrival(self, query: Arrived, llms: Sequence[str]) -> Arrived:
        """The query as it would have been: without the estimates of LLMs left out."""
        if not self.without:
            return query
        quality, cost_micros = self._kept(llms, query.quality), self._kept(llms, query.cost_micros)
        return msgspec.structs.replace(query, quality=quality, cost_micros=cost_micros)

    def prior(self, prior: Prior, llms: Sequence[str]) -> Prior:
        """What is known beforehand of the LLMs that stay; nothing where `prior` is of other LLMs than `llms`."""
        columns = self._kept(llms, range(len(llms)))
        if prior.quality.shape[1] != len(llms):
            return Prior(np.empty((0, len(columns))), np.empty((0, len(columns))))
        return Prior(prior.quality[:, columns], prior.cost_micros[:, columns])

    def _kept(self, llms: Sequence[str], values: Sequence[T]) -> list[T]:
        return [value for llm, value in zip(llms, values, strict=False) if llm not in self.without]


class FixedPrices(PolicyAround):
    """A policy whose prices never move."""

    def __init__(self, policy: Policy, prices: tuple[float, ...]) -> None:
        super().__init__(policy)
        self._prices = prices

    def due(self, seen: int) -> bool:
        return False

    def solve(self, view: View) -> Solution:
        return Solution(self._prices, FIXED)


class Sent(NamedTuple):
    """An open dispatch that was never sent: what is known of it is estimated. `quality` and `costs_micros` are the
    estimates of all LLMs, empty for one that was open before the comparison begins."""

    offset: int
    attempt: int
    dispatch_id: str
    llm: str
    cost_micros: float
    quality: list[float]
    costs_micros: list[float]


class WhatIf:
    """One partition. `real` tells what happened, `other` what would have, `exploration` what random draws say of it.

    It begins where its decisions do: at the chain's first record or, where that has left the topic, at the first whole
    checkpoint, `skipped` records after it; both sides then begin with the real accounts of that moment.

    Prices are solved on the prior, so they can be reproduced only under a configuration of the prior's `llms` (None:
    of any). After decisions of other LLMs, it begins again at the next checkpoint; `other_llms` counts these decisions.
    """

    def __init__(
        self,
        partition: int,
        prior: Prior,
        change: Change,
        estimated: Estimated | None = None,
        llms: tuple[str, ...] | None = None,
    ) -> None:
        self.partition = partition
        self.skipped = self.other_llms = 0
        self._prior = prior
        self._prior_llms = llms
        self._change = change
        self._estimated = estimated
        self._begin()

    def _begin(self) -> None:
        self.real, self.other = Tally(), Tally()
        self.exploration = Exploration(self.partition)
        self.begins: Literal["nowhere", "chain", "checkpoint"] = "nowhere"
        self._router = Router(self.partition, self._prior, self._change.make_policy)
        self._llms: tuple[str, ...] = ()
        # By the query's offset, oldest first.
        self._open: dict[int, list[Sent]] = {}
        # Reservations of the other side that expire as soon as they may, and real dispatches that were left.
        self._expiring: dict[str, Expiry] = {}
        self._left: set[str] = set()
        self._completions = -1

    def run(self, records: Iterator[DecisionRecord]) -> None:
        """All decisions of the partition, in order."""
        start, self.skipped = find_start(records)
        while start is not None:
            rest = self._run_from(start, records)
            if rest is None:
                return
            self._begin()
            records = rest
            start, skipped = find_start(records)
            self.other_llms += skipped

    def _run_from(self, start: Start, records: Iterator[DecisionRecord]) -> Iterator[DecisionRecord] | None:
        """All decisions from a start on; at the first configuration of other LLMs, the decisions after it."""
        if start.config is not None and not self._has_prior(start.config):
            self.other_llms += len(start.records)
            return records
        if start.is_chain:
            self.begins, records = "chain", chain(start.records, records)
        else:
            self._begin_at(start)
        played, groups = 0, grouped(records)
        for group in groups:
            caused = [record.decision for record in group]
            if isinstance(caused[0], Configured) and not self._has_prior(caused[0].config):
                self.other_llms += played + len(caused)
                # Not `records`: grouping has read on by one record.
                return chain.from_iterable(groups)
            played += len(caused)
            self.real.add(caused, self._llms)
            self._happen(event_of(caused), caused)
            for decision in caused:
                if isinstance(decision, Closed):
                    self.exploration.closed(decision)
        return None

    def _has_prior(self, config: Configuration) -> bool:
        return self._prior_llms is None or config.llms == self._prior_llms

    # Where it begins

    def _begin_at(self, start: Start) -> None:
        row, config, held = start.row, start.config, start.reservations
        assert row is not None, "a start at a checkpoint has its account row"
        assert config is not None, "a start at a checkpoint has its configuration"
        self.begins = "checkpoint"
        # The state as it really was; the change comes into force on top of it.
        self._router = router_at(
            start, self.partition, Change().prior(self._prior, config.llms), self._change.make_policy
        )
        for r in sorted(held, key=lambda reservation: reservation.attempt):
            self._send(Sent(r.offset, r.attempt, r.dispatch_id, r.llm, r.reserved_micros, [], []))
        self._left = {r.dispatch_id for r in held if not r.may_retry}
        self._completions = row.offsets.completions
        self._configure(Reconfigured(start.parts[0].at_ms, config), row.seen)
        if self._change.prices is not None:
            # A configuration that is otherwise the same would keep the checkpoint's prices.
            self._router.solve()

    def _configure(self, event: Reconfigured, seen: int | None = None) -> None:
        self._llms = event.config.llms
        self.exploration.configured(event.config, seen)
        self._router.use_prior(self._change.prior(self._prior, self._llms))
        self._decide(Reconfigured(event.at_ms, self._change.configuration(event.config)))

    # One event after another

    def _happen(self, event: Event, caused: Sequence[Decision]) -> None:
        match event:
            case Reconfigured():
                self._configure(event)
            case Arrived():
                self._arrived(event, caused)
            case Completed():
                self._completed(event, caused)
            case Withdrawn():
                self._completions += 1
                self._decide(msgspec.structs.replace(event, offset=self._completions))
            case Unanswered():
                self._unanswered(event, caused)
            case Ticked():
                for expired, closed in zip(event.expired, caused, strict=False):
                    self._expired(expired, closed)
                self._expire(event.at_ms)
            case _:
                # Completions are numbered anew here: one that was refused must not take the place of others.
                self._decide(Ticked(event.at_ms))

    def _arrived(self, query: Arrived, caused: Sequence[Decision]) -> None:
        draws = self._router.view.is_observing
        estimated = query if self._estimated is None else self._estimated(query)
        self._decide(self._change.arrival(estimated, self._llms))
        sent = self._newest(query.offset)
        for decision in caused:
            if isinstance(decision, Routed):
                self.exploration.routed(decision, None if sent is None else sent.llm, draws)
        if not _is_dispatched(caused):
            self._settle(query.offset, query.at_ms)

    def _completed(self, event: Completed, caused: Sequence[Decision]) -> None:
        closed = caused[0]
        if not isinstance(closed, Closed):
            return
        offset, was_left = origin(closed.dispatch_id), closed.dispatch_id in self._left
        self._left.discard(closed.dispatch_id)
        sent = self._same(offset, closed.llm)
        if sent is None:
            if not was_left:
                self._settle(offset, event.at_ms)
            return
        self._take(sent)
        self._complete(sent, msgspec.structs.replace(event, retry=self._again(sent, event.retry)))
        if not event.answer.ok and not was_left and not _is_dispatched(caused):
            self._settle(offset, event.at_ms)

    def _unanswered(self, event: Unanswered, caused: Sequence[Decision]) -> None:
        """A real dispatch was left; another LLM would have answered, for all that is known."""
        real = str(DispatchId(self.partition, event.offset, event.attempt))
        self._left.add(real)
        [routed] = [decision for decision in caused if isinstance(decision, Routed)]
        sent = self._same(event.offset, routed.tried[-1])
        if sent is not None:
            self._decide(msgspec.structs.replace(event, attempt=sent.attempt, retry=self._again(sent, event.retry)))
        if not _is_dispatched(caused):
            self._settle(event.offset, event.at_ms)

    def _again(self, sent: Sent, retry: Arrived | None) -> Arrived | None:
        """The query of a further attempt: another index's estimates are those of the attempt before."""
        if retry is None:
            return None
        if self._estimated is None or not sent.quality:
            return self._change.arrival(retry, self._llms)
        return msgspec.structs.replace(retry, quality=sent.quality, cost_micros=sent.costs_micros)

    def _expired(self, expired: Expiry, closed: Decision) -> None:
        """A real dispatch expired; another LLM would have answered, for all that is known."""
        if not isinstance(closed, Closed):
            return
        offset, was_left = origin(closed.dispatch_id), closed.dispatch_id in self._left
        self._left.discard(closed.dispatch_id)
        sent = self._same(offset, closed.llm)
        if sent is not None:
            self._take(sent)
            self._expiring[sent.dispatch_id] = Expiry(sent.dispatch_id, expired.begun)
        elif not was_left:
            self._settle(offset, closed.at_ms)

    def _expire(self, at_ms: int) -> None:
        self._decide(Ticked(at_ms, tuple(self._expiring.values())))
        still_open = self._router.view.open
        self._expiring = {name: expiry for name, expiry in self._expiring.items() if name in still_open}

    def _same(self, offset: int, llm: str) -> Sent | None:
        """The other side's open dispatch of this query to the same LLM."""
        return next((sent for sent in self._open.get(offset, ()) if sent.llm == llm), None)

    def _newest(self, offset: int) -> Sent | None:
        """The other side's newest open dispatch of this query."""
        return next(reversed(self._open.get(offset, [])), None)

    def _send(self, sent: Sent) -> None:
        self._open.setdefault(sent.offset, []).append(sent)

    def _take(self, sent: Sent) -> None:
        """It is closed, or will be."""
        self._open[sent.offset].remove(sent)
        if not self._open[sent.offset]:
            del self._open[sent.offset]

    def _settle(self, offset: int, at_ms: int) -> None:
        """Close a dispatch that has no real counterpart and that its query waits for, as estimated."""
        sent = self._newest(offset)
        held = None if sent is None else self._router.view.open.get(sent.dispatch_id)
        if sent is not None and held is not None and held.may_retry:
            self._take(sent)
            self._complete(
                sent, Completed(0, at_ms, UsableCompletion("", stated_micros=math.ceil(sent.cost_micros), cost="known"))
            )

    def _complete(self, sent: Sent, completion: Completed) -> None:
        self._completions += 1
        answer = msgspec.structs.replace(completion.answer, dispatch_id=sent.dispatch_id)
        self._decide(msgspec.structs.replace(completion, offset=self._completions, answer=answer))

    def _decide(self, event: Event) -> None:
        decisions = [codec.decode_decision(record) for _, record in self._router.decide(event)]
        config = self._router.view.config
        llms = () if config is None else config.llms
        self.other.add(decisions, llms)
        for routed in decisions:
            if isinstance(routed, Routed) and routed.llm is not None:
                name = str(DispatchId(self.partition, routed.offset, routed.attempt))
                cost_micros = routed.cost_micros[llms.index(routed.llm)]
                estimates = routed.quality, routed.cost_micros
                self._send(Sent(routed.offset, routed.attempt, name, routed.llm, cost_micros, *estimates))


def _is_dispatched(caused: Sequence[Decision]) -> bool:
    return any(isinstance(decision, Routed) and decision.llm is not None for decision in caused)
