"""Prices the token usage that a provider returned. Pure; integer micro-dollars, rounded half up.

One US dollar per million tokens is one micro-dollar per token. Field names as the providers document them:
- OpenAI chat completions: prompt_tokens, completion_tokens, prompt_tokens_details.cached_tokens (part of the prompt);
- OpenAI responses: input_tokens, output_tokens, input_tokens_details.cached_tokens (part of the input);
- Anthropic messages: input_tokens, output_tokens, and *beside* the input cache_read_input_tokens and
  cache_creation_input_tokens;
- Gemini: promptTokenCount, toolUsePromptTokenCount (beside the prompt), cachedContentTokenCount (part of the prompt),
  candidatesTokenCount, thoughtsTokenCount (beside the candidates); also in snake_case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from worker.contract.errors import RejectRecord
from worker.contract.messages import MAX_TOKENS


@dataclass(frozen=True)
class PriceList:
    """US dollars per million tokens. Without a price of its own, cached input costs what input costs."""

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None = None


@dataclass(frozen=True)
class Unknown:
    """Usage that cannot be priced, and why. It is never taken to be zero."""

    reason: str


@dataclass(frozen=True)
class _Tokens:
    """`cached` is not part of `input` here, whatever the provider says."""

    input: int
    cached: int
    output: int


def cost_micros(usage: Mapping[str, Any], prices: PriceList) -> int | Unknown:
    """What this usage cost, in micro-dollars. Raises RejectRecord for counts that cannot be."""
    tokens = _tokens(usage)
    if isinstance(tokens, Unknown):
        return tokens
    cached_price = prices.cached_input_usd_per_mtok
    cost = (
        tokens.input * prices.input_usd_per_mtok
        + tokens.cached * (prices.input_usd_per_mtok if cached_price is None else cached_price)
        + tokens.output * prices.output_usd_per_mtok
    )
    return int(cost.to_integral_value(ROUND_HALF_UP))


def _tokens(usage: Mapping[str, Any]) -> _Tokens | Unknown:
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        cached = _detail(usage, "prompt_tokens_details")
        return _including(_count(usage, "prompt_tokens"), cached, _count(usage, "completion_tokens"))
    if "input_tokens" in usage or "output_tokens" in usage:
        return _input_output(usage)
    return _gemini({_camel(name): value for name, value in usage.items()})


def _input_output(usage: Mapping[str, Any]) -> _Tokens | Unknown:
    given, output = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    if "cache_read_input_tokens" not in usage and "cache_creation_input_tokens" not in usage:
        return _including(given, _detail(usage, "input_tokens_details"), output)
    if given is None or output is None:
        return Unknown("input_tokens or output_tokens is missing")
    # Writing a cache is billed at or above the input price; the price list has no price of its own for it.
    written = _count(usage, "cache_creation_input_tokens") or 0
    return _Tokens(given + written, _count(usage, "cache_read_input_tokens") or 0, output)


def _gemini(usage: Mapping[str, Any]) -> _Tokens | Unknown:
    answer, thoughts = _count(usage, "candidatesTokenCount"), _count(usage, "thoughtsTokenCount")
    output = None if answer is None and thoughts is None else (answer or 0) + (thoughts or 0)
    prompt, tools = _count(usage, "promptTokenCount"), _count(usage, "toolUsePromptTokenCount")
    given = None if prompt is None else prompt + (tools or 0)
    return _including(given, _count(usage, "cachedContentTokenCount") or 0, output)


def _including(given: int | None, cached: int, output: int | None) -> _Tokens | Unknown:
    if given is None or output is None:
        return Unknown("usage names no input and output tokens that are known here")
    if cached > given:
        raise RejectRecord("usage", f"usage: {cached} cached tokens of {given} input tokens")
    return _Tokens(given - cached, cached, output)


def _detail(usage: Mapping[str, Any], name: str) -> int:
    details = usage.get(name)
    return (_count(details, "cached_tokens") or 0) if isinstance(details, Mapping) else 0


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TOKENS:
        raise RejectRecord("usage", f"usage.{name}: not a count of tokens between 0 and {MAX_TOKENS}")
    return value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
