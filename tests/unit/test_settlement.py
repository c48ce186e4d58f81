"""What an answer charges: its own cost, the price of its usage, the limit, nothing, or the whole reservation."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from tests.completion_cases import BIG, CASES
from worker.contract.completions import Remark, UsableCompletion, read_answer
from worker.contract.messages import Basis, Outcome, Reservation
from worker.contract.sentences import REMARKS
from worker.contract.token_costs import PriceList
from worker.core.settlement import Charge, charge

LLM = "big/model-a:1"
RESERVED = 2_823
LIMIT = 1_000_000_000
HELD = Reservation("0-0-1", "q0", LLM, 0, 1, RESERVED, 0, 1_000, ())
FREE = PriceList(Decimal(0), Decimal(0))

# What each file of the cases books, and what is remarked.
BOOKED: dict[str, tuple[int, tuple[Remark, ...]]] = {
    "openai-cached": (5_334, ()),
    "openai-reasoning": (18_015, ()),
    "openai-details-null": (375, ()),
    "responses": (1_073, ()),
    "anthropic-write": (54_399, ()),
    "anthropic-read": (11_950, ()),
    "anthropic-batch": (5_250, ()),
    "litellm-anthropic-normalised": (218_369, ()),
    "proxy-anthropic-excl-cached-prompt": (4_255, ()),
    "proxy-responses-excl-cached-input": (4_255, ()),
    "deepseek-hit": (3_540, ()),
    "gemini-openai-compat-thoughts-outside": (8_055, ()),
    "gemini-thoughts": (15_345, ()),
    "gemini-cached-tools": (10_168, ()),
    "gemini-blocked-no-candidates": (1_500, ()),
    "gemini-only-thoughts": (15_000, ()),
    "gemini-snake-mixed": (1_635, ()),
    "bedrock-converse": (5_683, ()),
    "cohere-v2": (1_050, ()),
    "mistral": (1_050, ()),
    "ollama-native": (4_548, ()),
    "audio": (40_261, ()),
    "tier-200k": (1_822_500, ()),
    "usage-null": (RESERVED, ("usage_absent",)),
    "usage": (RESERVED, ("usage_absent",)),
    "no-usage": (RESERVED, ("usage_absent",)),
    "all-zeros-ok": (RESERVED, ("usage_zero",)),
    "prompt-zero-completion-not": (6_000, ()),
    "negative": (RESERVED, ("usage_not_a_count",)),
    "string": (1_050, ()),
    "float-12-0": (1_050, ()),
    "bool": (RESERVED, ("usage_not_a_count",)),
    "whole-response-in-usage": (1_050, ()),
    "usage-as-list": (1_050, ()),
    "cost-usd-field": (1_050, ()),
    "cost-micros-float-dollars": (RESERVED, ("cost_in_dollars", "usage_absent")),
    "cost-micros-1050-0": (1_050, ()),
    "cost-micros-1050-5": (1_051, ()),
    "cost-micros-0-with-usage": (18_000, ()),
    "cost-above-max-cost-usd-150-usd": (150_000_000, ()),
    "error-with-unknown-cost-partial-usage": (RESERVED, ("usage_partial",)),
    "error-usage-null": (RESERVED, ()),
    "embedding-usage": (24, ()),
    "vendor-fields-beside": (1_050, ("unknown_field",)),
    "llm-spelled-as-provider-returns-it": (1_050, ("llm_spelled_otherwise",)),
    "quality-85-of-100": (1_050, ("quality",)),
    "quality-true": (1_050, ("quality",)),
    "status-success": (1_050, ("status",)),
}


def answer(fields: dict[str, Any]) -> UsableCompletion:
    """The answer that a completion with these fields is read as."""
    read = read_answer({"dispatch_id": "0-0-1", "origin_partition": 0, "llm": LLM, "status": "ok", **fields}, 0)
    assert read is not None, "its dispatch is named"
    return read


def test_every_case_is_here() -> None:
    """A case that is added is booked by a test."""
    assert {file.stem.removeprefix("c-") for file in CASES.glob("c-*.json")} == BOOKED.keys()


@pytest.mark.parametrize("name", BOOKED)
def test_a_case_is_booked(name: str) -> None:
    """Each completion books what the provider charges by its own rules, or the reservation where nobody can say."""
    charged = charge(HELD, answer(json.loads((CASES / f"c-{name}.json").read_text("utf-8"))), BIG, LIMIT)
    spent, remarks = BOOKED[name]
    assert charged.spent_micros == spent
    assert charged.remarks == remarks
    assert charged.outcome == "settled"


BARE = [
    ("rate_limited", 0),
    ("overloaded", 0),
    ("quota", 0),
    ("auth", 0),
    ("refused_request", 0),
    ("context_length", RESERVED),
    ("misconfigured", RESERVED),
    ("content_filter", RESERVED),
    ("timeout", RESERVED),
    ("unreachable", RESERVED),
    ("bad_answer", RESERVED),
]


@pytest.mark.parametrize(("error_class", "booked"), BARE)
@pytest.mark.parametrize("field", ["error", "error_class"])
def test_an_error_that_says_nothing_of_its_cost(field: str, error_class: str, booked: int) -> None:
    """Only a refusal before any work is free. What may have cost something is booked as reserved, unless `cost` says
    zero."""
    assert charge(HELD, answer({"status": "error", field: error_class}), BIG, LIMIT).spent_micros == booked
    free = {"status": "error", field: error_class, "cost": "zero"}
    assert charge(HELD, answer(free), BIG, LIMIT).spent_micros == 0


CHARGES: list[tuple[str, dict[str, Any], PriceList | None, tuple[Outcome, int, Basis], tuple[Remark, ...]]] = [
    ("a stated cost", {"cost_micros": 500}, BIG, ("settled", 500, "cost"), ()),
    ("more than was held", {"cost_micros": 9_000}, None, ("settled", 9_000, "cost"), ()),
    (
        "a stated cost wins over usage",
        {"cost_micros": 7, "usage": {"prompt_tokens": 1_000, "completion_tokens": 0}},
        BIG,
        ("settled", 7, "cost"),
        (),
    ),
    (
        "a negative cost, usage",
        {"cost_micros": -5, "usage": {"prompt_tokens": 100, "completion_tokens": 50}},
        BIG,
        ("settled", 1_050, "usage"),
        ("cost_negative",),
    ),
    (
        "a negative cost alone",
        {"cost_micros": -5},
        BIG,
        ("settled", RESERVED, "reservation"),
        ("cost_negative", "usage_absent"),
    ),
    (
        "a boolean cost",
        {"cost_micros": True},
        BIG,
        ("settled", RESERVED, "reservation"),
        ("cost_not_a_number", "usage_absent"),
    ),
    (
        "a cost in words",
        {"cost_micros": "much"},
        BIG,
        ("settled", RESERVED, "reservation"),
        ("cost_not_a_number", "usage_absent"),
    ),
    ("a cost as text", {"cost_micros": "1050"}, BIG, ("settled", 1_050, "cost"), ()),
    ("a cost above the limit", {"cost_micros": LIMIT + 1}, BIG, ("settled", LIMIT, "limit"), ("cost_above_limit",)),
    (
        "an endless cost",
        {"cost_micros": 10**200},
        BIG,
        ("settled", LIMIT, "limit"),
        ("cost_above_limit",),
    ),
    (
        "a cost above the limit, usage",
        {"cost_micros": LIMIT + 1, "usage": {"prompt_tokens": 100, "completion_tokens": 50}},
        BIG,
        ("settled", 1_050, "usage"),
        (),
    ),
    (
        "usage above the limit",
        {"usage": {"prompt_tokens": 90_000_000, "completion_tokens": 90_000_000}},
        BIG,
        ("settled", LIMIT, "limit"),
        ("cost_above_limit",),
    ),
    (
        "usage without a price list",
        {"usage": {"prompt_tokens": 100, "completion_tokens": 50}},
        None,
        ("settled", RESERVED, "reservation"),
        ("no_price_list",),
    ),
    (
        "the provider's own cost needs no price list",
        {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.00105}},
        None,
        ("settled", 1_050, "usage"),
        (),
    ),
    ("a cost of 0 alone", {"cost_micros": 0}, BIG, ("settled", RESERVED, "reservation"), ()),
    ("a cost of 0 that is known", {"cost_micros": 0, "cost": "known"}, BIG, ("settled", 0, "none"), ()),
    ("a free LLM", {"usage": {"prompt_tokens": 100, "completion_tokens": 50}}, FREE, ("settled", 0, "usage"), ()),
    (
        "a free LLM that used nothing",
        {"usage": {"prompt_tokens": 0, "completion_tokens": 0}},
        FREE,
        ("settled", 0, "none"),
        ("usage_zero",),
    ),
    (
        "audio without a price",
        {"usage": {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"audio_tokens": 5}}},
        BIG,
        ("settled", RESERVED, "usage"),
        ("unpriced_input_audio",),
    ),
    (
        "searches without a price",
        {"usage": {"input_tokens": 1_000, "output_tokens": 1_000, "server_tool_use": {"web_search_requests": 2}}},
        BIG,
        ("settled", 18_000, "usage"),
        ("unpriced_tool_calls",),
    ),
    ("an error of which nothing is said", {"status": "error"}, BIG, ("settled", RESERVED, "reservation"), ()),
    ("an error of cost zero", {"status": "error", "cost": "zero"}, BIG, ("released", 0, "none"), ()),
    ("an error that states 0", {"status": "error", "cost_micros": 0}, BIG, ("released", 0, "none"), ()),
    ("an error of unknown cost", {"status": "error", "cost": "unknown"}, BIG, ("settled", RESERVED, "reservation"), ()),
    (
        "an error of unknown cost that states more",
        {"status": "error", "cost": "unknown", "cost_micros": 4_000},
        BIG,
        ("settled", 4_000, "cost"),
        (),
    ),
    (
        "an error of unknown cost that states less",
        {"status": "error", "cost": "unknown", "cost_micros": 40},
        BIG,
        ("settled", RESERVED, "cost"),
        (),
    ),
    ("an error that was charged", {"status": "error", "cost_micros": 30}, BIG, ("settled", 30, "cost"), ()),
    (
        "an error with usage of its own",
        {"status": "error", "cost": "zero", "usage": {"prompt_tokens": 100, "completion_tokens": 50}},
        BIG,
        ("settled", 1_050, "usage"),
        (),
    ),
    (
        "a provider that refuses before it works",
        {"status": "error", "error": "rate_limited"},
        BIG,
        ("released", 0, "none"),
        (),
    ),
    (
        "a provider that times out",
        {"status": "error", "error": "timeout"},
        BIG,
        ("settled", RESERVED, "reservation"),
        (),
    ),
    (
        "an error object",
        {"status": "error", "error": {"code": "x", "message": "y"}},
        BIG,
        ("settled", RESERVED, "reservation"),
        (),
    ),
]


@pytest.mark.parametrize(
    ("fields", "prices", "expected", "remarks"), [case[1:] for case in CHARGES], ids=[case[0] for case in CHARGES]
)
def test_an_answer_charges(
    fields: dict[str, Any],
    prices: PriceList | None,
    expected: tuple[Outcome, int, Basis],
    remarks: tuple[Remark, ...],
) -> None:
    """Unknown is never zero. What cannot be is left out and remarked, and never keeps a reservation open."""
    charged = charge(HELD, answer(fields), prices, LIMIT)
    assert (charged.outcome, charged.spent_micros, charged.basis) == expected
    assert charged.remarks == remarks


def test_quality_and_error_are_passed_on() -> None:
    """The record of a closing carries what the completion says of the answer."""
    charged = charge(HELD, answer({"cost_micros": 5, "quality": 0.5, "error": "why"}), BIG, LIMIT)
    assert charged == Charge("settled", 5, "cost", 0.5, "why")


def test_every_remark_has_a_sentence() -> None:
    """A remark is a code; people read its sentence."""
    assert set(Remark.__args__) == REMARKS.keys()  # type: ignore[attr-defined]
