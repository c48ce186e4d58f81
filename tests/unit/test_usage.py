"""Token usage is read and priced as each provider means it; a cost that is not known is never zero."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.completion_cases import BIG, CASES
from worker.contract.token_costs import Cost, PriceList, cost_of
from worker.contract.usage import UnusableUsage, Usage, read_usage, usd_to_micros, whole_number

PLAIN = PriceList(Decimal(2), Decimal(10))

# What each file's usage costs by the provider's own rules, in micro-dollars.
COSTS = {
    "openai-cached": 5_334,
    "openai-reasoning": 18_015,
    "openai-details-null": 375,
    "responses": 1_073,
    "anthropic-write": 54_399,
    "anthropic-read": 11_950,
    "anthropic-batch": 5_250,
    "litellm-anthropic-normalised": 218_369,
    "proxy-anthropic-excl-cached-prompt": 4_255,
    "proxy-responses-excl-cached-input": 4_255,
    "deepseek-hit": 3_540,
    "gemini-openai-compat-thoughts-outside": 8_055,
    "gemini-thoughts": 15_345,
    "gemini-cached-tools": 10_168,
    "gemini-blocked-no-candidates": 1_500,
    "gemini-only-thoughts": 15_000,
    "gemini-snake-mixed": 1_635,
    "bedrock-converse": 5_683,
    "cohere-v2": 1_050,
    "mistral": 1_050,
    "ollama-native": 4_548,
    "audio": 40_261,
    "tier-200k": 1_822_500,
    "prompt-zero-completion-not": 6_000,
    "string": 1_050,
    "float-12-0": 1_050,
    "whole-response-in-usage": 1_050,
    "usage-as-list": 1_050,
    "cost-micros-0-with-usage": 18_000,
    "embedding-usage": 24,
}
# Why the cost of each of these files' usage is unknown.
UNKNOWN = {
    "usage-null": "absent",
    "usage": "absent",
    "all-zeros-ok": "zero",
    "negative": "not_a_count",
    "bool": "not_a_count",
    "error-with-unknown-cost-partial-usage": "partial",
}


def usage_of(name: str) -> Any:
    """The usage in a file of the cases."""
    return json.loads((CASES / f"c-{name}.json").read_text("utf-8"))["usage"]


@pytest.mark.parametrize(("name", "micros"), COSTS.items(), ids=COSTS)
def test_usage_costs_what_the_provider_charges(name: str, micros: int) -> None:
    """Every count is priced once, wherever the provider puts it."""
    assert cost_of(usage_of(name), BIG) == Cost(micros)


@pytest.mark.parametrize(("name", "code"), UNKNOWN.items(), ids=UNKNOWN)
def test_usage_without_a_known_cost_says_why(name: str, code: str) -> None:
    """The reason is a code, and no cost is made up."""
    problem = cost_of(usage_of(name), BIG)
    assert isinstance(problem, UnusableUsage)
    assert problem.code == code


def test_every_file_with_usage_has_its_right_value() -> None:
    """A file that is added to the cases is priced or unknown."""
    with_usage = {
        path.stem.removeprefix("c-") for path in CASES.glob("*.json") if "usage" in json.loads(path.read_text())
    }
    assert with_usage - COSTS.keys() - UNKNOWN.keys() == set()


SENSES = [
    (
        "the total says that the cache is inside the prompt",
        {"prompt_tokens": 100, "cache_read_input_tokens": 60, "completion_tokens": 7, "total_tokens": 107},
        Usage(40, 7, cache_read_tokens=60),
    ),
    (
        "the total says that the cache is beside the prompt",
        {
            "prompt_tokens": 100,
            "prompt_tokens_details": {"cached_tokens": 60},
            "completion_tokens": 7,
            "total_tokens": 167,
        },
        Usage(100, 7, cache_read_tokens=60),
    ),
    (
        "without a total, a top-level cache_read stands beside the prompt, which is dearer",
        {"prompt_tokens": 100, "cache_read_input_tokens": 60, "completion_tokens": 7},
        Usage(100, 7, cache_read_tokens=60),
    ),
    (
        "writes for five minutes and for an hour are told apart",
        {
            "input_tokens": 3,
            "output_tokens": 7,
            "cache_creation_input_tokens": 50,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30},
        },
        Usage(3, 7, cache_write_tokens=20, cache_write_1h_tokens=30),
    ),
    (
        "reasoning beyond the completion is outside it",
        {"prompt_tokens": 9, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 50}},
        Usage(9, 52),
    ),
    (
        "the output is what the total leaves",
        {"prompt_tokens": 9, "total_tokens": 30},
        Usage(9, 21),
    ),
    (
        "DeepSeek without a prompt: hit and miss are the prompt",
        {"prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6, "completion_tokens": 1},
        Usage(6, 1, cache_read_tokens=4),
    ),
    (
        "Gemini's audio by modality",
        {
            "promptTokenCount": 30,
            "candidatesTokenCount": 2,
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 25}, {"modality": "TEXT", "tokenCount": 5}],
        },
        Usage(5, 2, input_audio_tokens=25),
    ),
    (
        "web searches are counted",
        {"input_tokens": 1, "output_tokens": 1, "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 1}},
        Usage(1, 1, tool_calls=4),
    ),
    (
        "OpenRouter's own cost",
        {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.00105},
        Usage(1, 1, stated_micros=1_050),
    ),
    (
        "OpenRouter with a key of one's own: the provider's bill and the fee",
        {
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "cost": 0.00005,
            "is_byok": True,
            "cost_details": {"upstream_inference_cost": 0.001},
        },
        Usage(1, 1, stated_micros=1_050),
    ),
    (
        "xAI's ticks",
        {"prompt_tokens": 1, "completion_tokens": 1, "cost_in_usd_ticks": 10_500_000},
        Usage(1, 1, stated_micros=1_050),
    ),
    (
        "a stated cost of 0 beside tokens is not a cost",
        {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0},
        Usage(1, 1),
    ),
    (
        "a whole Gemini response",
        {"candidates": [], "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 2}},
        Usage(5, 2),
    ),
    (
        "a whole OpenAI response: its service tier stands outside the usage",
        {"service_tier": "priority", "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
        Usage(5, 2, service_tier="priority"),
    ),
]


@pytest.mark.parametrize(("used", "usage"), [case[1:] for case in SENSES], ids=[case[0] for case in SENSES])
def test_counts_are_disjoint(used: dict[str, Any], usage: Usage) -> None:
    """No token is counted twice and none is left out, in whatever sense a provider counts."""
    assert read_usage(used) == usage


UNPRICED = [
    (
        "audio",
        {"prompt_tokens": 10, "completion_tokens": 10, "completion_tokens_details": {"audio_tokens": 10}},
        "output_audio",
    ),
    ("a search", {"input_tokens": 1, "output_tokens": 1, "server_tool_use": {"web_search_requests": 1}}, "tool_calls"),
    ("a dearer tier", {"input_tokens": 1, "output_tokens": 1, "service_tier": "priority"}, "service_tier"),
]


@pytest.mark.parametrize(("used", "detail"), [case[1:] for case in UNPRICED], ids=[case[0] for case in UNPRICED])
def test_a_detail_without_a_price_is_named(used: dict[str, Any], detail: str) -> None:
    """What the price list cannot price is not dropped: the cost is a lower bound, and says so."""
    cost = cost_of(used, PLAIN)
    assert isinstance(cost, Cost)
    assert cost.unpriced == (detail,)


FACTORS = [
    ("a written cache costs a quarter more", {"cache_creation_input_tokens": 100}, 250),
    ("a cache for an hour costs twice", {"cache_creation": {"ephemeral_1h_input_tokens": 100}}, 400),
    ("a read cache costs what input costs", {"cache_read_input_tokens": 100}, 200),
]


@pytest.mark.parametrize(("used", "micros"), [case[1:] for case in FACTORS], ids=[case[0] for case in FACTORS])
def test_prices_that_a_list_leaves_out(used: dict[str, Any], micros: int) -> None:
    """They follow from the price of input."""
    assert cost_of({"input_tokens": 0, "output_tokens": 0, **used}, PLAIN) == Cost(micros)


def test_no_tokens_cost_nothing_only_where_nothing_costs() -> None:
    """Zero tokens are unknown usage, unless every price is 0."""
    free = PriceList(Decimal(0), Decimal(0))
    none = {"prompt_tokens": 0, "completion_tokens": 0}
    assert cost_of(none, free) == Cost(0)
    assert cost_of(none, PLAIN) == UnusableUsage("zero")


NUMBERS: list[tuple[object, int | None]] = [
    (100, 100),
    (100.0, 100),
    ("100", 100),
    (" 100.0 ", 100),
    (1050.5, 1051),
    (True, None),
    (-1, None),
    (-0.5, None),
    ("-3", None),
    ("abc", None),
    ("", None),
    (float("nan"), None),
    (float("inf"), None),
    ("1e999999999", None),
    (None, None),
    ([1], None),
]


@pytest.mark.parametrize(("value", "number"), NUMBERS, ids=repr)
def test_whole_numbers_in_any_spelling(value: object, number: int | None) -> None:
    """A number is a number however it is written; what is not one is None."""
    assert whole_number(value, 10**9) == number


def test_dollars_are_rounded_up() -> None:
    """A tenth of a micro-dollar is booked as one."""
    assert usd_to_micros("0.0000001") == 1


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["usage", "prompt_tokens", "completion_tokens", "total_tokens", "cost", "input_tokens_details", "x"]
            ),
            inner,
            max_size=5,
        )
    ),
)


@given(anything)
def test_any_value_is_usage_or_a_reason(value: object) -> None:
    """Whatever stands in `usage`, reading it ends in counts of at least 0 or in a code, never in an exception."""
    found = read_usage(value)
    if isinstance(found, Usage):
        assert min(found.all_input_tokens, found.all_output_tokens, found.tool_calls) >= 0


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_stated_total_is_never_exceeded_downwards(prompt: int, completion: int, cached: int, more: int) -> None:
    """All tokens of a stated total are priced, as input, cached input or output."""
    total = prompt + completion + more
    found = read_usage(
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": total,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
    )
    if isinstance(found, Usage):
        assert found.all_input_tokens + found.all_output_tokens >= total
