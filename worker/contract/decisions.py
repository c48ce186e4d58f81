"""The audit: the records on `decisions`, one or more for each event of a lane, hash-chained by `prev`.

As in `messages`, names, units and defaults are the wire contract.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from worker.contract.accounts import Account
from worker.contract.asks import Asks
from worker.contract.codes import (
    MAX_DETAIL_CHARACTERS,
    DeferReason,
    ErrorClass,
    Exclusion,
    IgnoreCode,
    Lack,
    QueryRemark,
    RejectCode,
    Rejection,
)
from worker.contract.completions import Remark
from worker.contract.messages import (
    AccountRow,
    Basis,
    ClosedDispatch,
    Configuration,
    Fit,
    Outcome,
    Reservation,
    WindowBlock,
)
from worker.contract.usage import Usage


class Cause(Struct, frozen=True, gc=False):
    """The event that a decision record follows from. All records of one event have the same cause; no two events do.

    Of `queries` and `completions`, `number` is the offset of the input record. An unanswered dispatch, a tick, new
    settings and a checkpoint come from no topic: their `number` is how many decision records the partition had before.
    """

    kind: Literal["queries", "completions", "unanswered", "tick", "settings", "checkpoint"]
    number: int


class Configured(Struct, frozen=True, tag="configured", tag_field="kind"):
    """The lane's settings from here on; the first record of every chain. `format` is the version of its records."""

    prev: bytes
    cause: Cause
    at_ms: int
    format: int
    partition: int
    config: Configuration


class Priced(Struct, frozen=True, tag="priced", tag_field="kind"):
    """New prices of the budgets, in force from here on (or the old ones kept, with the reason in `fit`)."""

    prev: bytes
    cause: Cause
    at_ms: int
    seen: int
    prices: tuple[float, ...]
    fit: Fit


class Routed(Struct, frozen=True, gc=False, tag="routed", tag_field="kind", omit_defaults=True):
    """One decision. `llm` None means deferred, for `reason`. `charges` are what each LLM would have used of the
    budgets, at their prices: a score is quality - charge. The LLMs `skipped` scored higher but could not reserve:
    `lacking` says of each which budgets lacked how much. `tried` failed or did not answer in earlier attempts. Without
    an answer the dispatch is unanswered from `unanswered_at_ms` on (0: never). The LLMs in `out` scored higher and were
    taken out. An LLM with no more than `above_context_tokens` has refused the query as too long.

    The LLMs `excluded` were no candidates, each for a reason. `asks` is what the query asks of an LLM; it is there if
    the query names LLMs, or if what it needs excludes one. `remarks` are codes of what is odd about it.

    `probabilities` say how likely each LLM was chosen, where the lane explores: 1 in sum, and 0 for an LLM that is not
    in it. An LLM that was drawn in place of the best score has the reason `exploring`.
    """

    prev: bytes
    cause: Cause
    at_ms: int
    query_id: str
    offset: int
    attempt: int
    quality: list[float]
    cost_micros: list[float]
    charges: list[float]
    llm: str | None
    reason: Literal["best_score", "observing", "exploring"] | DeferReason
    reserved_micros: int = 0
    reserved_tokens: int = 0
    deadline_ms: int = 0
    skipped: tuple[str, ...] = ()
    lacking: tuple[tuple[Lack, ...], ...] = ()
    tried: tuple[str, ...] = ()
    query_deadline_ms: int | None = None
    unanswered_at_ms: int = 0
    out: tuple[str, ...] = ()
    above_context_tokens: int = 0
    asks: Asks | None = None
    excluded: dict[str, Exclusion] = {}
    remarks: tuple[QueryRemark, ...] = ()
    tags: dict[str, str] = {}
    probabilities: dict[str, float] = {}
    input_tokens: int = 0


class Rejected(Struct, frozen=True, tag="rejected", tag_field="kind", omit_defaults=True):
    """A record that went to `dead-letters`, and why: the fields of a Rejection. Its cause names the record."""

    prev: bytes
    cause: Cause
    at_ms: int
    code: RejectCode
    limit: int | None = None
    detail: str = ""

    @property
    def rejection(self) -> Rejection:
        """The reason as one value."""
        return Rejection(self.code, self.limit, self.detail)


class Missed(Struct, frozen=True, tag="missed", tag_field="kind"):
    """Records of an input were removed before the lane had read them: the offsets from `first` to the number of its
    cause. How many records stood there is not known, because markers of transactions take offsets too."""

    prev: bytes
    cause: Cause
    at_ms: int
    first: int

    @property
    def offsets(self) -> int:
        """How many records are missing at most."""
        return self.cause.number + 1 - self.first


class Closed(Struct, frozen=True, gc=False, tag="closed", tag_field="kind", omit_defaults=True):
    """A reservation closed: settled (spent), released (an error, nothing spent) or expired (past its deadline).

    Its cause is a completion, or the tick that expired it. `basis` says where the cost came from: stated, priced by
    `usage`, cut to the limit, as reserved because it is unknown or because the call had begun and was not answered, or
    none. `overrun_micros` is what was charged beyond the reservation. `spent_tokens` is what budgets in tokens are
    charged: as the usage says, or as reserved where it says nothing. `remarks` are codes of what was odd about the
    answer. `failed`: the answer is an error, of `error_class`, and the
    provider wants to be left alone for `retry_after_ms`.
    """

    prev: bytes
    cause: Cause
    at_ms: int
    dispatch_id: str
    query_id: str
    llm: str
    outcome: Outcome
    reserved_micros: int
    spent_micros: int
    basis: Basis
    overrun_micros: int = 0
    spent_tokens: int = 0
    quality: float | None = None
    error: str | None = None
    usage: Usage | None = None
    remarks: tuple[Remark, ...] = ()
    failed: bool = False
    error_class: ErrorClass | None = None
    retry_after_ms: int | None = None


SwitchState = Literal["out", "probed", "back"]


class Switched(Struct, frozen=True, tag="switched", tag_field="kind", omit_defaults=True):
    """An LLM was taken out (`out`), is `probed` by the query of the next record, or was taken `back`.

    Until `until_ms` it gets no query, then one. `error_class` says why it was taken out; null: nobody answered.
    `worker` is the inference worker that calls it no more, if a message of that worker is the cause.
    """

    prev: bytes
    cause: Cause
    at_ms: int
    llm: str
    state: SwitchState
    until_ms: int = 0
    error_class: ErrorClass | None = None
    worker: str | None = None


class ChargedAgain(Struct, frozen=True, gc=False, tag="charged_again", tag_field="kind", omit_defaults=True):
    """A further answer to a dispatch that had closed, which costs money and closes nothing.

    `late`: the first answer, after the expiry; it replaces what was booked at the expiry, `replaced_micros`.
    `paid_twice`: an answer after another one; its cost is added. `failed`: it is an error.
    """

    prev: bytes
    cause: Cause
    at_ms: int
    dispatch_id: str
    query_id: str
    llm: str
    reason: Literal["late", "paid_twice"]
    spent_micros: int
    basis: Basis
    replaced_micros: int = 0
    spent_tokens: int = 0
    quality: float | None = None
    error: str | None = None
    usage: Usage | None = None
    remarks: tuple[Remark, ...] = ()
    failed: bool = False


class Ignored(Struct, frozen=True, tag="ignored", tag_field="kind", omit_defaults=True):
    """A completion that changed nothing. `llm` is the LLM that it names, `cost_micros` the cost that it states.

    `unmatched`: the lane never made this dispatch, or has forgotten it. `unknown_llm`: it says that an LLM is
    unavailable that is not configured.
    """

    prev: bytes
    cause: Cause
    at_ms: int
    code: IgnoreCode
    dispatch_id: str
    llm: str
    cost_micros: int | None = None

    @property
    def limit(self) -> int | None:
        """Its dead letter names no limit."""
        return None

    @property
    def detail(self) -> str:
        """The detail that its dead letter has."""
        return self.llm[:MAX_DETAIL_CHARACTERS]


class Checkpoint(Struct, frozen=True, tag="checkpoint", tag_field="kind"):
    """The whole state of the lane at this point, so that a replay can begin here; in `parts` records, `part` from 0.

    The first part carries all but the reservations, also the accounts of all budgets, and its `row.head` is its
    `prev`. `window` lists every block of the window in order.
    """

    prev: bytes
    cause: Cause
    at_ms: int
    part: int
    parts: int
    row: AccountRow | None
    config: Configuration | None
    window: list[WindowBlock]
    accounts: list[Account]
    reservations: list[Reservation]
    closed: list[ClosedDispatch]


Decision = Configured | Priced | Routed | Rejected | Missed | Closed | Switched | ChargedAgain | Ignored | Checkpoint
