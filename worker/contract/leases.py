"""What lanes and the treasury say to each other, on `asks` and `grants`: money as leases of a budget.

Partition p of both topics belongs to lane p. Each writer numbers its messages 1, 2, 3, ... A reader that misses a
number stops as on a broken ledger. Amounts are whole units of the budget's resource (usd: micro-dollars). Budgets have
numbers that are never used again. The messages are arrays, because lanes write thousands of them a second.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from worker.contract.budgets import BudgetDefinition, Name
from worker.contract.calendar import Period
from worker.contract.token_costs import PriceList

Number = Annotated[int, Meta(ge=0, le=2**53)]
Positive = Annotated[int, Meta(ge=1, le=2**53)]
Signed = Annotated[int, Meta(ge=-(2**53), le=2**53)]

# `dry`: the budgets named have not enough, wherever it is. `too_large`: no money that can come back would be enough.
DenialReason = Literal["dry", "paused", "too_large"]


# From a lane to the treasury


class Need(Struct, frozen=True, array_like=True, gc=False):
    """What a query needs of one budget."""

    budget: Number
    amount: Number


class Ask(Struct, frozen=True, array_like=True, gc=False):
    """A parked query asks for the whole need of every budget that it matches with one LLM. `number` only grows."""

    number: Positive
    llm: Name
    needs: tuple[Need, ...]


class Moved(Struct, frozen=True, array_like=True, gc=False):
    """What moved in one account of the lane since its last report. `returned` below 0 was drawn: the lane overspent."""

    budget: Number
    period: Number
    spent: Signed
    returned: Signed


class LaneReport(Struct, frozen=True, array_like=True):
    """All that a lane has not yet told the treasury; it is applied in the order accounts, heard, asks.

    `heard` is the newest recall that the lane has applied. `queries` counts queries since the last report. `low` are
    budgets of which the lane would like another block.
    """

    sequence: Positive
    heard: Number
    queries: Number = 0
    accounts: tuple[Moved, ...] = ()
    asks: tuple[Ask, ...] = ()
    low: tuple[Number, ...] = ()


# From the treasury to a lane


class Granted(Struct, frozen=True, array_like=True, tag="granted", gc=False):
    """Money for the ask with this number; 0: a block that nobody asked for by number."""

    ask: Number
    entries: tuple[GrantEntry, ...]


class GrantEntry(Struct, frozen=True, array_like=True, gc=False):
    """Money of one account, and the mode of its budget."""

    budget: Number
    period: Number
    amount: Number
    is_scarce: bool


class Denied(Struct, frozen=True, array_like=True, tag="denied", gc=False):
    """No money for the ask with this number. Each budget in `short` has less than the need named."""

    ask: Positive
    reason: DenialReason
    short: tuple[Shortage, ...] = ()


class Shortage(Struct, frozen=True, array_like=True, gc=False):
    """A need that a budget cannot meet in a period."""

    budget: Number
    period: Number
    need: Number


class PeriodOpened(Struct, frozen=True, array_like=True, tag="opened"):
    """A period of a budget begins, with plenty. `definition` is there for a budget that is new."""

    budget: Number
    period: Period
    definition: BudgetDefinition | None = None


class BudgetClosed(Struct, frozen=True, array_like=True, tag="closed", gc=False):
    """A budget is removed."""

    budget: Number


class Recalled(Struct, frozen=True, array_like=True, tag="recall", gc=False):
    """The budget is scarce: its free money goes back, now and whenever some becomes free. The lane answers `number`."""

    budget: Number
    number: Positive


class MoneyIsBack(Struct, frozen=True, array_like=True, tag="again", gc=False):
    """The budget may have money again: what was denied may be asked for."""

    budget: Number


class BudgetPaused(Struct, frozen=True, array_like=True, tag="paused", gc=False):
    """Nothing may be reserved of the budget. The lane answers `number` as that of a recall."""

    budget: Number
    number: Positive


class BudgetResumed(Struct, frozen=True, array_like=True, tag="resumed", gc=False):
    """The budget is paused no longer."""

    budget: Number


class LlmsPaused(Struct, frozen=True, array_like=True, tag="llms"):
    """All LLMs that are paused from here on."""

    llms: tuple[Name, ...]


class LlmPriced(Struct, frozen=True, array_like=True, tag="priced"):
    """An LLM costs this from here on. Open reservations keep what they hold."""

    llm: Name
    price_list: PriceList


class BudgetStanding(Struct, frozen=True, array_like=True):
    """One budget as a new lane finds it."""

    budget: Number
    definition: BudgetDefinition
    period: Period
    is_scarce: bool
    is_paused: bool


class Standings(Struct, frozen=True, array_like=True, tag="state"):
    """All that a new lane has to know. It holds nothing yet, so it has applied every recall up to `heard`."""

    heard: Number
    budgets: tuple[BudgetStanding, ...]
    paused_llms: tuple[Name, ...]
    prices: dict[Name, PriceList]


Item = (
    Granted
    | Denied
    | PeriodOpened
    | BudgetClosed
    | Recalled
    | MoneyIsBack
    | BudgetPaused
    | BudgetResumed
    | LlmsPaused
    | LlmPriced
    | Standings
)


class GrantMessage(Struct, frozen=True, array_like=True):
    """What the treasury says to one lane in one transaction: items to apply in this order. `at_ms` is its time."""

    sequence: Positive
    at_ms: Number
    items: tuple[Item, ...]


decode_report = msgspec.msgpack.Decoder(LaneReport).decode
decode_grants = msgspec.msgpack.Decoder(GrantMessage).decode
