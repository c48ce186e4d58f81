"""The messages that Tollgate reads and writes, as frozen types; `decisions` has those of the audit. Names, units and
defaults are the wire contract.

Money is integer micro-dollars (`_micros`), time is integer milliseconds since the epoch (`_ms`), quality is in [0, 1].
Lists of `quality`, `cost_micros` and `charges` run over the LLMs in the order of the last `Configured` record, `prices`
over its budgets. Amounts of a budget are whole units of its resource: micro-dollars, tokens, requests, or dispatches
that are not answered yet.
JSON Schemas in schemas/ are generated from this module. Types that a lane keeps by the hundred thousand hold nothing
that could refer back to them, and are left out of Python's garbage collection (`gc=False`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from worker.contract.accounts import Budget, Hold
from worker.contract.codes import CostWord, DeferReason, Dialect, ErrorClass, Feature, FitCode, Remedy
from worker.contract.kinds import KindCounts, Kinds
from worker.contract.token_costs import PriceList
from worker.contract.usage import MAX_TOKENS

Count = Annotated[int, Meta(ge=0, le=2**53)]
Identity = Annotated[str, Meta(min_length=1, max_length=256)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
LlmNames = Annotated[tuple[Identity, ...], Meta(max_length=1_000)]

Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]

# A lane keeps so many estimates in memory; more would be refused where the record is read.
MAX_WINDOW_QUERIES = 100_000

# The version of the records on `ledger` and `decisions`. The first record of a chain and every account row carry it.
FORMAT = 2

EmbeddingDtype = Literal["float16", "float32"]
Outcome = Literal["settled", "released", "expired"]
Basis = Literal["cost", "usage", "limit", "reservation", "unanswered", "none"]
# What is done with a request that names a model that is no LLM of the settings.
UnknownModel = Literal["ignore", "refuse"]


# Messages from outside. Unknown fields are refused, so that a misspelt field is a dead letter and not a surprise.


class Query(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One LLM query on `queries`. It needs an `embedding`, a `text` or a `body`. Records in other shapes, such as a
    bare request of a provider's API, are made into one (contract/shapes).

    `embedding` is little-endian float32 bytes of the index's dimension (base64 in JSON), or a list of numbers. Bytes
    are float16 where `embedding_dtype` or the setting index.embedding_dtype says so. `embedder` names the model that
    made it: an embedding of another model than the index's is refused. `body` is a request in the shape of a provider's
    API (contract/requests), passed on unchanged; the last text that a user wrote in it is embedded. `dialect` is its
    format, where its fields alone do not tell. `deadline_ms` is the time after which an answer is worth nothing.
    `parameters` are passed on unchanged. Only the LLMs in `allow` may answer, and none of `deny`. `tags` are names with
    values, or a list of `<name>=<value>` (contract/extras).
    """

    id: Identity | None = None
    text: str | None = None
    embedding: bytes | list[float] | None = None
    embedding_dtype: EmbeddingDtype | None = None
    embedder: str | None = None
    body: dict[str, Any] | None = None
    input_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None
    deadline_ms: Count | None = None
    parameters: dict[str, Any] | None = None
    dialect: Dialect | None = None
    allow: LlmNames | None = None
    deny: LlmNames = ()
    tags: dict[str, str] | list[str] = {}


class Completion(Struct, frozen=True, omit_defaults=True):
    """What an inference worker says of a dispatch, on `completions`, in the partition `origin_partition`.

    The cost is `cost_micros`, or `cost_usd`, or `usage` as the provider returned it, priced with the price list of the
    dispatch's LLM. Without any of them the cost of an answer is unknown, and the whole reservation is booked. The cost
    of an error is what `cost` says: `zero` where the provider refused before it worked, `unknown` where it may have
    worked. Only `dispatch_id` has to be right: other fields that cannot be used, and fields that are not here, are left
    out and counted (contract/completions).

    `error_class` says why an error has no answer, and `retry_after_ms` when the provider wants to be asked again.
    `model` is the model that answered, as the provider names it. `remarks` are codes of what was odd.
    """

    dispatch_id: Identity
    origin_partition: Count
    llm: str
    status: Literal["ok", "error"]
    cost: CostWord | None = None
    cost_micros: int | None = None
    cost_usd: float | None = None
    usage: dict[str, Any] | None = None
    quality: Share | None = None
    error: str | None = None
    error_class: ErrorClass | None = None
    retry_after_ms: Count | None = None
    model: str | None = None
    remarks: tuple[str, ...] = ()


# What Tollgate publishes.


class Origin(Struct, frozen=True, gc=False):
    """Where a query stood in `queries`."""

    partition: int
    offset: int


class Dispatch(Struct, frozen=True, gc=False, omit_defaults=True):
    """One query sent to one LLM, on `dispatch.<llm>`. `id` is `<partition>-<offset>-<attempt>`.

    `charge` is the quality that the dispatch had to be worth: what it uses of each budget, times the budget's price.
    """

    id: str
    query_id: str
    llm: str
    origin: Origin
    attempt: int
    reserved_micros: int
    quality: float
    cost_micros: float
    charge: float
    deadline_ms: int
    query: Raw
    tags: dict[str, str] = {}


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


# The ledger topic: an `account` row with the state of the lane, a `configuration` row (of type Configuration), a
# `budget/<period>/<name>` row for each account of a budget, a `reservation/<dispatch id>` row while it is open, a
# `closed/<dispatch id>` row for a while after that, and `window/<block>` rows.


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


class Breaker(Struct, frozen=True, omit_defaults=True):
    """One LLM's health in one partition. Since `opened_ms` (0: it is in use) the LLM gets no queries but probes.

    The next probe may go at `until_ms`; `probes` have gone. `failures` counts failures without an answer between them,
    while the LLM is in use. `error_class` says why the LLM was taken out; null: nobody answered.
    """

    failures: int = 0
    opened_ms: int = 0
    until_ms: int = 0
    probes: int = 0
    error_class: ErrorClass | None = None

    @property
    def is_open(self) -> bool:
        """Whether the LLM is taken out."""
        return self.opened_ms > 0


class TagTotal(Struct, frozen=True, gc=False):
    """The queries with one tag that were decided, and what their answers cost."""

    queries: int = 0
    spent_micros: int = 0


class AccountRow(Struct, frozen=True, omit_defaults=True):
    """The state of one lane but for its accounts, its open reservations, its window and its configuration; key
    `account`.

    `format` is the version of these records (FORMAT). `seen` counts first-time queries priced; `sequence` counts
    transactions; `head` is the hash of the last decision record; `decisions` and `dispatches` count all ever written.
    `digest` is over this transaction's dispatch ids and `head`, so that a torn transaction would be seen. The window
    holds the estimates since `seen` was `window_from`. `group` and `settings` are those of the configuration: here a
    reader finds them at the end of the topic. `prices` are by budget. `tags` are the totals of each tag, by
    `<name>=<value>`. `breakers` has the LLMs that are taken out, or that have failed. `kinds` says what came of each
    kind, where the lane forecasts.
    """

    format: int
    offsets: Offsets
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
    group: str = ""
    settings: str = ""
    tags: dict[str, TagTotal] = {}
    breakers: dict[str, Breaker] = {}
    kinds: KindCounts | None = None


class Reservation(Struct, frozen=True, gc=False, omit_defaults=True):
    """What is held for one open dispatch; key `reservation/<dispatch_id>`, tombstoned when it closes.

    `holds` says how much of each account: `reserved_micros` of budgets in US dollars, `reserved_tokens` of budgets in
    tokens (0 where there is none), 1 of the others.

    Without an answer the dispatch is unanswered from `unanswered_at_ms` on (0: never). `is_unanswered`: the query has
    gone on without its answer. `is_overtaken`: another dispatch of the query was answered, so this one has at most a
    second answer. An LLM with no more than `above_context_tokens` has refused the query as too long.
    """

    dispatch_id: str
    query_id: str
    llm: str
    offset: int
    attempt: int
    reserved_micros: int
    at_ms: int
    deadline_ms: int
    tried: tuple[str, ...]
    tags: dict[str, str] = {}
    holds: tuple[Hold, ...] = ()
    reserved_tokens: int = 0
    unanswered_at_ms: int = 0
    is_unanswered: bool = False
    is_overtaken: bool = False
    above_context_tokens: int = 0

    @property
    def may_retry(self) -> bool:
        """Whether the query waits for this dispatch, so that a failure brings another attempt."""
        return not self.is_unanswered and not self.is_overtaken


class ClosedDispatch(Struct, frozen=True, gc=False, omit_defaults=True):
    """A dispatch that closed, kept for answers that come later; key `closed/<dispatch_id>`.

    `booked_micros` is what was charged for it so far, and `booked` what each account has spent for it. `number` is the
    place of its closing in the order of all decisions: the lane keeps the newest ones of each outcome, and forgets the
    oldest first.
    """

    dispatch_id: str
    query_id: str
    llm: str
    reserved_micros: int
    booked_micros: int
    outcome: Outcome
    number: int
    tags: dict[str, str] = {}
    booked: tuple[Hold, ...] = ()
    reserved_tokens: int = 0


class WindowBlock(Struct, frozen=True, omit_defaults=True):
    """Estimates of recent queries, so that a restored lane re-solves as the old one would; key `window/<block>`.

    `quality` is little-endian float32 [rows, LLMs], `cost_micros` little-endian float64; rows in the ring's order.
    `cells` are, for each row, the numbers of the budgets with tags that its query draws on; it is empty if no query of
    the block draws on any. `input_tokens` are the input tokens of each row's query, as far as a budget limits tokens.
    `kinds` are the kinds of the rows' queries, where the lane forecasts.
    """

    quality: bytes
    cost_micros: bytes
    cells: tuple[tuple[int, ...], ...] = ()
    input_tokens: tuple[int, ...] = ()
    kinds: tuple[int, ...] = ()


class Home(Struct, frozen=True):
    """What the books of a lane belong to. A lane that finds itself elsewhere does not open.

    `partitions` is the number that the budgets are split over. `topic_ids` are Kafka's ids of `queries`, `completions`,
    `ledger` and `decisions`, by these names: a topic that is made anew has another id.
    """

    group: str
    partitions: int
    topic_ids: dict[str, str]


class Configuration(Struct, frozen=True, omit_defaults=True):
    """All that a decision depends on, as one partition sees it: the settings (budgets already split) and the home.

    `price_lists` are the prices in force as numbers, so that an audit needs no package of that day. An answer that
    costs more than `max_cost_micros` cannot be. `settings` is a hash of the settings before they are split: it is the
    same in all partitions. Records of older versions have neither `home` nor `settings`.

    A dispatch to LLM i is unanswered after `unanswered_ms[i]`, or never if the list is empty. An LLM that was taken out
    is probed after `first_probe_ms`, then every `probe_ms` or later; 0: LLMs are never taken out.

    `features`, `context_tokens` and `dialects` are what each LLM can do; an LLM that is not in them can do all.
    `unknown_model` says what is done with a request for a model that is no LLM. It is null for a lane of a version that
    did not look at what a query asks. `exploration_share` of the dispatched queries go to an LLM that is drawn. With
    `kinds`, prices are solved for the queries that are forecast; without, for the newest ones.
    """

    llms: tuple[str, ...]
    budgets: tuple[Budget, ...]
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
    max_cost_micros: int
    price_lists: dict[str, PriceList] = {}
    home: Home | None = None
    settings: str = ""
    unanswered_ms: tuple[int, ...] = ()
    first_probe_ms: int = 0
    probe_ms: int = 0
    defers_filtered: bool = False
    features: dict[str, tuple[Feature, ...]] = {}
    context_tokens: dict[str, int] = {}
    dialects: dict[str, tuple[Dialect, ...]] = {}
    unknown_model: UnknownModel | None = None
    exploration_share: float = 0.0
    kinds: Kinds | None = None
