"""The router: one lane's whole state and the one door to it. Pure: events in, effects out.

Rules:
- `handle` is the only way in, and `view` is the only way to look: no other module writes or reads the attributes.
- The same events from the same state give the same effects, bit for bit, however they are cut into batches. Only the
  account row and checkpoints are per batch.
- The state after a batch is exactly what its ledger rows say: `Router.restored` makes the same router of them.
- Every input record gets exactly one first record in the decision chain. Records at or below the applied offset are
  skipped, so that reading a topic twice changes nothing.
- Memory is never rolled back: whoever cannot publish the effects of a batch must drop the router.

The parts: `pricing` (what a budget is worth), `choice` (which LLM takes a query), `ledger` (where money moves),
`settlement` (what a completion charges), `attempts` (what follows a failure), `breakers` (which LLMs are taken out),
`outbox` (what is published of it) and `journal` (the chain).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

import msgspec

from worker.contract.codes import DeferReason
from worker.contract.completions import UsableCompletion
from worker.contract.decisions import SwitchState
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import (
    FORMAT,
    AccountRow,
    Breaker,
    ClosedDispatch,
    Configuration,
    Offsets,
    Reservation,
)
from worker.core.attempts import FIRST, Attempt, acted_by, after_failure, after_silence, gone
from worker.core.breakers import Breakers
from worker.core.candidates import refused_model
from worker.core.causes import cause_of
from worker.core.choice import Choice, Chosen, Considered, Unserved
from worker.core.events import (
    Arrived,
    Completed,
    Effects,
    Event,
    Reconfigured,
    Refused,
    Removed,
    Ticked,
    Unanswered,
    Withdrawn,
)
from worker.core.journal import Journal
from worker.core.lane_view import LaneView
from worker.core.ledger import BrokenInvariant, Ledger
from worker.core.outbox import Outbox
from worker.core.policy import make_policy
from worker.core.pricing import Policies, Pricing, Prior
from worker.core.settlement import Charge, charge, expiry, second
from worker.core.snapshot import LaneState, check_format
from worker.core.tags import TagTotals

__all__ = ["Prior", "Router"]


class Router:
    """The state of lane `partition`: fresh until its first Reconfigured event, or `restored`.

    `policies` makes the policy of a configuration; only audits give another than the product's own.
    """

    def __init__(self, partition: int, prior: Prior, policies: Policies = make_policy) -> None:
        self.partition = partition
        self._prior = prior
        self._policies = policies
        self._ledger = Ledger()
        self._breakers = Breakers({})
        self._journal = Journal()
        self._offsets = Offsets()
        self._clock_ms = self._sequence = self._dispatches = 0
        self._pricing: Pricing | None = None
        self._tags = TagTotals({})
        self._outbox = Outbox(partition, self._journal)

    @classmethod
    def restored(cls, partition: int, prior: Prior, state: LaneState | None, policies: Policies = make_policy) -> Self:
        """The router of a lane that wrote `state`; a fresh one if it wrote nothing (None).

        Raises BrokenInvariant if the state does not add up, and FixSetting if another version wrote it.
        """
        router = cls(partition, prior, policies)
        if state is None:
            return router
        row, config = state.row, state.config
        check_format(row)
        router._ledger = Ledger(state.accounts, state.reservations, state.closed)
        router._journal = Journal(row.head, row.decisions)
        router._breakers = Breakers(row.breakers)
        router._offsets, router._clock_ms = row.offsets, row.clock_ms
        router._tags = TagTotals(row.tags)
        router._sequence, router._dispatches = row.sequence, row.dispatches
        router._pricing = Pricing.restored(policies(config, partition), config, prior, row, state.window)
        router._outbox = Outbox(partition, router._journal)
        return router

    @property
    def view(self) -> LaneView:
        """What others may read of this router. It shows the state as it is whenever it is asked."""
        return LaneView(self)

    def handle(self, events: Iterable[Event], with_checkpoint: bool = False) -> Effects:
        """Apply events in order and return what one transaction must publish, the account row included.

        A checkpoint is due every so many transactions, or asked for.
        Raises BrokenInvariant if the books do not add up; the router is then of no more use.
        """
        outbox = self._decide(events)
        self._sequence += 1
        if with_checkpoint or self._sequence % self._config.checkpoint_every == 0:
            self._ledger.check()
            outbox.checkpoint(self._account_row(), self._in_force, self._ledger)
        return outbox.sealed(self._account_row(), self._ledger.take_changed(), self._in_force.window.take_touched())

    def _decide(self, events: Iterable[Event]) -> Outbox:
        outbox = self._outbox = Outbox(self.partition, self._journal)
        for event in events:
            self._apply(event)
        self._dispatches += outbox.dispatches
        return outbox

    # For audits, which know from the topics where transactions ended

    def decide(self, event: Event) -> list[tuple[str, bytes]]:
        """Apply one event without ending a transaction; returns its decision records with their keys."""
        self._decide([event])
        return self._journal.take()

    def checkpoint(self, recorded: AccountRow, at_ms: int) -> list[tuple[str, bytes]]:
        """The records of a checkpoint that was written at `at_ms`.

        Which transaction it ended, and which dispatches that had, only the `recorded` row knows. Time went by without
        an event that left a record. What is due stays open: no tick took it up.
        """
        outbox = self._decide([])
        self._clock_ms = max(self._clock_ms, at_ms)
        self._sequence = recorded.sequence
        row = msgspec.structs.replace(self._account_row(), digest=recorded.digest)
        outbox.checkpoint(row, self._in_force, self._ledger)
        return self._journal.take()

    def use_prior(self, prior: Prior) -> None:
        """Solve on another prior from the next configuration on: that of other LLMs."""
        self._prior = prior

    def solve(self) -> None:
        """Solve for prices now, although no event asks for it. The solution is not recorded."""
        self._in_force.solve(self._ledger)

    def _apply(self, event: Event) -> None:
        self._clock_ms = max(self._clock_ms, event.at_ms)
        self._outbox.begin(cause_of(event, self._journal.count), self._clock_ms)
        match event:
            case Arrived():
                self._arrived(event)
            case Completed():
                self._completed(event)
            case Withdrawn():
                self._withdrawn(event)
            case Refused():
                self._refused(event)
            case Removed():
                self._removed(event)
            case Reconfigured():
                self._reconfigured(event.config)
            case Unanswered():
                self._unanswered(event)
            case Ticked():
                self._expire(event)

    # Queries

    def _arrived(self, query: Arrived) -> None:
        if not self._advance("queries", query.offset):
            return
        if (unknown := refused_model(query.asks, self._config)) is not None:
            self._outbox.rejected(Refused("queries", query.offset, query.at_ms, unknown))
            return
        self._tags.count(query.tags)
        if self._ledger.is_open_query(query.query_id):
            self._defer(query, FIRST, "duplicate")
        elif self._is_late(query):
            self._defer(query, FIRST, "expired")
        else:
            self._price()
            self._route(query, FIRST)
            self._in_force.remember(query)

    def _is_late(self, query: Arrived) -> bool:
        return query.deadline_ms is not None and query.deadline_ms <= self._clock_ms

    def _price(self) -> None:
        if self._in_force.is_due():
            self._in_force.solve(self._ledger)
            self._outbox.priced(self._in_force)

    def _route(self, query: Arrived, attempt: Attempt) -> None:
        """Dispatch or defer."""
        choice = Choice(self.partition, self._clock_ms, self._in_force, self._ledger, self._breakers)
        match choice.of(query, attempt):
            case Unserved(reason, considered):
                self._outbox.defer(query, attempt, reason, self._in_force, considered)
            case Chosen() as chosen:
                llm = chosen.reservation.llm
                if self._ledger.reserve(chosen.reservation):
                    raise BrokenInvariant(f"{llm} was chosen and cannot reserve")
                self._switched(llm, "probed", self._breakers.probe(llm, self._clock_ms, self._config))
                self._outbox.dispatch(query, attempt, chosen, self._in_force)

    def _defer(self, query: Arrived, attempt: Attempt, reason: DeferReason) -> None:
        """Defer without looking at any LLM."""
        self._outbox.defer(query, attempt, reason, self._in_force, Considered(self._in_force.charges(query)))

    # Completions

    def _completed(self, completion: Completed) -> None:
        if not self._advance("completions", completion.offset):
            return
        dispatch_id = completion.answer.dispatch_id
        reservation, closed = self._ledger.open.get(dispatch_id), self._ledger.closed(dispatch_id)
        if reservation is not None:
            self._answered(reservation, completion)
        elif closed is not None:
            self._charge_again(closed, completion)
        else:
            self._outbox.ignored("unmatched", dispatch_id, completion.answer.llm, completion.answer.stated_micros)

    def _answered(self, reservation: Reservation, completion: Completed) -> None:
        answer = acted_by(completion.answer, self._config)
        charged = self._charge(reservation, answer)
        if answer.ok and reservation.is_overtaken:
            charged = second(charged)
        self._close(reservation, charged, answer)
        self._heard(reservation.llm, reservation.at_ms, answer)
        if answer.ok:
            self._overtake(reservation.query_id, reservation.offset)
        elif reservation.may_retry:
            self._retry(reservation, completion.retry, after_failure(reservation, answer, self._config))

    def _overtake(self, query_id: str, offset: int) -> None:
        """A query has its answer: nothing more is done for it."""
        for other in self._ledger.overtake(query_id, offset):
            self._outbox.held(other)

    def _charge(self, dispatch: Reservation | ClosedDispatch, answer: UsableCompletion) -> Charge:
        return charge(dispatch, answer, self._config.price_lists.get(dispatch.llm), self._config.max_cost_micros)

    def _charge_again(self, dispatch: ClosedDispatch, completion: Completed) -> None:
        charged = self._charge(dispatch, completion.answer)
        closing = self._ledger.charge_again(dispatch, charged, self._journal.count)
        self._tags.spend(dispatch.tags, closing.dispatch.booked_micros - dispatch.booked_micros)
        self._outbox.charged_again(dispatch, charged, closing, failed=not completion.answer.ok)
        if completion.answer.ok:
            made = DispatchId.parse(dispatch.dispatch_id)
            assert made is not None, "a lane makes ids that can be parsed"
            # When it was made is not known any more: it closes the breaker of an LLM that was silent.
            self._heard(dispatch.llm, 0, completion.answer)
            self._overtake(dispatch.query_id, made.offset)

    def _retry(self, reservation: Reservation, query: Arrived | None, attempt: Attempt) -> None:
        """Another attempt, or a deferral: the dispatch before it has failed, or nobody answers it."""
        reason = attempt.ends(query, self._config, self._clock_ms)
        if reason is not None or query is None:
            self._defer(query or gone(reservation), attempt, reason or "failed")
        else:
            self._route(query, attempt)

    # LLMs that are taken out

    def _heard(self, llm: str, made_ms: int, answer: UsableCompletion) -> None:
        breaker = self._breakers.completed(llm, made_ms, answer, self._clock_ms, self._config)
        self._switched(llm, "back" if answer.ok else "out", breaker)

    def _withdrawn(self, event: Withdrawn) -> None:
        if not self._advance("completions", event.offset):
            return
        if event.llm not in self._config.llms:
            self._outbox.ignored("unknown_llm", llm=event.llm)
            return
        breaker = self._breakers.unavailable(event.llm, event.error_class, self._clock_ms, self._config)
        self._outbox.switched(event.llm, "out", breaker, event.worker)

    def _switched(self, llm: str, state: SwitchState, breaker: Breaker | None) -> None:
        if breaker is not None:
            self._outbox.switched(llm, state, breaker)

    # Dispatches without an answer

    def _unanswered(self, event: Unanswered) -> None:
        reservation = self._ledger.open.get(str(DispatchId(self.partition, event.offset, event.attempt)))
        if reservation is None or not reservation.may_retry or not 0 < reservation.unanswered_at_ms <= self._clock_ms:
            # It was answered since the lane looked.
            return
        self._outbox.gone_on(self._ledger.go_on(reservation))
        waited_ms = self._clock_ms - reservation.at_ms
        llm, now_ms = reservation.llm, self._clock_ms
        self._switched(llm, "out", self._breakers.silent(llm, waited_ms, now_ms, self._config))
        self._retry(reservation, event.retry, after_silence(reservation))

    def _expire(self, event: Ticked) -> None:
        for expired in event.expired:
            reservation = self._ledger.open.get(expired.dispatch_id)
            if reservation is not None and reservation.deadline_ms <= self._clock_ms:
                self._close(reservation, expiry(reservation, expired.begun))

    def _close(self, reservation: Reservation, charged: Charge, answer: UsableCompletion | None = None) -> None:
        closing = self._ledger.close(reservation, charged, self._journal.count)
        self._tags.spend(reservation.tags, charged.spent_micros)
        self._outbox.closed(reservation, charged, closing, answer)

    # The rest

    def _refused(self, event: Refused) -> None:
        if self._advance(event.topic, event.offset):
            self._outbox.rejected(event)

    def _removed(self, event: Removed) -> None:
        applied = self._offsets.queries if event.topic == "queries" else self._offsets.completions
        if self._advance(event.topic, event.before - 1):
            self._outbox.missed(applied + 1)

    def _advance(self, topic: Literal["queries", "completions"], offset: int) -> bool:
        """Move an input's applied offset on; False if this record was applied before."""
        queries, completions = self._offsets.queries, self._offsets.completions
        if offset <= (queries if topic == "queries" else completions):
            return False
        self._offsets = Offsets(offset, completions) if topic == "queries" else Offsets(queries, offset)
        return True

    def _reconfigured(self, config: Configuration) -> None:
        old = self._pricing
        if old is not None and old.config == config:
            return
        self._pricing = Pricing(
            self._policies(config, self.partition), config, self._prior, old.seen if old is not None else 0
        )
        self._ledger.budget(config.budgets)
        self._breakers.keep(config)
        dropped = 0 if old is None or self._pricing.take_over(old) else old.window.blocks
        self._outbox.configured(config, dropped)
        self._price()

    def _account_row(self) -> AccountRow:
        """The state but for accounts, open reservations, window and configuration, as of the last event."""
        pricing = self._in_force
        return AccountRow(
            format=FORMAT,
            offsets=self._offsets,
            prices=pricing.by_budget(),
            fit=pricing.fit,
            seen=pricing.seen,
            clock_ms=self._clock_ms,
            sequence=self._sequence,
            decisions=self._journal.count,
            dispatches=self._dispatches,
            head=self._journal.head,
            digest=self._outbox.digest(),
            window_from=pricing.window_from,
            group="" if pricing.config.home is None else pricing.config.home.group,
            settings=pricing.config.settings,
            breakers=self._breakers.all(),
            tags=self._tags.totals(),
            kinds=None if pricing.forecast is None else pricing.forecast.seen,
        )

    @property
    def _in_force(self) -> Pricing:
        """The prices in force and what they came from; the first event of a lane sets the configuration."""
        if self._pricing is None:
            raise BrokenInvariant("the first event of a lane is Reconfigured")
        return self._pricing

    @property
    def _config(self) -> Configuration:
        """The configuration in force."""
        return self._in_force.config
