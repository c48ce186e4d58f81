"""Codes: everything that is hashed, compared or counted is one of these and numbers. `sentences` says them in words."""

from __future__ import annotations

from typing import Literal, Protocol

from msgspec import Struct

DeferReason = Literal[
    "priced_out",
    "exhausted",
    "expired",
    "duplicate",
    "failed",
    "unanswered",
    "unavailable",
    "filtered",
    "no_candidate",
]
# What a budget limits: US dollars (in micro-dollars), tokens, requests, or dispatches that are not answered yet.
Resource = Literal["usd", "tokens", "requests", "open"]
RemedyCode = Literal[
    "raise_budget",
    "lower_prices",
    "later_deadline",
    "close_dispatch",
    "send_again",
    "allow_next_llm",
    "change_request",
]
IgnoreCode = Literal["unmatched", "unknown_llm"]
RejectCode = Literal[
    "empty",
    "too_large",
    "format",
    "unknown_field",
    "type",
    "nesting",
    "number",
    "headers",
    "header_name",
    "no_text",
    "empty_text",
    "no_embedding",
    "embedding_dimension",
    "embedding_zero",
    "embedding_nan",
    "embedding_ambiguous",
    "embedding_byte_order",
    "embedding_of_another_model",
    "utf16",
    "compressed",
    "array",
    "quoted_json",
    "confluent_frame",
    "half_surrogate",
    "connect_envelope",
    "deadline_in_seconds",
    "beside_request",
    "batch_url",
    "embeddings",
    "header_value",
    "unknown_header",
    "tags",
    "unknown_model",
    "partition",
    "dispatch_id",
    "unpublishable",
    "unknown_budget",
    "budget_exists",
    "another_resource",
    "too_many_budgets",
]
FitCode = Literal[
    "no_prices",
    "no_estimates",
    "solved",
    "iterations",
    "line_search",
    "not_finite",
    "not_lower",
    "fixed",
    "not_recorded",
]

# The request formats: Chat Completions, Responses and Completions of OpenAI, Messages of Anthropic.
Dialect = Literal["chat", "responses", "messages", "completions"]

# What an LLM may be unable to do.
Feature = Literal["tools", "vision", "json"]
# Why an LLM is no candidate for a query: the query rules it out, or the LLM cannot do what the query needs.
Exclusion = Literal["denied", "not_allowed", "not_wished", "dialect", "context", "tools", "vision", "json"]
# What is odd about what a query asks: a name that is no LLM of the settings.
QueryRemark = Literal["unknown_model", "unknown_allowed", "unknown_denied"]

# Why a call of an LLM has no answer. `refused_request`: this LLM never takes this request. `quota`: no money or
# allowance is left, and waiting does not help. `misconfigured`: the operator has to mend a model, a region or an
# address. `bad_answer`: the provider answered, and nothing in the answer can be used.
ErrorClass = Literal[
    "rate_limited",
    "overloaded",
    "timeout",
    "unreachable",
    "context_length",
    "content_filter",
    "refused_request",
    "quota",
    "auth",
    "misconfigured",
    "bad_answer",
]
# `zero`: the provider refused before it worked. `unknown`: the call may have cost something.
CostWord = Literal["known", "zero", "unknown"]

# A text from outside is cut to so many characters in a detail.
MAX_DETAIL_CHARACTERS = 100
# Why an evaluation of a log tells no figure of a policy.
Untold = Literal["no_overlap", "few_answers", "uneven_weights"]


class Reason(Protocol):
    """Why a record is a dead letter: a Rejection, or the decision record of a rejected or ignored input."""

    @property
    def code(self) -> str:
        """The code of the reason."""

    @property
    def limit(self) -> int | None:
        """The number that the record does not keep."""

    @property
    def detail(self) -> str:
        """A plain value: a name, or the number that was found."""


class Rejection(Struct, frozen=True, omit_defaults=True):
    """Why a record from outside cannot be used.

    `limit` is the number that the record does not keep, in the unit of its setting (bytes, levels, micro-dollars,
    tokens, numbers of an embedding). `detail` is a plain value: the name or path of a field, or the number that was
    found. It never holds a query's text.
    """

    code: RejectCode
    limit: int | None = None
    detail: str = ""


class Lack(Struct, frozen=True, gc=False):
    """What one budget lacks to serve a query, in whole units of its resource (US dollars: micro-dollars)."""

    budget: str
    resource: Resource
    amount: int


class Remedy(Struct, frozen=True, omit_defaults=True):
    """What would let a deferred query be served. `lacking` says by LLM which budgets lack how much, and `excluded` why
    each LLM is no candidate."""

    code: RemedyCode
    lacking: dict[str, tuple[Lack, ...]] = {}
    excluded: dict[str, Exclusion] = {}
