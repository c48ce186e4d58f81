"""Token usage is priced as each provider means it; what is not there is unknown, never zero."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from worker.contract.token_costs import Cost, PriceList, cost_of
from worker.contract.usage import UnusableUsage

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
        370,
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
    assert cost_of(used, PRICES) == Cost(cost)


UNKNOWN = [
    ("empty", {}, "absent"),
    ("of another shape", {"words": 5}, "no_counts"),
    ("no input", {"completion_tokens": 100}, "partial"),
    ("nothing was used", {"prompt_tokens": 0, "completion_tokens": 0}, "zero"),
    ("a negative count", {"prompt_tokens": -1, "completion_tokens": 1}, "not_a_count"),
    ("an absurd count", {"prompt_tokens": 1, "completion_tokens": 10**9}, "not_a_count"),
    ("a boolean", {"promptTokenCount": True, "candidatesTokenCount": 1}, "not_a_count"),
]


@pytest.mark.parametrize(("used", "code"), [c[1:] for c in UNKNOWN], ids=[c[0] for c in UNKNOWN])
def test_what_nobody_can_price_is_unknown(used: dict[str, Any], code: str) -> None:
    """The cost of usage that lacks a count, or has one that cannot be, is unknown and not zero."""
    unknown = cost_of(used, PRICES)
    assert isinstance(unknown, UnusableUsage)
    assert unknown.code == code


def test_cached_input_without_a_price_costs_what_input_costs() -> None:
    """Without a cached price, cached input costs the input price: the cost is not below the charge."""
    used = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 60}}
    assert cost_of(used, NO_CACHE_PRICE) == Cost(270)
