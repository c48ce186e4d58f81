"""What one transaction publishes of what a lane decided: messages, ledger rows, and the decision records. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from worker.contract.messages import (
    AccountRow,
    Checkpoint,
    Closed,
    Configuration,
    Configured,
    DeferReason,
    Deferred,
    Dispatch,
    Ignored,
    Origin,
    Priced,
    Rejected,
    Reservation,
    Routed,
    WindowBlock,
)
from worker.core.deferral import best, remedy
from worker.core.events import Arrived, Completed, Effects, Refused
from worker.core.journal import Journal, record_hash
from worker.core.policy import Reason
from worker.core.pricing import Pricing
from worker.core.settlement import Charge

ACCOUNT_KEY = "account"
CONFIGURATION_KEY = "configuration"
RESERVATION_PREFIX = "reservation/"
WINDOW_PREFIX = "window/"

# About 150 bytes each: a checkpoint's records stay near 1 MB.
CHECKPOINT_RESERVATIONS = 5_000

_encode = msgspec.msgpack.Encoder().encode


class Outbox:
    """The effects of one batch as they come about; `at_ms` is the lane's clock at the event being applied."""

    def __init__(self, partition: int, journal: Journal, at_ms: int) -> None:
        self.partition = partition
        self.at_ms = at_ms
        self._journal = journal
        self._effects = Effects()

    @property
    def dispatches(self) -> int:
        """How many dispatches there are so far."""
        return len(self._effects.dispatches)

    def digest(self) -> bytes:
        """A hash over the dispatch ids of this batch and the head of the chain."""
        dispatch_ids = "".join(dispatch.id for dispatch in self._effects.dispatches)
        return record_hash(dispatch_ids.encode() + self._journal.head)

    def sealed(self, row: AccountRow, window: Mapping[int, WindowBlock]) -> Effects:
        """The batch with its last rows: the touched blocks of the window, then the account row."""
        self._effects.rows |= {f"{WINDOW_PREFIX}{block}": _encode(content) for block, content in window.items()}
        self._effects.rows[ACCOUNT_KEY] = _encode(row)
        self._effects.decisions = self._journal.take()
        return self._effects

    # Queries

    def dispatch(
        self, query: Arrived, i: int, reservation: Reservation, pricing: Pricing, skipped: Sequence[str]
    ) -> None:
        """A query goes to LLM number `i`, on this reservation; `skipped` scored higher but could not reserve."""
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
                price=pricing.prices[i],
                deadline_ms=reservation.deadline_ms,
                query=query.query,
            )
        )
        self._routed(
            query, reservation.attempt, pricing.prices, pricing.reason(), skipped, reservation.tried, reservation
        )

    def defer(
        self,
        query: Arrived,
        attempt: int,
        reason: DeferReason,
        pricing: Pricing,
        skipped: Sequence[str] = (),
        tried: tuple[str, ...] = (),
    ) -> None:
        """A query is not served now, for `reason`."""
        routed = self._routed(query, attempt, pricing.prices, reason, skipped, tried, None)
        llm, score = best(routed, pricing.config.llms)
        origin = Origin(self.partition, query.offset)
        self._effects.deferred.append(
            Deferred(query.query_id, origin, attempt, reason, remedy(routed), llm, score, query.query)
        )

    # Completions

    def closed(self, reservation: Reservation, charge: Charge, overrun_micros: int, offset: int | None) -> None:
        """A reservation closed, by the completion at `offset` or because it expired."""
        self._effects.rows[RESERVATION_PREFIX + reservation.dispatch_id] = None
        record = Closed(
            prev=self._journal.head,
            at_ms=self.at_ms,
            offset=offset,
            dispatch_id=reservation.dispatch_id,
            query_id=reservation.query_id,
            llm=reservation.llm,
            outcome=charge.outcome,
            reserved_micros=reservation.reserved_micros,
            spent_micros=charge.spent_micros,
            basis=charge.basis,
            overrun_micros=overrun_micros,
            quality=charge.quality,
            error=charge.error,
        )
        self._effects.closed.append(record)
        self._journal.append(reservation.query_id, record)

    def ignored(self, completion: Completed, reason: str) -> None:
        """A completion changed nothing."""
        self._effects.unmatched.append((completion.offset, reason))
        dispatch_id = completion.dispatch_id
        record = Ignored(self._journal.head, self.at_ms, completion.offset, dispatch_id, reason)
        self._journal.append(dispatch_id, record)

    # The rest

    def rejected(self, event: Refused) -> None:
        """A record could not be used."""
        self._effects.refused.append(event)
        record = Rejected(self._journal.head, self.at_ms, event.topic, event.offset, event.reason)
        self._journal.append("", record)

    def priced(self, pricing: Pricing) -> None:
        """Prices were solved for."""
        record = Priced(self._journal.head, self.at_ms, pricing.seen, pricing.prices, pricing.fit)
        self._journal.append("", record)

    def configured(self, config: Configuration, dropped_blocks: int) -> None:
        """The settings from here on; `dropped_blocks` of the window before have no meaning under them."""
        self._effects.rows |= {f"{WINDOW_PREFIX}{block}": None for block in range(dropped_blocks)}
        self._effects.rows[CONFIGURATION_KEY] = _encode(config)
        self._journal.append("", Configured(self._journal.head, self.at_ms, self.partition, config))

    def checkpoint(self, row: AccountRow, pricing: Pricing, reservations: Sequence[Reservation]) -> None:
        """The whole state, in as many records as it needs."""
        parts = max(1, math.ceil(len(reservations) / CHECKPOINT_RESERVATIONS))
        window = pricing.window.all_blocks()
        for part in range(parts):
            first = part == 0
            record = Checkpoint(
                prev=self._journal.head,
                at_ms=self.at_ms,
                part=part,
                parts=parts,
                row=row if first else None,
                config=pricing.config if first else None,
                window=window if first else {},
                reservations=list(reservations[part * CHECKPOINT_RESERVATIONS :][:CHECKPOINT_RESERVATIONS]),
            )
            self._journal.append("", record)

    def _routed(
        self,
        query: Arrived,
        attempt: int,
        prices: tuple[float, ...],
        reason: Reason | DeferReason,
        skipped: Sequence[str],
        tried: tuple[str, ...],
        reservation: Reservation | None,
    ) -> Routed:
        record = Routed(
            prev=self._journal.head,
            at_ms=self.at_ms,
            query_id=query.query_id,
            offset=query.offset,
            attempt=attempt,
            quality=query.quality,
            cost_micros=query.cost_micros,
            prices=prices,
            llm=None if reservation is None else reservation.llm,
            reason=reason,
            reserved_micros=0 if reservation is None else reservation.reserved_micros,
            deadline_ms=0 if reservation is None else reservation.deadline_ms,
            skipped=tuple(skipped),
            tried=tried,
            query_deadline_ms=query.deadline_ms,
        )
        self._journal.append(query.query_id, record)
        return record
