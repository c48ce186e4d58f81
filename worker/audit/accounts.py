"""The auditor's own accounts of one partition, added up from its decision records. Pure.

They share no code with the ledger that they check.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from worker.audit.mismatch import Mismatch
from worker.contract.accounts import Account, Budget, Hold
from worker.contract.decisions import ChargedAgain, Closed, Routed
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import ClosedDispatch, Configuration, Reservation


class Accounts:
    """The account of each budget. What is wrong with a movement is yielded, and the movement is booked all the same."""

    def __init__(self, accounts: Iterable[Account] = ()) -> None:
        self.by_key = {account.key: account for account in accounts}

    def configured(self, budgets: Iterable[Budget]) -> None:
        """The amounts from here on."""
        for budget in budgets:
            key = (budget.name, 0)
            old = self.by_key.get(key, Account(budget.name, budget.resource, 0))
            self._put(replace(old, amount=budget.amount))

    def reserve(self, holds: Iterable[Hold]) -> Iterator[Mismatch]:
        """Hold parts of accounts. Each must have so much left."""
        for hold in holds:
            old = self._of(hold)
            new = self.by_key[hold.key] = replace(old, reserved=old.reserved + hold.amount)
            held = new.reserved + new.spent
            if held > new.amount + new.overrun:
                yield Mismatch(f"takes {hold.budget} to {held} of {new.amount} with {new.overrun} overrun")

    def close(self, reservation: Reservation, record: Closed) -> Iterator[Mismatch]:
        """Give back what a reservation holds, and book what it spends."""
        for hold in reservation.holds:
            old = self._of(hold)
            reserved, spent = old.reserved - hold.amount, old.spent + charged(old, record)
            self._put(replace(old, reserved=reserved, spent=spent))
            if reserved < 0 or spent < 0:
                yield Mismatch(f"takes {hold.budget} below zero: {reserved} reserved, {spent} spent")

    def charge_again(self, dispatch: ClosedDispatch, record: ChargedAgain) -> tuple[Hold, ...]:
        """Book a further answer; returns what each account has spent for the dispatch then."""
        late = dispatch.outcome == "expired"
        booked = []
        for hold in dispatch.booked:
            old = self._of(hold)
            more, replaced = charged(old, record), hold.amount if late else 0
            self._put(
                replace(
                    old,
                    spent=old.spent + more - replaced,
                    late=old.late + (more if late else 0),
                    paid_twice=old.paid_twice + (0 if late else more),
                )
            )
            booked.append(replace(hold, amount=hold.amount - replaced + more))
        return tuple(booked)

    def booked(self, reservation: Reservation, record: Closed) -> tuple[Hold, ...]:
        """What each account has spent for a dispatch that closed."""
        return tuple(replace(hold, amount=charged(self._of(hold), record)) for hold in reservation.holds)

    def _of(self, hold: Hold) -> Account:
        return self.by_key.get(hold.key, Account(hold.budget, "usd", 0, period=hold.period))

    def _put(self, account: Account) -> None:
        overrun = max(0, account.reserved + account.spent - account.amount)
        self.by_key[account.key] = replace(account, overrun=overrun)


def charged(account: Account, record: Closed | ChargedAgain) -> int:
    """What a record charges an account, by its resource. A request counts unless its call never began."""
    if account.resource == "usd":
        return record.spent_micros
    if account.resource == "tokens":
        return record.spent_tokens
    is_unsent = isinstance(record, Closed) and (record.outcome, record.basis) == ("expired", "none")
    return int(account.resource == "requests" and not is_unsent)


def reservation_of(partition: int, config: Configuration | None, record: Routed, llm: str) -> Reservation:
    """The reservation that a decision makes, as the ledger must hold it."""
    return Reservation(
        dispatch_id=str(DispatchId(partition, record.offset, record.attempt)),
        query_id=record.query_id,
        llm=llm,
        offset=record.offset,
        attempt=record.attempt,
        reserved_micros=record.reserved_micros,
        at_ms=record.at_ms,
        deadline_ms=record.deadline_ms,
        tried=record.tried,
        unanswered_at_ms=record.unanswered_at_ms,
        above_context_tokens=record.above_context_tokens,
        tags=record.tags,
        holds=drawn(config, record, llm),
        reserved_tokens=record.reserved_tokens,
    )


def drawn(config: Configuration | None, record: Routed, llm: str) -> tuple[Hold, ...]:
    """What a dispatch must hold: a part of every budget that matches the query for this LLM."""
    amounts = {"usd": record.reserved_micros, "tokens": record.reserved_tokens, "requests": 1, "open": 1}
    return tuple(
        Hold(budget.name, amounts[budget.resource])
        for budget in (() if config is None else config.budgets)
        if (not budget.llms or llm in budget.llms)
        and all(record.tags.get(name) == value for name, value in budget.tags.items())
    )


def token_mismatch(record: Closed | ChargedAgain, reserved_tokens: int) -> Mismatch | None:
    """Tokens must be those of the usage, or as reserved where it says nothing and the call may have used some."""
    unsent = isinstance(record, Closed) and (record.outcome, record.basis) == ("expired", "none")
    refused = record.failed and not record.spent_micros
    expected = reserved_tokens
    if reserved_tokens and record.usage is not None:
        expected = record.usage.all_input_tokens + record.usage.all_output_tokens
    elif unsent or refused:
        expected = 0
    if record.spent_tokens == expected:
        return None
    return Mismatch(f"{type(record).__name__} {record.dispatch_id}", "spent_tokens", record.spent_tokens, expected)
