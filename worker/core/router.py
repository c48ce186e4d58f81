"""The router: one lane's whole state and the one door to it. Pure: events in, effects out.

Rules:
- `handle` is the only way in. The same events from the same state give the same effects, bit for bit, however they
  are cut into batches; only the account row and checkpoints are per batch.
- The state after a batch is exactly what its ledger rows say: `snapshot.restore` of the compacted rows gives it back.
- Every input record gets exactly one first record in the decision chain; records at or below the applied offset are
  skipped, so that reading a topic twice changes nothing.
- Memory is never rolled back: whoever cannot publish the effects of a batch must drop the router.

The parts: `pricing` (what a budget is worth), `ledger` (where money moves), `settlement` (what a completion charges),
`outbox` (what is published of it) and `journal` (the chain).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from worker.contract.codes import DeferReason
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import (
    FORMAT,
    AccountRow,
    Cause,
    Configuration,
    Fit,
    Offsets,
    Reservation,
)
from worker.core.events import Arrived, Completed, Effects, Event, Reconfigured, Refused, Ticked
from worker.core.journal import Journal
from worker.core.ledger import BrokenInvariant, Ledger
from worker.core.outbox import Outbox
from worker.core.policy import make_policy
from worker.core.pricing import OBSERVING, Policies, Pricing, Prior
from worker.core.settlement import EXPIRED, Charge, charge

__all__ = ["Prior", "Router"]

# What one Ticked expires at most, so that a mass expiry is many transactions and none outlasts its timeout. A lane
# ticks every second and dispatches less than this in one.
EXPIRIES = 10_000


class Router:
    """The state of lane `partition`: fresh until its first Reconfigured event, or as `snapshot.restore` found it.

    `policies` makes the policy of a configuration; only replays give another than the product's own.
    """

    def __init__(self, partition: int, prior: Prior, policies: Policies = make_policy) -> None:
        self.partition = partition
        self.prior = prior
        self.policies = policies
        self.ledger = Ledger({})
        self.journal = Journal()
        self.offsets = Offsets()
        self.clock_ms = self.sequence = self.dispatches = 0
        self._pricing: Pricing | None = None
        self._outbox = Outbox(partition, self.journal)

    def handle(self, events: Iterable[Event]) -> Effects:
        """Apply events in order and return what one transaction must publish, the account row included.

        Raises BrokenInvariant if the books do not add up; the router is then of no more use.
        """
        outbox = self.decide(events)
        self.sequence += 1
        if self.sequence % self.settings.checkpoint_every == 0:
            self.ledger.check()
            outbox.checkpoint(self.account_row(), self.pricing, list(self.ledger.open.values()))
        return outbox.sealed(self.account_row(), self.pricing.window.take_touched())

    def decide(self, events: Iterable[Event]) -> Outbox:
        """Apply events in order without ending a transaction: `handle`, for a replay that is told where those end."""
        outbox = self._outbox = Outbox(self.partition, self.journal)
        for event in events:
            self._apply(event)
        self.dispatches += outbox.dispatches
        return outbox

    def _apply(self, event: Event) -> None:
        self.clock_ms = max(self.clock_ms, event.at_ms)
        self._outbox.begin(self._cause(event), self.clock_ms)
        match event:
            case Arrived():
                self._arrived(event)
            case Completed():
                self._completed(event)
            case Refused():
                self._refused(event)
            case Reconfigured():
                self._reconfigured(event.config)
            case Ticked():
                self._expire()

    def _cause(self, event: Event) -> Cause:
        match event:
            case Arrived():
                return Cause("queries", event.offset)
            case Completed():
                return Cause("completions", event.offset)
            case Refused():
                return Cause(event.topic, event.offset)
            case Reconfigured():
                return Cause("settings", self.journal.count)
            case Ticked():
                return Cause("tick", self.journal.count)

    # Queries

    def _arrived(self, query: Arrived) -> None:
        if not self._advance("queries", query.offset):
            return
        if self.ledger.is_open_query(query.query_id):
            self._defer(query, 1, "duplicate")
        elif self._is_late(query):
            self._defer(query, 1, "expired")
        else:
            self._price()
            self._route(query, attempt=1, tried=())
            self.pricing.remember(query)

    def _is_late(self, query: Arrived) -> bool:
        return query.deadline_ms is not None and query.deadline_ms <= self.clock_ms

    def _price(self) -> None:
        if self.pricing.is_due():
            self.pricing.solve(self.ledger)
            self._outbox.priced(self.pricing)

    def _route(self, query: Arrived, attempt: int, tried: tuple[str, ...]) -> None:
        pricing = self.pricing
        lacking_micros: dict[str, int] = {}
        for i in pricing.rank(query):
            llm = pricing.config.llms[i]
            if llm in tried:
                continue
            reservation = self._reservation(query, i, attempt, tried)
            lacking = self.ledger.reserve(reservation)
            if not lacking:
                self._outbox.dispatch(query, i, reservation, pricing, lacking_micros)
                return
            lacking_micros[llm] = lacking
        self._defer(query, attempt, "exhausted" if lacking_micros else "priced_out", tried, lacking_micros)

    def _reservation(self, query: Arrived, i: int, attempt: int, tried: tuple[str, ...]) -> Reservation:
        deadline_ms = self.clock_ms + self.settings.reservation_ms
        if query.deadline_ms is not None:
            deadline_ms = min(deadline_ms, query.deadline_ms)
        return Reservation(
            dispatch_id=str(DispatchId(self.partition, query.offset, attempt)),
            query_id=query.query_id,
            llm=self.settings.llms[i],
            offset=query.offset,
            attempt=attempt,
            reserved_micros=math.ceil(query.cost_micros[i] * self.settings.margins[i]),
            at_ms=self.clock_ms,
            deadline_ms=deadline_ms,
            tried=tried,
        )

    def _defer(
        self,
        query: Arrived,
        attempt: int,
        reason: DeferReason,
        tried: tuple[str, ...] = (),
        lacking_micros: Mapping[str, int] | None = None,
    ) -> None:
        self._outbox.defer(query, attempt, reason, self.pricing, lacking_micros or {}, tried)

    # Completions

    def _completed(self, completion: Completed) -> None:
        if not self._advance("completions", completion.offset):
            return
        reservation = self.ledger.open.get(completion.dispatch_id)
        if reservation is None:
            self._outbox.ignored(completion, "unmatched")
        elif reservation.llm != completion.llm:
            self._outbox.ignored(completion, "other_llm")
        else:
            self._close(reservation, charge(reservation, completion))
            if not completion.ok:
                self._retry(reservation, completion.retry)

    def _retry(self, reservation: Reservation, query: Arrived | None) -> None:
        attempt, tried = reservation.attempt + 1, (*reservation.tried, reservation.llm)
        if query is None:
            self._defer(_gone(reservation), attempt, "failed", tried=tried)
        elif attempt > self.settings.max_attempts:
            self._defer(query, attempt, "failed", tried=tried)
        elif self._is_late(query):
            self._defer(query, attempt, "expired", tried=tried)
        else:
            self._route(query, attempt, tried)

    def _expire(self) -> None:
        for reservation in self.ledger.due(self.clock_ms, EXPIRIES):
            self._close(reservation, EXPIRED)

    def _close(self, reservation: Reservation, charged: Charge) -> None:
        overrun_micros = self.ledger.close(reservation, charged.spent_micros)
        self._outbox.closed(reservation, charged, overrun_micros)

    # The rest

    def _refused(self, event: Refused) -> None:
        if self._advance(event.topic, event.offset):
            self._outbox.rejected(event)

    def _advance(self, topic: Literal["queries", "completions"], offset: int) -> bool:
        """Move an input's applied offset on; False if this record was applied before."""
        queries, completions = self.offsets.queries, self.offsets.completions
        if offset <= (queries if topic == "queries" else completions):
            return False
        self.offsets = Offsets(offset, completions) if topic == "queries" else Offsets(queries, offset)
        return True

    def _reconfigured(self, config: Configuration) -> None:
        old = self._pricing
        if old is not None and old.config == config:
            return
        self._pricing = Pricing(
            self.policies(config, self.partition), config, self.prior, old.seen if old is not None else 0
        )
        self.ledger.budget(config.budget_micros)
        dropped = 0 if old is None or self._pricing.take_over(old) else old.window.blocks
        self._outbox.configured(config, dropped)
        self._price()

    def account_row(self) -> AccountRow:
        """The state but for open reservations, window and configuration, as of the last event."""
        pricing = self.pricing
        return AccountRow(
            format=FORMAT,
            offsets=self.offsets,
            accounts=self.ledger.accounts,
            prices=dict(zip(pricing.config.llms, pricing.prices, strict=False)),
            fit=pricing.fit,
            seen=pricing.seen,
            clock_ms=self.clock_ms,
            sequence=self.sequence,
            decisions=self.journal.count,
            dispatches=self.dispatches,
            head=self.journal.head,
            digest=self._outbox.digest(),
            window_from=pricing.window_from,
        )

    @property
    def pricing(self) -> Pricing:
        """The prices in force and what they came from; the first event of a lane sets the configuration."""
        if self._pricing is None:
            raise BrokenInvariant("the first event of a lane is Reconfigured")
        return self._pricing

    @pricing.setter
    def pricing(self, pricing: Pricing) -> None:
        self._pricing = pricing

    @property
    def settings(self) -> Configuration:
        """The configuration in force."""
        return self.pricing.config

    @property
    def config(self) -> Configuration | None:
        """The configuration in force; None before the first event."""
        return None if self._pricing is None else self._pricing.config

    @property
    def prices(self) -> tuple[float, ...]:
        """The prices in force, in the order of the configuration's LLMs; empty before the first solution."""
        return () if self._pricing is None else self._pricing.prices

    @property
    def fit(self) -> Fit:
        """How the prices in force were found."""
        return OBSERVING if self._pricing is None else self._pricing.fit


def _gone(reservation: Reservation) -> Arrived:
    """What is left of a query that has left its topic."""
    nil = msgspec.Raw(msgspec.msgpack.encode(None))
    return Arrived(reservation.offset, 0, reservation.query_id, [], [], None, nil)
