"""What the treasury writes for itself: the rows of its ledger, and its decisions, hash-chained by `prev`.

Amounts are whole units of the budget's resource (usd: micro-dollars). An account is one budget in one period.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from worker.contract.budgets import BudgetDefinition
from worker.contract.calendar import Period
from worker.contract.codes import Rejection
from worker.contract.leases import Ask
from worker.contract.token_costs import PriceList

TREASURY_FORMAT = 1


# Rows


class BudgetAccount(Struct, frozen=True, array_like=True, gc=False):
    """One budget's money in one period, over all lanes; key `money/<budget>/<period>`.

    `carried` came from the period before, or went to the next one (below 0: an overrun came, or money went).
    `returned` is below 0 where lanes have drawn more than they gave back. `spent` is what lanes have reported.
    """

    amount: int
    carried: int = 0
    granted: int = 0
    returned: int = 0
    spent: int = 0

    @property
    def left(self) -> int:
        """What the treasury may still grant; below 0 after an overrun, or when the amount was lowered."""
        return self.amount + self.carried - self.granted + self.returned

    @property
    def out(self) -> int:
        """What lanes hold at most: free, reserved, under way, or spent and not yet reported."""
        return self.granted - self.returned - self.spent


class BudgetRow(Struct, frozen=True, array_like=True):
    """One budget; key `budget/<number>`.

    `filed` is the definition in the settings file that was read last (null: a control record made the budget). `period`
    is null once the budget is removed. `recall` is the number of its newest recall. `dry` is the smallest need denied
    since it last had money (null: none), and `told` are the lanes that were told so. `needs_sum` is what
    `needs_count` granted asks needed of it.
    """

    definition: BudgetDefinition
    filed: BudgetDefinition | None
    period: Period | None
    is_scarce: bool = False
    is_paused: bool = False
    recall: int = 0
    dry: int | None = None
    told: tuple[int, ...] = ()
    needs_sum: int = 0
    needs_count: int = 0


class LaneRow(Struct, frozen=True, array_like=True, gc=False):
    """One lane as the treasury knows it; key `lane/<lane>`.

    `offset` is the last applied one in its partition of `asks`; `reports` and `messages` are the sequences of both
    topics. `heard` is the newest recall that it has answered. No recall waits for a lane that `is_silent`. `queries`
    counts all that it has reported.
    """

    offset: int
    reports: int = 0
    messages: int = 0
    heard: int = 0
    is_silent: bool = False
    queries: int = 0


class WaitingAsk(Struct, frozen=True, array_like=True):
    """An ask that waits until a recall has brought back what there is; key `waiting/<number>`, in the order of asks."""

    lane: int
    ask: Ask


class TreasuryRow(Struct, frozen=True, array_like=True):
    """The rest of the treasury; key `treasury`.

    `at_ms` is its time: the newest of the broker's timestamps that it has read. `recall` is the number of the newest
    recall or pause, `control_offset` the last applied one of `control`, `budgets` and `asks` count all that ever were,
    `decisions` and `head` are the length of the chain and the hash of its last record. `removed` are budgets of the
    settings file that a control record has removed, with the value that the file had.
    """

    format: int = TREASURY_FORMAT
    at_ms: int = 0
    recall: int = 0
    control_offset: int = -1
    budgets: int = 0
    asks: int = 0
    decisions: int = 0
    head: bytes = b""
    paused_llms: tuple[str, ...] = ()
    prices: dict[str, PriceList] = {}
    removed: dict[str, BudgetDefinition] = {}


# Decisions. `sent` is the 16-byte BLAKE2b of the items that the event sent to lanes, empty if it sent none: the items
# themselves stand in `grants`.


class ReportTaken(Struct, frozen=True, array_like=True, tag="report", gc=False):
    """A report of a lane was applied. So the chain has the order in which partitions were read."""

    prev: bytes
    at_ms: int
    lane: int
    offset: int
    sent: bytes


class ControlTaken(Struct, frozen=True, array_like=True, tag="control", gc=False):
    """A record of `control` was applied."""

    prev: bytes
    at_ms: int
    offset: int
    sent: bytes


class ControlRejected(Struct, frozen=True, array_like=True, tag="rejected"):
    """A record of `control` changed nothing, and why. Its time may still have opened a period."""

    prev: bytes
    at_ms: int
    offset: int
    rejection: Rejection
    sent: bytes


class SettingsTaken(Struct, frozen=True, array_like=True, tag="settings"):
    """The budgets of the settings file were read."""

    prev: bytes
    at_ms: int
    budgets: tuple[BudgetDefinition, ...]
    sent: bytes


class LanesSilent(Struct, frozen=True, array_like=True, tag="silence", gc=False):
    """Asks have waited long enough for the answers to this recall: lanes that have not answered are silent."""

    prev: bytes
    at_ms: int
    recall: int
    sent: bytes


class AgainSaid(Struct, frozen=True, array_like=True, tag="publish", gc=False):
    """Lanes were told which budgets have money again."""

    prev: bytes
    at_ms: int
    sent: bytes


class PeriodBegun(Struct, frozen=True, array_like=True, tag="period"):
    """A period of a budget begins with this money, before the event that follows.

    `skipped` periods had no event. With `carry_over`, their amounts are in `carried` too.
    """

    prev: bytes
    at_ms: int
    budget: int
    period: Period
    amount: int
    carried: int
    skipped: int


class AccountEnded(Struct, frozen=True, array_like=True, tag="ended", gc=False):
    """A period that is over has all its money back, spent or carried on. Its row is deleted."""

    prev: bytes
    at_ms: int
    budget: int
    period: int
    account: BudgetAccount


class LateBooked(Struct, frozen=True, array_like=True, tag="late", gc=False):
    """A cost of an account that had ended was reported (below 0: less than what was booked before). `carried` is what
    that brought into the open period: below 0 if that period pays it, 0 without `carry_over`."""

    prev: bytes
    at_ms: int
    budget: int
    period: int
    spent: int
    carried: int


TreasuryDecision = (
    ReportTaken
    | ControlTaken
    | ControlRejected
    | SettingsTaken
    | LanesSilent
    | AgainSaid
    | PeriodBegun
    | AccountEnded
    | LateBooked
)

decode_treasury_decision = msgspec.msgpack.Decoder(TreasuryDecision).decode
