"""Prices the token usage of a call. Pure; integer micro-dollars, rounded half up.

One US dollar per million tokens is one micro-dollar per token. `usage` reads what the provider returned.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from worker.contract.usage import UnusableUsage, Usage, read_usage

UnpricedDetail = Literal["input_audio", "output_audio", "tool_calls", "service_tier"]

# Anthropic's rule, which others follow: writing a cache costs a quarter more than input, for an hour twice as much.
CACHE_WRITE_FACTOR = Decimal("1.25")
CACHE_WRITE_1H_FACTOR = Decimal(2)
# A price of 1 US dollar per thousand is 1,000 micro-dollars each.
MICROS_OF_A_THOUSANDTH = 1_000


class Tier(Struct, frozen=True):
    """Prices of a call whose input has more than `above_input_tokens` tokens, cached ones included. None keeps the
    price of the list."""

    above_input_tokens: int
    input_usd_per_mtok: Decimal | None = None
    output_usd_per_mtok: Decimal | None = None
    cached_input_usd_per_mtok: Decimal | None = None
    cache_write_usd_per_mtok: Decimal | None = None
    cache_write_1h_usd_per_mtok: Decimal | None = None


class PriceList(Struct, frozen=True):
    """US dollars per million tokens; `tool_usd_per_1000` for a thousand calls of a provider's own tools, and
    `request_usd_per_1000` for a thousand requests.

    Without a price of its own, cached input costs what input costs, writing a cache 1.25 times and for an hour 2 times
    the input. Audio, tool calls and service tiers have no price unless the list has one. `batch_factor` is the share
    of the price that a batch costs; without it a batch costs the full price.
    """

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None = None
    cache_write_usd_per_mtok: Decimal | None = None
    cache_write_1h_usd_per_mtok: Decimal | None = None
    input_audio_usd_per_mtok: Decimal | None = None
    output_audio_usd_per_mtok: Decimal | None = None
    tool_usd_per_1000: Decimal | None = None
    request_usd_per_1000: Decimal | None = None
    batch_factor: Decimal | None = None
    tiers: tuple[Tier, ...] = ()

    @property
    def is_free(self) -> bool:
        """Whether no token and no tool call costs anything."""
        prices = [self.input_usd_per_mtok, self.output_usd_per_mtok]
        prices += [self.input_audio_usd_per_mtok or Decimal(0), self.output_audio_usd_per_mtok or Decimal(0)]
        prices += [
            price or Decimal(0) for tier in self.tiers for price in (tier.input_usd_per_mtok, tier.output_usd_per_mtok)
        ]
        return not any(prices) and not self.tool_usd_per_1000 and not self.request_usd_per_1000

    def at(self, input_tokens: int) -> PriceList:
        """The prices of a call with so many input tokens: those of the highest tier that it reaches."""
        reached = [tier for tier in self.tiers if input_tokens > tier.above_input_tokens]
        if not reached:
            return self
        tier = max(reached, key=lambda tier: tier.above_input_tokens)
        fields = [name for name in Tier.__struct_fields__ if name != "above_input_tokens"]
        own = {name: price for name in fields if (price := getattr(tier, name)) is not None}
        return replace(self, tiers=(), **own)


class Cost(Struct, frozen=True):
    """What a call cost. `unpriced` are its details that the price list has no price for: `micros` is then a lower
    bound, unless the provider stated the cost itself."""

    micros: int
    unpriced: tuple[UnpricedDetail, ...] = ()


def cost_of(given: object, prices: PriceList) -> Cost | UnusableUsage:
    """What the usage that a provider returned cost, by the provider's own statement or by the price list."""
    usage = read_usage(given)
    if isinstance(usage, UnusableUsage):
        return Cost(0) if usage.code == "zero" and prices.is_free else usage
    return price(usage, prices)


def stated(usage: Usage) -> Cost | None:
    """The cost that the provider states itself, which wins over every price list; None where it states none."""
    return None if usage.stated_micros is None else Cost(usage.stated_micros)


def price(usage: Usage, prices: PriceList) -> Cost:
    """What this usage cost, by the provider's own statement or by the price list."""
    said = stated(usage)
    if said is not None:
        return said
    micros = exact_micros(usage, prices)
    return Cost(int(micros.to_integral_value(ROUND_HALF_UP)), _unpriced(usage, prices.at(usage.all_input_tokens)))


def exact_micros(usage: Usage, prices: PriceList) -> Decimal:
    """What this usage cost by a price list, in micro-dollars that are not rounded."""
    now = prices.at(usage.all_input_tokens)
    fresh, out = now.input_usd_per_mtok, now.output_usd_per_mtok
    cost = (
        usage.input_tokens * fresh
        + usage.cache_read_tokens * _or(now.cached_input_usd_per_mtok, fresh)
        + usage.cache_write_tokens * _or(now.cache_write_usd_per_mtok, fresh * CACHE_WRITE_FACTOR)
        + usage.cache_write_1h_tokens * _or(now.cache_write_1h_usd_per_mtok, fresh * CACHE_WRITE_1H_FACTOR)
        + usage.input_audio_tokens * _or(now.input_audio_usd_per_mtok, fresh)
        + usage.output_tokens * out
        + usage.output_audio_tokens * _or(now.output_audio_usd_per_mtok, out)
    )
    if usage.batch:
        cost *= _or(now.batch_factor, Decimal(1))
    cost += usage.tool_calls * _or(now.tool_usd_per_1000, Decimal(0)) * MICROS_OF_A_THOUSANDTH
    return cost + _or(now.request_usd_per_1000, Decimal(0)) * MICROS_OF_A_THOUSANDTH


def _or(price: Decimal | None, otherwise: Decimal) -> Decimal:
    return otherwise if price is None else price


def _unpriced(usage: Usage, prices: PriceList) -> tuple[UnpricedDetail, ...]:
    details: list[tuple[UnpricedDetail, bool]] = [
        ("input_audio", usage.input_audio_tokens > 0 and prices.input_audio_usd_per_mtok is None),
        ("output_audio", usage.output_audio_tokens > 0 and prices.output_audio_usd_per_mtok is None),
        ("tool_calls", usage.tool_calls > 0 and prices.tool_usd_per_1000 is None),
        ("service_tier", usage.service_tier is not None),
    ]
    return tuple(name for name, is_unpriced in details if is_unpriced)
