"""Price lists by name, from the package genai-prices: `openai/gpt-4o` is the list of OpenAI's gpt-4o.

The package holds the prices that providers publish, and needs no network. The prices in force are written into the
recorded configuration as numbers, so an audit needs neither the package nor its version of that day.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from worker.contract.token_costs import PriceList, Tier

if TYPE_CHECKING:
    from genai_prices.types import Provider

# Our prices of tokens by the package's names.
OF_TOKENS = {
    "input_usd_per_mtok": "input_mtok",
    "output_usd_per_mtok": "output_mtok",
    "cached_input_usd_per_mtok": "cache_read_mtok",
    "cache_write_usd_per_mtok": "cache_write_mtok",
    "cache_write_1h_usd_per_mtok": "cache_write_1h_mtok",
    "input_audio_usd_per_mtok": "input_audio_mtok",
    "output_audio_usd_per_mtok": "output_audio_mtok",
}
OF_CALLS = {"tool_usd_per_1000": "web_searches_kcount", "request_usd_per_1000": "requests_kcount"}


class UnknownPriceList(Exception):
    """A name of a price list that the package does not hold, or that has no prices of input and output tokens."""


def named_price_list(name: str, at: datetime) -> PriceList:
    """The price list `<provider>/<model>` as of a time. Raises UnknownPriceList, which says what is near."""
    # Half a second of imports that only a named price list needs.
    from genai_prices import data_snapshot

    provider_id, slash, model_id = name.partition("/")
    providers = {provider.id: provider for provider in data_snapshot.get_snapshot().providers}
    if not slash or provider_id not in providers:
        raise UnknownPriceList(
            f"price_list is <provider>/<model>, for example openai/gpt-4o; {provider_id!r} is not one of the "
            f"providers {', '.join(sorted(providers))}"
        )
    provider = providers[provider_id]
    model = provider.find_model(model_id)
    if model is None:
        raise UnknownPriceList(f"{provider_id} has no model {model_id!r} in genai-prices{_near(provider, model_id)}")
    prices = model.get_prices(at)
    return _list_of({key: value for key, value in vars(prices).items() if value is not None}, name)


def _near(provider: Provider, model_id: str) -> str:
    near = get_close_matches(model_id, [model.id for model in provider.models], n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _list_of(prices: dict[str, Any], name: str) -> PriceList:
    if not {"input_mtok", "output_mtok"} <= prices.keys():
        raise UnknownPriceList(f"{name} has no prices of input and output tokens in genai-prices; set them by hand")
    own: dict[str, Any] = {ours: _base(prices[theirs]) for ours, theirs in OF_TOKENS.items() if theirs in prices}
    own |= {ours: _base(prices[theirs]) for ours, theirs in OF_CALLS.items() if theirs in prices}
    return PriceList(**own, tiers=_tiers(prices))


def _base(price: Any) -> Decimal:
    return price if isinstance(price, Decimal) else Decimal(price.base)


def _tiers(prices: dict[str, Any]) -> tuple[Tier, ...]:
    """Tiers by their start. The package keeps tiers by price, each with starts of its own."""
    tiered = {
        ours: prices[theirs]
        for ours, theirs in OF_TOKENS.items()
        if ours in Tier.__struct_fields__ and theirs in prices
    }
    tiered = {ours: price for ours, price in tiered.items() if not isinstance(price, Decimal)}
    starts = sorted({tier.start for price in tiered.values() for tier in price.tiers})
    return tuple(Tier(start, **{ours: _at(price, start) for ours, price in tiered.items()}) for start in starts)


def _at(price: Any, start: int) -> Decimal:
    reached = [tier for tier in price.tiers if tier.start <= start]
    return Decimal(max(reached, key=lambda tier: tier.start).price if reached else price.base)
