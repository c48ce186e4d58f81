"""The rows of a lane's purse in its ledger: leased money by budget and period, beliefs about budgets, parked queries.

Each account has a row of its own: a row with the accounts of all budgets would be written with every transaction.
"""

from __future__ import annotations

from msgspec import Struct

from worker.contract.budgets import BudgetDefinition
from worker.contract.calendar import Period
from worker.contract.leases import Need
from worker.contract.token_costs import PriceList


class LaneAccount(Struct, frozen=True, array_like=True, gc=False):
    """One budget's money of one period in one lane; key `money/<budget>/<period>`.

    `unreported` is the part of `spent` that no report has told yet. `spent` can be below 0 where a late cost corrects
    a dispatch whose account had ended before.
    """

    granted: int = 0
    returned: int = 0
    reserved: int = 0
    spent: int = 0
    unreported: int = 0

    @property
    def free(self) -> int:
        """What may still be reserved."""
        return self.granted - self.returned - self.reserved - self.spent


class LaneBudget(Struct, frozen=True, array_like=True):
    """What a lane believes of one budget; key `lease/<budget>`.

    `period` is null once the budget is removed. `dry` is the smallest need that was denied (null: none). `block` is the
    last block that the lane was given, and `told_low` whether it has asked for another.
    """

    definition: BudgetDefinition
    period: Period | None
    is_scarce: bool = False
    is_paused: bool = False
    dry: int | None = None
    block: int = 0
    told_low: bool = False


class ParkedQuery(Struct, frozen=True, array_like=True):
    """A query that waits for its grant; key `parked/<ask>`.

    `ask` is the number of its ask for `llm`, `refused` are the LLMs that were denied to it. After `limit_ms` it waits
    no longer. `heard_messages` counts the messages of the treasury that the lane had applied when it asked.
    """

    ask: int
    query_id: str
    offset: int
    attempt: int
    llm: str
    needs: tuple[Need, ...]
    refused: tuple[str, ...]
    limit_ms: int
    heard_messages: int


class PurseRow(Struct, frozen=True, array_like=True):
    """The rest of a purse; key `purse`.

    `offset` is the last applied one in `grants`; `messages` and `reports` are the sequences of both topics, and `asks`
    is the newest ask's number. `heard` is the newest recall applied. `queries` were seen since the last report, which
    was made at `reported_ms`. `is_ready`: the treasury has said what budgets there are. `treasury_is_silent`: a
    query has waited for its whole limit, and nothing at all has come since.
    """

    offset: int = -1
    messages: int = 0
    reports: int = 0
    asks: int = 0
    heard: int = 0
    queries: int = 0
    reported_ms: int = 0
    is_ready: bool = False
    treasury_is_silent: bool = False
    paused_llms: tuple[str, ...] = ()
    prices: dict[str, PriceList] = {}
