"""Prices the token usage that a provider returned. Pure; integer micro-dollars, rounded half up.

One US dollar per million tokens is one micro-dollar per token. Field names as the providers document them:
- OpenAI chat completions: prompt_tokens, completion_tokens, prompt_tokens_details.cached_tokens (part of the prompt);
- OpenAI responses: input_tokens, output_tokens, input_tokens_details.cached_tokens (part of the input);
- Anthropic messages: input_tokens, output_tokens, and beside the input cache_read_input_tokens and
  cache_creation_input_tokens;
- Gemini: promptTokenCount, toolUsePromptTokenCount (beside the prompt), cachedContentTokenCount (part of the prompt),
  candidatesTokenCount, thoughtsTokenCount (beside the candidates); also in snake_case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from worker.contract.codes import Rejection
from worker.contract.messages import MAX_TOKENS


@dataclass(frozen=True)
class PriceList:
    """US dollars per million tokens. Without a price of its own, cached input costs what input costs."""

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None = None


@dataclass(frozen=True)
class Unknown:
    """Usage that cannot be priced: it names no input tokens or no output tokens. It is never taken to be zero."""


@dataclass(frozen=True)
class _Form:
    """The names of one provider's counts. The price list has no price for writing a cache, which is billed as input.

    Input without the count `input` is unknown; `more_input` counts are added to it. Output is unknown where none of
    `output` is given. `cached` is a part of the input, or comes beside it.
    """

    input: str
    output: tuple[str, ...]
    cached: str
    cached_is_part: bool = True
    more_input: tuple[str, ...] = ()


CHAT = _Form("prompt_tokens", ("completion_tokens",), "prompt_tokens_details.cached_tokens")
RESPONSES = _Form("input_tokens", ("output_tokens",), "input_tokens_details.cached_tokens")
ANTHROPIC = _Form(
    "input_tokens", ("output_tokens",), "cache_read_input_tokens", False, ("cache_creation_input_tokens",)
)
GEMINI = _Form(
    "promptTokenCount",
    ("candidatesTokenCount", "thoughtsTokenCount"),
    "cachedContentTokenCount",
    more_input=("toolUsePromptTokenCount",),
)


def cost_micros(usage: Mapping[str, Any], prices: PriceList) -> int | Unknown | Rejection:
    """The cost of this usage in micro-dollars, or why the completion cannot be used: it has impossible counts."""
    form, usage = _form(usage)
    counts = {name: _lookup(usage, name) for name in (form.input, *form.more_input, *form.output, form.cached)}
    for name, count in counts.items():
        if not _is_count(count):
            return Rejection("usage", MAX_TOKENS, f"usage.{name}")
    if counts[form.input] is None or all(counts[name] is None for name in form.output):
        return Unknown()
    given = sum(counts[name] or 0 for name in (form.input, *form.more_input))
    cached = counts[form.cached] or 0
    if form.cached_is_part:
        if cached > given:
            return Rejection("cached_tokens", given, str(cached))
        given -= cached
    cached_price = prices.cached_input_usd_per_mtok
    cost = (
        given * prices.input_usd_per_mtok
        + cached * (prices.input_usd_per_mtok if cached_price is None else cached_price)
        + sum(counts[name] or 0 for name in form.output) * prices.output_usd_per_mtok
    )
    return int(cost.to_integral_value(ROUND_HALF_UP))


def _form(usage: Mapping[str, Any]) -> tuple[_Form, Mapping[str, Any]]:
    """The form that a usage has, and the usage under the names of this form."""
    if usage.keys() & {"prompt_tokens", "completion_tokens"}:
        return CHAT, usage
    if usage.keys() & {"input_tokens", "output_tokens"}:
        cache = {"cache_read_input_tokens", "cache_creation_input_tokens"}
        return ANTHROPIC if usage.keys() & cache else RESPONSES, usage
    return GEMINI, {_camel(name): value for name, value in usage.items()}


def _lookup(usage: Mapping[str, Any], name: str) -> Any:
    outer, _, inner = name.partition(".")
    value = usage.get(outer)
    if not inner:
        return value
    return value.get(inner) if isinstance(value, Mapping) else None


def _is_count(value: Any) -> bool:
    """Whether a value is a count of tokens, or is not given."""
    return value is None or (type(value) is int and 0 <= value <= MAX_TOKENS)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
