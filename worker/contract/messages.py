"""Every message that Tollgate reads or writes, as frozen types. Names, units and defaults are the wire contract.

Money is integer micro-dollars (`_micros`), time is integer milliseconds since the epoch (`_ms`), quality is in [0, 1].
Lists of `quality`, `cost_micros` and `prices` run over the LLMs in the order of the last `Configured` record.
JSON Schemas in schemas/ are generated from this module. Types that a lane keeps by the hundred thousand hold nothing
that could refer back to them, and are left out of Python's garbage collection (`gc=False`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from worker.contract.codes import (
    MAX_DETAIL_CHARACTERS,
    CostWord,
    DeferReason,
    ErrorClass,
    FitCode,
    IgnoreCode,
    RejectCode,
    Rejection,
    Remedy,
)

Count = Annotated[int, Meta(ge=0, le=2**53)]
Identity = Annotated[str, Meta(min_length=1, max_length=256)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]

MAX_TOKENS = 100_000_000
Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]

# A lane keeps so many estimates in memory; more would be refused where the record is read.
MAX_WINDOW_QUERIES = 100_000

# The version of the records on `ledger` and `decisions`. The first record of a chain and every account row carry it.
FORMAT = 1


# Messages from outside. Unknown fields are refused, so that a misspelt field is a dead letter and not a surprise.


class Query(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One LLM query on `queries`. It needs an `embedding`, a `text` or a `body`.

    `embedding` is little-endian float16 or float32 bytes of the index's dimension (base64 in JSON), or a list of
    numbers. `body` is an OpenAI chat-completions request, passed on unchanged; its last user message is the text.
    `deadline_ms` is the time after which an answer is worth nothing. `parameters` are passed on unchanged.
    """

    id: Identity | None = None
    text: str | None = None
    embedding: bytes | list[float] | None = None
    body: dict[str, Any] | None = None
    input_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None
    deadline_ms: Count | None = None
    parameters: dict[str, Any] | None = None


class Completion(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an inference worker says of a dispatch, on `completions`, in the partition `origin_partition`.

    The cost is `cost_micros`, or `usage` as the provider returned it, priced with the configured price list; neither
    means unknown, never zero. An error that cost money may carry it too.

    `cost` says whether the cost is known, zero or unknown. `error_class` says why an error has no answer, and
    `retry_after_ms` when the provider wants to be asked again. `model` is the model that answered, as the provider
    names it. `remarks` are codes of what was odd.
    """

    dispatch_id: Identity
    origin_partition: Count
    llm: str
    status: Literal["ok", "error"]
    cost_micros: int | None = None
    usage: dict[str, Any] | None = None
    quality: Share | None = None
    error: str | None = None
    cost: CostWord | None = None
    error_class: ErrorClass | None = None
    retry_after_ms: Count | None = None
    model: str | None = None
    remarks: tuple[str, ...] = ()


# What Tollgate publishes.


class Origin(Struct, frozen=True, gc=False):
    """Where a query stood in `queries`."""

    partition: int
    offset: int


class Dispatch(Struct, frozen=True, gc=False):
    """One query sent to one LLM, on `dispatch.<llm>`. `id` is `<partition>-<offset>-<attempt>`."""

    id: str
    query_id: str
    llm: str
    origin: Origin
    attempt: int
    reserved_micros: int
    quality: float
    cost_micros: int
    price: float
    deadline_ms: int
    query: Raw


class Deferred(Struct, frozen=True):
    """A query that is not served now, on `deferred`. `attempt` is the attempt that found no LLM (1: never dispatched).

    `remedy` says what would change it. `best_llm` is the best LLM at the prices of that moment, with its score. `text`
    says reason and remedy to people; its wording may change at any time. `query` is nil if it has left its topic.
    """

    query_id: str
    origin: Origin
    attempt: int
    reason: DeferReason
    remedy: Remedy
    best_llm: str | None
    best_score: float | None
    text: str
    query: Raw


# The ledger topic: an `account` row, a `configuration` row (of type Configuration), a `reservation/<dispatch id>` row
# while it is open, and `window/<block>` rows.


class Account(Struct, frozen=True, gc=False):
    """One LLM's money in one partition. Always: spent + reserved <= budget + overrun, and none is negative.

    `overrun_micros` is what is spent or reserved beyond the budget: because providers charged more than was reserved,
    or because the budget was lowered. What a lowered budget leaves uncovered of a reservation goes when that closes.
    """

    budget_micros: int
    reserved_micros: int = 0
    spent_micros: int = 0
    overrun_micros: int = 0

    @property
    def available_micros(self) -> int:
        """What may still be reserved: budget - spent - reserved, at least 0."""
        return max(0, self.budget_micros - self.spent_micros - self.reserved_micros)


class Offsets(Struct, frozen=True, gc=False):
    """The last applied offset of each input; -1 before the first."""

    queries: int = -1
    completions: int = -1


class Fit(Struct, frozen=True):
    """How the prices in force were found. `status`: `converged`, `kept` (the fit failed; old prices stay), `observing`
    (no prices yet). `gap` is the share of the dual objective that the certificate leaves open. `code` says how the
    solver ended, or why it found nothing."""

    status: Literal["observing", "converged", "kept"]
    objective: float
    gap: float
    iterations: int
    code: FitCode


class AccountRow(Struct, frozen=True):
    """The state of one lane but for its open reservations, its window and its configuration; key `account`.

    `format` is the version of these records (FORMAT). `seen` counts first-time queries priced; `sequence` counts
    transactions; `head` is the hash of the last decision record; `decisions` and `dispatches` count all ever written.
    `digest` is over this transaction's dispatch ids and `head`, so that a torn transaction would be seen. The window
    holds the estimates since `seen` was `window_from`.
    """

    format: int
    offsets: Offsets
    accounts: dict[str, Account]
    prices: dict[str, float]
    fit: Fit
    seen: int
    clock_ms: int
    sequence: int
    decisions: int
    dispatches: int
    head: bytes
    digest: bytes
    window_from: int


class Reservation(Struct, frozen=True, gc=False):
    """Money held for one open dispatch; key `reservation/<dispatch_id>`, tombstoned when it closes."""

    dispatch_id: str
    query_id: str
    llm: str
    offset: int
    attempt: int
    reserved_micros: int
    at_ms: int
    deadline_ms: int
    tried: tuple[str, ...] = ()


class WindowBlock(Struct, frozen=True):
    """Estimates of recent queries, so that a restored lane re-solves as the old one would; key `window/<block>`.

    `quality` is little-endian float32 [rows, LLMs], `cost_micros` little-endian int64; rows in the ring's order.
    """

    quality: bytes
    cost_micros: bytes


# The audit: one record or more for each event of a lane, hash-chained by `prev`.


class Cause(Struct, frozen=True, gc=False):
    """The event that a decision record follows from. All records of one event have the same cause; no two events do.

    Of `queries` and `completions`, `number` is the offset of the input record. A tick, new settings and a checkpoint
    come from no topic: their `number` is how many decision records the partition had before.
    """

    kind: Literal["queries", "completions", "tick", "settings", "checkpoint"]
    number: int


class Configuration(Struct, frozen=True, omit_defaults=True):
    """All settings that a decision depends on, as one partition sees them (budgets already split)."""

    llms: tuple[str, ...]
    budget_micros: dict[str, int]
    margins: tuple[float, ...]
    policy: str
    horizon_queries: int
    horizon_floor_queries: int
    resolve_every_queries: int
    window_queries: Annotated[int, Meta(ge=1, le=MAX_WINDOW_QUERIES)]
    observe_share: float
    max_attempts: int
    reservation_ms: int
    checkpoint_every: int
    seed: int
    index: str


class Configured(Struct, frozen=True, tag="configured", tag_field="kind"):
    """The lane's settings from here on; the first record of every chain. `format` is the version of its records."""

    prev: bytes
    cause: Cause
    at_ms: int
    format: int
    partition: int
    config: Configuration


class Priced(Struct, frozen=True, tag="priced", tag_field="kind"):
    """New prices in force from here on (or the old ones kept, with the reason in `fit`)."""

    prev: bytes
    cause: Cause
    at_ms: int
    seen: int
    prices: tuple[float, ...]
    fit: Fit


class Routed(Struct, frozen=True, gc=False, tag="routed", tag_field="kind", omit_defaults=True):
    """One decision. `llm` None means deferred, for `reason`. The LLMs `skipped` scored higher but could not reserve:
    `lacking_micros` is what the budget of each lacked. `tried` failed in earlier attempts."""

    prev: bytes
    cause: Cause
    at_ms: int
    query_id: str
    offset: int
    attempt: int
    quality: list[float]
    cost_micros: list[int]
    prices: tuple[float, ...]
    llm: str | None
    reason: Literal["best_score", "observing"] | DeferReason
    reserved_micros: int = 0
    deadline_ms: int = 0
    skipped: tuple[str, ...] = ()
    lacking_micros: tuple[int, ...] = ()
    tried: tuple[str, ...] = ()
    query_deadline_ms: int | None = None


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


class Closed(Struct, frozen=True, gc=False, tag="closed", tag_field="kind", omit_defaults=True):
    """A reservation closed: settled (spent), released (an error, nothing spent) or expired (past its deadline).

    Its cause is a completion, or the tick that expired it. `basis` says where the cost came from. `overrun_micros` is
    what was charged beyond the reservation.
    """

    prev: bytes
    cause: Cause
    at_ms: int
    dispatch_id: str
    query_id: str
    llm: str
    outcome: Literal["settled", "released", "expired"]
    reserved_micros: int
    spent_micros: int
    basis: Literal["cost", "usage", "reservation", "none"]
    overrun_micros: int = 0
    quality: float | None = None
    error: str | None = None


class Ignored(Struct, frozen=True, tag="ignored", tag_field="kind"):
    """A completion that changed nothing. `llm` is the LLM that it names.

    `unmatched`: no reservation is open under this id. `other_llm`: the dispatch went to another LLM. `cost_micros` is
    the cost that it tells and that no account has, None if it tells none.
    """

    prev: bytes
    cause: Cause
    at_ms: int
    code: IgnoreCode
    dispatch_id: str
    llm: str
    cost_micros: int | None = None
    basis: Literal["cost", "usage", "none"] = "none"

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

    The first part carries all but the reservations, and its `row.head` is its `prev`. `window` lists every block of
    the window in order.
    """

    prev: bytes
    cause: Cause
    at_ms: int
    part: int
    parts: int
    row: AccountRow | None
    config: Configuration | None
    window: list[WindowBlock]
    reservations: list[Reservation]


Decision = Configured | Priced | Routed | Rejected | Closed | Ignored | Checkpoint
