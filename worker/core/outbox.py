"""What one transaction publishes of what a lane decided: messages, ledger rows, and the decision records. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from worker.contract import sentences
from worker.contract.accounts import Account, AccountKey
from worker.contract.codes import DeferReason, IgnoreCode
from worker.contract.completions import UsableCompletion
from worker.contract.decisions import (
    Cause,
    ChargedAgain,
    Checkpoint,
    Closed,
    Configured,
    Ignored,
    Missed,
    Priced,
    Rejected,
    Routed,
    Switched,
    SwitchState,
)
from worker.contract.messages import (
    FORMAT,
    AccountRow,
    Breaker,
    ClosedDispatch,
    Configuration,
    Deferred,
    Dispatch,
    Origin,
    Reservation,
    WindowBlock,
)
from worker.core.attempts import Attempt
from worker.core.candidates import names_llms, remarks
from worker.core.choice import Chosen, Considered
from worker.core.deferral import best, remedy
from worker.core.events import Arrived, Effects, Refused
from worker.core.journal import Journal, record_hash
from worker.core.ledger import Closing, Ledger
from worker.core.policy import Reason
from worker.core.pricing import Pricing
from worker.core.settlement import Charge

ACCOUNT_KEY = "account"
CONFIGURATION_KEY = "configuration"
BUDGET_PREFIX = "budget/"
RESERVATION_PREFIX = "reservation/"
CLOSED_PREFIX = "closed/"
WINDOW_PREFIX = "window/"

# About 150 bytes each: a checkpoint's records stay near 1 MB.
CHECKPOINT_RESERVATIONS = 5_000

_encode = msgspec.msgpack.Encoder().encode


def account_key(key: AccountKey) -> str:
    """The key of an account's row in the ledger."""
    budget, period = key
    return f"{BUDGET_PREFIX}{period}/{budget}"


class Outbox:
    """The effects of one batch, in the order of its events. Call `begin` before each event."""

    def __init__(self, partition: int, journal: Journal) -> None:
        self.partition = partition
        self._cause = Cause("settings", 0)
        self._at_ms = 0
        self._journal = journal
        self._effects = Effects()

    def begin(self, cause: Cause, at_ms: int) -> None:
        """Another event: its cause, and the lane's clock at it. Every record up to the next event carries them."""
        self._cause, self._at_ms = cause, at_ms

    @property
    def dispatches(self) -> int:
        """How many dispatches there are so far."""
        return len(self._effects.dispatches)

    def digest(self) -> bytes:
        """A hash over the dispatch ids of this batch and the head of the chain."""
        dispatch_ids = "".join(dispatch.id for dispatch in self._effects.dispatches)
        return record_hash(dispatch_ids.encode() + self._journal.head)

    def sealed(self, row: AccountRow, accounts: Iterable[Account], window: Mapping[int, WindowBlock]) -> Effects:
        """The batch with its last rows: the changed accounts, the touched blocks of the window, the account row."""
        self._effects.rows |= {account_key(account.key): _encode(account) for account in accounts}
        self._effects.rows |= {f"{WINDOW_PREFIX}{block}": _encode(content) for block, content in window.items()}
        self._effects.rows[ACCOUNT_KEY] = _encode(row)
        self._effects.decisions = self._journal.take()
        return self._effects

    # Queries

    def dispatch(self, query: Arrived, attempt: Attempt, chosen: Chosen, pricing: Pricing) -> None:
        """A query goes to the LLM that was chosen."""
        i, reservation = chosen.i, chosen.reservation
        self.held(reservation)
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
                charge=chosen.considered.charges[i],
                deadline_ms=reservation.deadline_ms,
                query=query.query,
                tags=query.tags,
            )
        )
        self._routed(query, attempt, pricing, chosen.reason, chosen.considered, chosen)

    def defer(
        self, query: Arrived, attempt: Attempt, reason: DeferReason, pricing: Pricing, considered: Considered
    ) -> None:
        """A query is not served now, for `reason`."""
        routed = self._routed(query, attempt, pricing, reason, considered, None)
        llm, score = best(routed, pricing.config.llms)
        origin, what = Origin(self.partition, query.offset), remedy(routed)
        text = sentences.deferral(reason, what)
        self._effects.deferred.append(
            Deferred(query.query_id, origin, attempt.number, reason, what, llm, score, text, query.query)
        )

    def gone_on(self, reservation: Reservation) -> None:
        """A query waits no longer for this dispatch."""
        self._effects.unanswered.append(reservation)
        self.held(reservation)

    def held(self, reservation: Reservation) -> None:
        """The row of an open reservation, as it is now. Rows are restored in the order of their last writing."""
        key = RESERVATION_PREFIX + reservation.dispatch_id
        self._effects.rows.pop(key, None)
        self._effects.rows[key] = _encode(reservation)

    # Completions

    def closed(
        self, reservation: Reservation, charge: Charge, closing: Closing, answer: UsableCompletion | None = None
    ) -> None:
        """A reservation closed, by this answer; None: it expired."""
        self._effects.rows[RESERVATION_PREFIX + reservation.dispatch_id] = None
        self._keep(closing)
        record = Closed(
            prev=self._journal.head,
            cause=self._cause,
            at_ms=self._at_ms,
            dispatch_id=reservation.dispatch_id,
            query_id=reservation.query_id,
            llm=reservation.llm,
            outcome=charge.outcome,
            reserved_micros=reservation.reserved_micros,
            spent_micros=charge.spent_micros,
            basis=charge.basis,
            overrun_micros=closing.overrun_micros,
            spent_tokens=charge.spent_tokens,
            quality=charge.quality,
            error=charge.error,
            usage=charge.usage,
            remarks=charge.remarks,
            failed=answer is not None and not answer.ok,
            error_class=None if answer is None else answer.error_class,
            retry_after_ms=None if answer is None else answer.retry_after_ms,
        )
        self._effects.closed.append(record)
        self._journal.append(reservation.query_id, record)

    def charged_again(self, dispatch: ClosedDispatch, charge: Charge, closing: Closing, failed: bool) -> None:
        """A completion answered a dispatch that had closed, or said that it `failed`."""
        self._keep(closing)
        late = dispatch.outcome == "expired"
        record = ChargedAgain(
            prev=self._journal.head,
            cause=self._cause,
            at_ms=self._at_ms,
            dispatch_id=dispatch.dispatch_id,
            query_id=dispatch.query_id,
            llm=dispatch.llm,
            reason="late" if late else "paid_twice",
            spent_micros=charge.spent_micros,
            basis=charge.basis,
            replaced_micros=dispatch.booked_micros if late else 0,
            spent_tokens=charge.spent_tokens,
            quality=charge.quality,
            error=charge.error,
            usage=charge.usage,
            remarks=charge.remarks,
            failed=failed,
        )
        self._effects.charged_again.append(record)
        self._journal.append(dispatch.query_id, record)

    def _keep(self, closing: Closing) -> None:
        self._effects.rows[CLOSED_PREFIX + closing.dispatch.dispatch_id] = _encode(closing.dispatch)
        if closing.forgotten is not None:
            self._effects.rows[CLOSED_PREFIX + closing.forgotten] = None

    def ignored(
        self, code: IgnoreCode, dispatch_id: str = "", llm: str | None = None, cost_micros: int | None = None
    ) -> None:
        """A completion changed nothing."""
        record = Ignored(
            prev=self._journal.head,
            cause=self._cause,
            at_ms=self._at_ms,
            code=code,
            dispatch_id=dispatch_id,
            llm=llm or "",
            cost_micros=cost_micros,
        )
        self._effects.ignored.append(record)
        self._journal.append(dispatch_id, record)

    def switched(self, llm: str, state: SwitchState, breaker: Breaker, worker: str | None = None) -> None:
        """An LLM was taken out, is probed, or was taken back. `worker` calls it no more."""
        record = Switched(
            prev=self._journal.head,
            cause=self._cause,
            at_ms=self._at_ms,
            llm=llm,
            state=state,
            until_ms=breaker.until_ms,
            error_class=breaker.error_class,
            worker=worker,
        )
        self._effects.switched.append(record)
        self._journal.append("", record)

    # The rest

    def rejected(self, event: Refused) -> None:
        """A record could not be used."""
        self._effects.refused.append(event)
        why = event.rejection
        record = Rejected(self._journal.head, self._cause, self._at_ms, why.code, why.limit, why.detail)
        self._journal.append("", record)

    def missed(self, first: int) -> None:
        """Records of an input are gone: the offsets from `first` to the number of the cause."""
        record = Missed(self._journal.head, self._cause, self._at_ms, first)
        self._effects.missed.append(record)
        self._journal.append("", record)

    def priced(self, pricing: Pricing) -> None:
        """Prices were solved for."""
        record = Priced(self._journal.head, self._cause, self._at_ms, pricing.seen, pricing.prices, pricing.fit)
        self._journal.append("", record)

    def configured(self, config: Configuration, dropped_blocks: int) -> None:
        """The settings from here on; `dropped_blocks` of the window before have no meaning under them."""
        self._effects.rows |= {f"{WINDOW_PREFIX}{block}": None for block in range(dropped_blocks)}
        self._effects.rows[CONFIGURATION_KEY] = _encode(config)
        head = self._journal.head
        self._journal.append("", Configured(head, self._cause, self._at_ms, FORMAT, self.partition, config))

    def checkpoint(self, row: AccountRow, pricing: Pricing, ledger: Ledger) -> None:
        """The whole state, in as many records as it needs."""
        at_ms = row.clock_ms
        reservations, closed = list(ledger.open.values()), ledger.all_closed()
        parts = max(1, math.ceil(max(len(reservations), len(closed)) / CHECKPOINT_RESERVATIONS))
        window = list(pricing.window.all_blocks().values())
        cause = Cause("checkpoint", self._journal.count)
        for part in range(parts):
            first = part == 0
            record = Checkpoint(
                prev=self._journal.head,
                cause=cause,
                at_ms=at_ms,
                part=part,
                parts=parts,
                row=row if first else None,
                config=pricing.config if first else None,
                window=window if first else [],
                accounts=ledger.all_accounts() if first else [],
                reservations=reservations[part * CHECKPOINT_RESERVATIONS :][:CHECKPOINT_RESERVATIONS],
                closed=closed[part * CHECKPOINT_RESERVATIONS :][:CHECKPOINT_RESERVATIONS],
            )
            self._journal.append("", record)

    def _routed(
        self,
        query: Arrived,
        attempt: Attempt,
        pricing: Pricing,
        reason: Reason | DeferReason,
        considered: Considered,
        chosen: Chosen | None,
    ) -> Routed:
        reservation = None if chosen is None else chosen.reservation
        if attempt.number == 1:
            self._effects.unknown_tags += pricing.draws.unknown(query.tags)
        excluded, odd = pricing.excluded(query), remarks(query.asks, pricing.config)
        record = Routed(
            prev=self._journal.head,
            cause=self._cause,
            at_ms=self._at_ms,
            query_id=query.query_id,
            offset=query.offset,
            attempt=attempt.number,
            quality=query.quality,
            cost_micros=query.cost_micros,
            charges=considered.charges,
            llm=None if reservation is None else reservation.llm,
            reason=reason,
            reserved_micros=0 if reservation is None else reservation.reserved_micros,
            reserved_tokens=0 if reservation is None else reservation.reserved_tokens,
            deadline_ms=0 if reservation is None else reservation.deadline_ms,
            skipped=tuple(considered.lacking),
            lacking=tuple(considered.lacking.values()),
            tried=attempt.tried,
            query_deadline_ms=query.deadline_ms,
            unanswered_at_ms=0 if reservation is None else reservation.unanswered_at_ms,
            out=considered.out,
            above_context_tokens=attempt.above_context_tokens,
            asks=query.asks if excluded or odd or names_llms(query.asks, pricing.config) else None,
            excluded=excluded,
            remarks=odd,
            tags=query.tags,
            probabilities={} if chosen is None else dict(chosen.probabilities),
            input_tokens=query.input_tokens,
        )
        self._journal.append(query.query_id, record)
        return record
