"""Budgets and their accounts, as frozen types of the wire contract.

Amounts are whole units of the budget's resource: micro-dollars, tokens, requests, or dispatches that are not answered
yet. So the names here end with no unit.
"""

from __future__ import annotations

from msgspec import Struct

from worker.contract.codes import Resource


class Budget(Struct, frozen=True, omit_defaults=True):
    """A limit, as one partition sees it: an amount of a resource, over the LLMs and the queries that it matches.

    It matches a query for an LLM if `llms` names the LLM, or is empty, and if the query carries all `tags`.
    """

    name: str
    resource: Resource
    amount: int
    llms: tuple[str, ...] = ()
    tags: dict[str, str] = {}


# Which account: the name of a budget, and one of its periods. A budget without periods has one, 0.
AccountKey = tuple[str, int]


class Account(Struct, frozen=True, gc=False, omit_defaults=True):
    """One budget in one period, in one partition; key `budget/<period>/<budget>` in the ledger.

    Always: spent + reserved <= amount + overrun, and none of them is negative. `overrun` is what is spent or reserved
    beyond the amount: because providers charged more than was reserved, or because the amount was lowered. What a
    lowered amount leaves uncovered of a reservation goes when that closes. `late` and `paid_twice` are the parts of
    `spent` that were booked after a dispatch had closed: for an answer after the expiry, and for each further answer.
    """

    budget: str
    resource: Resource
    amount: int
    reserved: int = 0
    spent: int = 0
    overrun: int = 0
    late: int = 0
    paid_twice: int = 0
    period: int = 0

    @property
    def key(self) -> AccountKey:
        """Which account this is."""
        return self.budget, self.period

    @property
    def available(self) -> int:
        """What may still be reserved: amount - spent - reserved, at least 0."""
        return max(0, self.amount - self.spent - self.reserved)


class Hold(Struct, frozen=True, gc=False, omit_defaults=True):
    """A part of one account: what an open reservation holds of it, or what a closed dispatch has spent of it."""

    budget: str
    amount: int
    period: int = 0

    @property
    def key(self) -> AccountKey:
        """Which account it is a part of."""
        return self.budget, self.period
