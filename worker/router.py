"""The router: one lane's whole state and the one door to it. Pure: events in, effects out.

Rules:
- `handle` is the only way in. The same events from the same state give the same effects, bit for bit, however they
  are cut into batches; only the account row and checkpoints are per batch.
- The state after a batch is exactly what its ledger rows say: `snapshot.restore` of the compacted rows gives it back.
- Every input record gets exactly one first record in the decision chain; records at or below the applied offset are
  skipped, so that reading a topic twice changes nothing.
- Memory is never rolled back: whoever cannot publish the effects of a batch must drop the router.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.events import Arrived, Completed, Effects, Event, Reconfigured, Refused, Ticked
from worker.journal import Journal, record_hash
from worker.ledger import BrokenInvariant, Ledger, Reserve
from worker.messages import (
    AccountRow,
    Checkpoint,
    Closed,
    Configuration,
    Configured,
    Decision,
    DeferReason,
    Deferred,
    Dispatch,
    Fit,
    Ignored,
    Offsets,
    Origin,
    Priced,
    Rejected,
    Reservation,
    Routed,
)
from worker.policy import Policy, View, make_policy
from worker.window import Window

ACCOUNT_KEY = "account"
CONFIGURATION_KEY = "configuration"
RESERVATION_PREFIX = "reservation/"
WINDOW_PREFIX = "window/"

# About 150 bytes each: a checkpoint's records stay near 1 MB.
CHECKPOINT_RESERVATIONS = 5_000

OBSERVING = Fit("observing", 0.0, 0.0, 0, "no prices yet")

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True)
class Prior:
    """Leave-one-out estimates of a sample of history: what prices are solved on before there are queries. [n, LLMs]"""

    quality: NDArray[np.float64]
    cost_micros: NDArray[np.float64]


class Router:
    """The state of lane `partition`: fresh until its first Reconfigured event, or as `snapshot.restore` found it."""

    def __init__(self, partition: int, prior: Prior) -> None:
        self.partition = partition
        self.prior = prior
        self.config: Configuration | None = None
        self.ledger = Ledger({})
        self.journal = Journal()
        self.window = Window(0, 0)
        self.window_from = 0
        self.prices: tuple[float, ...] = ()
        self.fit = OBSERVING
        self.offsets = Offsets()
        self.seen = self.clock_ms = self.sequence = self.dispatches = 0
        self._effects = Effects()

    def handle(self, events: Iterable[Event]) -> Effects:
        """Apply events in order and return what one transaction must publish, the account row included."""
        effects = self._effects = Effects()
        for event in events:
            self._apply(event)
        self.sequence += 1
        self.dispatches += len(effects.dispatches)
        if self.sequence % self.settings.checkpoint_every == 0:
            self._checkpoint()
        for block, row in self.window.take_touched().items():
            effects.rows[f"{WINDOW_PREFIX}{block}"] = _encode(row)
        effects.decisions = self.journal.take()
        effects.rows[ACCOUNT_KEY] = _encode(self._account_row())
        return effects

    def _apply(self, event: Event) -> None:
        self.clock_ms = max(self.clock_ms, event.at_ms)
        self._expire()
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
                pass

    # Queries

    def _arrived(self, query: Arrived) -> None:
        if query.offset <= self.offsets.queries:
            return
        self.offsets = Offsets(query.offset, self.offsets.completions)
        if self.ledger.is_open_query(query.query_id):
            self._defer(query, 1, "duplicate", "complete or expire the dispatch that is open under this id")
        elif self._is_late(query):
            self._defer(query, 1, "expired", "a later deadline_ms")
        else:
            self._price()
            self._route(query, attempt=1, tried=())
            self.window.put(self.seen, query.quality, query.cost_micros)
            self.seen += 1

    def _is_late(self, query: Arrived) -> bool:
        return query.deadline_ms is not None and query.deadline_ms <= self.clock_ms

    def _price(self) -> None:
        if self.prices and not self.policy.due(self.seen):
            return
        solution = self.policy.solve(self._view())
        self.prices, self.fit = solution.prices, solution.fit
        self._record(Priced, "", seen=self.seen, prices=self.prices, fit=self.fit)

    def _view(self) -> View:
        llms = self.settings.llms
        quality, cost_micros = self.window.newest(self.seen - self.window_from, self.seen)
        return View(
            seen=self.seen,
            window_quality=quality,
            window_cost_micros=cost_micros,
            prior_quality=self.prior.quality,
            prior_cost_micros=self.prior.cost_micros,
            budget_micros=np.array([self.ledger.accounts[llm].budget_micros for llm in llms], dtype=np.float64),
            balance_micros=np.array([self.ledger.available_micros(llm) for llm in llms], dtype=np.float64),
            prices=self.prices or (0.0,) * len(llms),
        )

    def _route(self, query: Arrived, attempt: int, tried: tuple[str, ...]) -> None:
        skipped: list[str] = []
        for i in self.policy.rank(self.seen, query.quality, query.cost_micros, self.prices):
            llm = self.settings.llms[i]
            if llm in tried:
                continue
            reservation = self._reservation(query, i, attempt, tried)
            if self.ledger.reserve(reservation) is Reserve.RESERVED:
                self._dispatch(query, i, reservation, skipped)
                return
            skipped.append(llm)
        if skipped:
            self._defer(query, attempt, "exhausted", f"budget for {', '.join(skipped)}", skipped, tried)
        else:
            self._defer(query, attempt, "priced_out", "lower prices: more budget, or fewer queries", skipped, tried)

    def _reservation(self, query: Arrived, i: int, attempt: int, tried: tuple[str, ...]) -> Reservation:
        deadline_ms = self.clock_ms + self.settings.reservation_ms
        if query.deadline_ms is not None:
            deadline_ms = min(deadline_ms, query.deadline_ms)
        return Reservation(
            dispatch_id=f"{self.partition}-{query.offset}-{attempt}",
            query_id=query.query_id,
            llm=self.settings.llms[i],
            offset=query.offset,
            attempt=attempt,
            reserved_micros=math.ceil(query.cost_micros[i] * self.settings.margins[i]),
            at_ms=self.clock_ms,
            deadline_ms=deadline_ms,
            tried=tried,
        )

    def _dispatch(self, query: Arrived, i: int, reservation: Reservation, skipped: Sequence[str]) -> None:
        self._effects.rows[RESERVATION_PREFIX + reservation.dispatch_id] = _encode(reservation)
        self._effects.dispatches.append(
            Dispatch(
                id=reservation.dispatch_id,
                query_id=query.query_id,
                llm=reservation.llm,
                origin=Origin(self.partition, query.offset),
                attempt=reservation.attempt,
                reserved_micros=reservation.reserved_micros,
                quality=query.quality[i],
                cost_micros=query.cost_micros[i],
                price=self.prices[i],
                deadline_ms=reservation.deadline_ms,
                query=query.query,
            )
        )
        self._routed(
            query,
            reservation.attempt,
            self.policy.reason(self.seen),
            llm=reservation.llm,
            reserved_micros=reservation.reserved_micros,
            deadline_ms=reservation.deadline_ms,
            skipped=tuple(skipped),
            tried=reservation.tried,
        )

    def _defer(
        self,
        query: Arrived,
        attempt: int,
        reason: DeferReason,
        remedy: str,
        skipped: Sequence[str] = (),
        tried: tuple[str, ...] = (),
    ) -> None:
        score, llm = self._best(query)
        self._effects.deferred.append(
            Deferred(
                query_id=query.query_id,
                origin=Origin(self.partition, query.offset),
                attempt=attempt,
                reason=reason,
                remedy=remedy,
                best_llm=llm,
                best_score=score,
                query=query.query,
            )
        )
        self._routed(query, attempt, reason, llm=None, skipped=tuple(skipped), tried=tried)

    def _best(self, query: Arrived) -> tuple[float | None, str | None]:
        if not self.prices or not query.quality:
            return None, None
        scores = [q - c * p for q, c, p in zip(query.quality, query.cost_micros, self.prices, strict=True)]
        best = max(scores)
        return best, self.settings.llms[scores.index(best)]

    def _routed(self, query: Arrived, attempt: int, reason: str, **fields: object) -> None:
        self._record(
            Routed,
            query.query_id,
            query_id=query.query_id,
            offset=query.offset,
            attempt=attempt,
            quality=query.quality,
            cost_micros=query.cost_micros,
            prices=self.prices,
            reason=reason,
            query_deadline_ms=query.deadline_ms,
            **fields,
        )

    # Completions

    def _completed(self, completion: Completed) -> None:
        if completion.offset <= self.offsets.completions:
            return
        self.offsets = Offsets(self.offsets.queries, completion.offset)
        reservation = self.ledger.open.get(completion.dispatch_id)
        if reservation is None:
            self._ignore(completion, "no reservation is open under this dispatch_id: settled, expired or never made")
        elif reservation.llm != completion.llm:
            self._ignore(completion, f"this dispatch went to {reservation.llm}")
        else:
            self._settle(reservation, completion)
            if not completion.ok:
                self._retry(reservation, completion.retry)

    def _settle(self, reservation: Reservation, completion: Completed) -> None:
        spent = completion.cost_micros
        basis: Literal["cost", "usage", "reservation", "none"] = completion.basis
        if spent is None:
            # Unknown is not zero: an answer of unknown cost is booked at what was held for it.
            spent, basis = (reservation.reserved_micros, "reservation") if completion.ok else (0, "none")
        self._close(
            reservation,
            "settled" if completion.ok or spent else "released",
            spent,
            offset=completion.offset,
            basis=basis,
            quality=completion.quality,
            error=completion.error,
        )

    def _retry(self, reservation: Reservation, query: Arrived | None) -> None:
        attempt, tried = reservation.attempt + 1, (*reservation.tried, reservation.llm)
        if query is None:
            self._defer(_gone(reservation), attempt, "failed", "send it again: it has left its topic", tried=tried)
        elif attempt > self.settings.max_attempts:
            self._defer(query, attempt, "failed", f"send it again: {reservation.attempt} attempts failed", tried=tried)
        elif self._is_late(query):
            self._defer(query, attempt, "expired", "a later deadline_ms", tried=tried)
        else:
            self._route(query, attempt, tried)

    def _ignore(self, completion: Completed, reason: str) -> None:
        self._effects.unmatched.append((completion.offset, reason))
        self._record(
            Ignored,
            completion.dispatch_id,
            offset=completion.offset,
            dispatch_id=completion.dispatch_id,
            reason=reason,
        )

    def _expire(self) -> None:
        for reservation in self.ledger.due(self.clock_ms):
            self._close(reservation, "expired", 0, offset=None, basis="none")

    def _close(self, reservation: Reservation, outcome: str, spent_micros: int, **fields: object) -> None:
        overrun_micros = self.ledger.close(reservation, spent_micros)
        self._effects.rows[RESERVATION_PREFIX + reservation.dispatch_id] = None
        self._record(
            Closed,
            reservation.query_id,
            dispatch_id=reservation.dispatch_id,
            query_id=reservation.query_id,
            llm=reservation.llm,
            outcome=outcome,
            reserved_micros=reservation.reserved_micros,
            spent_micros=spent_micros,
            overrun_micros=overrun_micros,
            **fields,
        )

    # The rest

    def _refused(self, event: Refused) -> None:
        queries, completions = self.offsets.queries, self.offsets.completions
        if event.offset <= (queries if event.topic == "queries" else completions):
            return
        if event.topic == "queries":
            self.offsets = Offsets(event.offset, completions)
        else:
            self.offsets = Offsets(queries, event.offset)
        self._record(Rejected, "", topic=event.topic, offset=event.offset, reason=event.reason)

    def _reconfigured(self, config: Configuration) -> None:
        if config == self.config:
            return
        old, self.config = self.config, config
        self.policy: Policy = make_policy(config, self.partition)
        self.ledger.budget(config.budget_micros)
        self.prices, self.fit = (), OBSERVING
        if old is None or _window_shape(old) != _window_shape(config):
            self._new_window()
        self._effects.rows[CONFIGURATION_KEY] = _encode(config)
        self._record(Configured, "", partition=self.partition, config=config)

    def _new_window(self) -> None:
        for block in range(self.window.blocks):
            self._effects.rows[f"{WINDOW_PREFIX}{block}"] = None
        self.window = Window(self.settings.window_queries, len(self.settings.llms))
        self.window_from = self.seen

    def _checkpoint(self) -> None:
        self.ledger.check()
        row, reservations = self._account_row(), list(self.ledger.open.values())
        parts = max(1, math.ceil(len(reservations) / CHECKPOINT_RESERVATIONS))
        for part in range(parts):
            first = part == 0
            self._record(
                Checkpoint,
                "",
                part=part,
                parts=parts,
                row=row if first else None,
                config=self.config if first else None,
                window={block: self.window.block(block) for block in range(self.window.blocks)} if first else {},
                reservations=reservations[part * CHECKPOINT_RESERVATIONS : (part + 1) * CHECKPOINT_RESERVATIONS],
            )

    def _account_row(self) -> AccountRow:
        dispatch_ids = "".join(dispatch.id for dispatch in self._effects.dispatches)
        return AccountRow(
            offsets=self.offsets,
            accounts=self.ledger.accounts,
            prices=dict(zip(self.settings.llms, self.prices, strict=False)),
            fit=self.fit,
            seen=self.seen,
            clock_ms=self.clock_ms,
            sequence=self.sequence,
            decisions=self.journal.count,
            dispatches=self.dispatches,
            head=self.journal.head,
            digest=record_hash(dispatch_ids.encode() + self.journal.head),
            window_from=self.window_from,
        )

    def _record(self, kind: type[Decision], key: str, **fields: object) -> None:
        self.journal.append(kind, key, at_ms=self.clock_ms, **fields)

    @property
    def settings(self) -> Configuration:
        """The configuration in force; the first event of a lane sets it."""
        if self.config is None:
            raise BrokenInvariant("the first event of a lane is Reconfigured")
        return self.config


def _gone(reservation: Reservation) -> Arrived:
    nil = msgspec.Raw(_encode(None))
    return Arrived(reservation.offset, 0, reservation.query_id, [], [], None, nil)


def _window_shape(config: Configuration) -> tuple[object, ...]:
    return config.llms, config.index, config.window_queries
