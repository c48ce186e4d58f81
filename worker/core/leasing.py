"""What a lane asks of its purse, and the purse's answers. Pure; internal to one process."""

from __future__ import annotations

from typing import Literal, NamedTuple

from worker.contract.leases import Need
from worker.contract.purse_rows import ParkedQuery

# `exhausted`: every LLM lacks money, and asking does not help. `no_grant`: asking could have helped, but the query
# waits no longer. `treasury_silent`: as `no_grant`, because nothing comes from the treasury.
RefusalReason = Literal["exhausted", "no_grant", "treasury_silent"]


class Option(NamedTuple):
    """One LLM that may answer a query, with what it needs of every matching budget that is open, 0 included."""

    llm: str
    needs: tuple[Need, ...]


class Wish(NamedTuple):
    """A query with the LLMs that may answer it, the best first. It is parked until `limit_ms` at most.

    `refused` are LLMs that the treasury has denied to it: a query asks for an LLM once.
    """

    query_id: str
    offset: int
    attempt: int
    options: tuple[Option, ...]
    limit_ms: int
    refused: tuple[str, ...] = ()


class Entry(NamedTuple):
    """Money of one account, in whole units of the budget's resource."""

    budget: int
    period: int
    amount: int


class Reserved(NamedTuple):
    """The query can be dispatched to this LLM: every entry is reserved."""

    llm: str
    entries: tuple[Entry, ...]


class Parked(NamedTuple):
    """The query waits for the answer to this ask."""

    ask: int


class Refused(NamedTuple):
    """The query cannot be served. `short` has the budgets that refused each LLM."""

    reason: RefusalReason
    short: dict[str, tuple[int, ...]]


class HandedBack(NamedTuple):
    """A parked query that has its answer, or has waited for its whole limit: it must be served now.

    If `first` is an LLM that still may answer and is covered, the query goes to it; else it is served from the top.
    """

    query: ParkedQuery
    first: str | None
    may_ask: bool


class Closing(NamedTuple):
    """How one entry of a reservation ends: so much was reserved, and so much of the resource was used.

    Of `open` nothing is used, so closing gives it back.
    """

    budget: int
    period: int
    reserved: int
    spent: int
