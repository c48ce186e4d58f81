"""Token usage is priced as each provider means it; what is not there is unknown, never zero."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

from worker.contract import token_costs
from worker.contract.codes import Rejection
from worker.contract.messages import MAX_TOKENS, Query
from worker.contract.token_costs import PriceList, Unknown
from worker.core.ceilings import ceilings_micros

# Micro-dollars per token: input 2, output 10, cached input 0.5.
PRICES = PriceList(Decimal(2), Decimal(10), Decimal("0.5"))
NO_CACHE_PRICE = PriceList(Decimal(2), Decimal(10))

PRICED = [
    ("OpenAI chat", {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}, 270),
    (
        "OpenAI chat, 60 of the prompt cached",
        {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 60}},
        180,
    ),
    (
        "OpenAI chat, reasoning is part of the completion",
        {"prompt_tokens": 1, "completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 5}},
        72,
    ),
    ("OpenAI responses", {"input_tokens": 100, "output_tokens": 7, "total_tokens": 107}, 270),
    (
        "OpenAI responses, 60 of the input cached",
        {"input_tokens": 100, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 60}},
        180,
    ),
    ("Anthropic", {"input_tokens": 100, "output_tokens": 7, "service_tier": "standard"}, 270),
    (
        "Anthropic, 60 read from the cache beside the input",
        {"input_tokens": 100, "output_tokens": 7, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 0},
        300,
    ),
    (
        "Anthropic, 40 written to the cache beside the input",
        {"input_tokens": 100, "output_tokens": 7, "cache_read_input_tokens": None, "cache_creation_input_tokens": 40},
        350,
    ),
    ("Gemini", {"promptTokenCount": 100, "candidatesTokenCount": 7, "totalTokenCount": 107}, 270),
    ("Gemini in snake_case", {"prompt_token_count": 100, "candidates_token_count": 7}, 270),
    (
        "Gemini, thoughts beside the candidates",
        {"promptTokenCount": 100, "candidatesTokenCount": 3, "thoughtsTokenCount": 4},
        270,
    ),
    (
        "Gemini, 60 of the prompt cached",
        {"promptTokenCount": 100, "candidatesTokenCount": 7, "cachedContentTokenCount": 60},
        180,
    ),
    (
        "Gemini, prompts of tools beside the prompt",
        {"promptTokenCount": 90, "toolUsePromptTokenCount": 10, "candidatesTokenCount": 7},
        270,
    ),
    ("nothing was used", {"prompt_tokens": 0, "completion_tokens": 0}, 0),
    (
        "half a micro-dollar is rounded up",
        {"prompt_tokens": 1, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 1}},
        1,
    ),
]


@pytest.mark.parametrize(("used", "cost"), [c[1:] for c in PRICED], ids=[c[0] for c in PRICED])
def test_usage_is_priced(used: dict[str, Any], cost: int) -> None:
    """Each provider's usage has its cost. Cached tokens are counted once, whether the input count includes them or
    not."""
    assert token_costs.cost_micros(used, PRICES) == cost


CACHED = Rejection("usage", MAX_TOKENS, "usage.input_tokens_details.cached_tokens")
UNKNOWN = [
    ("empty", {}),
    ("of another shape", {"tokens": 5}),
    ("a total alone", {"total_tokens": 100}),
    ("no output", {"prompt_tokens": 100}),
    ("no input", {"completion_tokens": 100}),
    ("nulls", {"prompt_tokens": None, "completion_tokens": None}),
    ("a null output", {"input_tokens": 5, "output_tokens": None}),
    ("Anthropic's cache alone", {"input_tokens": None, "output_tokens": 1, "cache_read_input_tokens": 5}),
    ("Gemini without an answer", {"promptTokenCount": 5}),
]


@pytest.mark.parametrize("used", [c[1] for c in UNKNOWN], ids=[c[0] for c in UNKNOWN])
def test_what_is_missing_is_unknown(used: dict[str, Any]) -> None:
    """The cost of usage that lacks a count is unknown: a missing count is not zero."""
    assert isinstance(token_costs.cost_micros(used, PRICES), Unknown)


def impossible(name: str) -> Rejection:
    """A count that is not between 0 and the most tokens."""
    return Rejection("usage", MAX_TOKENS, f"usage.{name}")


REFUSED = [
    ("a negative count of cached tokens", {"input_tokens": 1, "input_tokens_details": {"cached_tokens": -1}}, CACHED),
    ("negative", {"prompt_tokens": -1, "completion_tokens": 1}, impossible("prompt_tokens")),
    ("absurd", {"prompt_tokens": 1, "completion_tokens": 10**9}, impossible("completion_tokens")),
    ("a fraction", {"input_tokens": 1.5, "output_tokens": 1}, impossible("input_tokens")),
    ("text", {"input_tokens": "5", "output_tokens": 1}, impossible("input_tokens")),
    ("a boolean", {"promptTokenCount": True, "candidatesTokenCount": 1}, impossible("promptTokenCount")),
    (
        "more cached than there are",
        {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 6}},
        Rejection("cached_tokens", 5, "6"),
    ),
]


@pytest.mark.parametrize(("used", "why"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_counts_that_cannot_be_are_refused(used: dict[str, Any], why: Rejection) -> None:
    """The record goes to `dead-letters`, and the reason names the count."""
    assert token_costs.cost_micros(used, PRICES) == why


def test_cached_input_without_a_price_costs_what_input_costs() -> None:
    """Without a cached price, cached input costs the input price: the cost is not below the charge."""
    used = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 60}}
    assert token_costs.cost_micros(used, NO_CACHE_PRICE) == 270


CEILINGS = [
    ("both counts", Query(input_tokens=100, max_output_tokens=7), [270.0, 11.0, math.inf]),
    ("no tokens", Query(input_tokens=0, max_output_tokens=0), [0.0, 0.0, math.inf]),
    ("a part of a micro-dollar", Query(input_tokens=1, max_output_tokens=0), [2.0, 1.0, math.inf]),
    ("no maximum", Query(input_tokens=100), [math.inf] * 3),
    ("no input", Query(max_output_tokens=7), [math.inf] * 3),
]


def test_ceilings() -> None:
    """The maximum cost of a query is its own counts at list prices; without counts or prices it is infinite."""
    prices = [PRICES, PriceList(Decimal("0.1"), Decimal("0.1")), None]
    assert ceilings_micros([case[1] for case in CEILINGS], prices).tolist() == [case[2] for case in CEILINGS]
