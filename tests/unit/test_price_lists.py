"""Price lists by name come from a package that knows the providers' prices, and become numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from worker.contract.price_lists import UnknownPriceList, named_price_list
from worker.contract.token_costs import Cost, cost_of

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def test_a_named_list_has_the_provider_s_prices() -> None:
    """Input, output, cached input and searches of a model that has been priced for years."""
    prices = named_price_list("openai/gpt-4o", NOW)
    assert prices.input_usd_per_mtok == Decimal("2.5")
    assert prices.output_usd_per_mtok == Decimal(10)
    assert prices.cached_input_usd_per_mtok == Decimal("1.25")
    assert prices.tool_usd_per_1000 == Decimal(10)


def test_a_named_list_has_the_provider_s_tiers() -> None:
    """A long input costs more, cached and written tokens too."""
    prices = named_price_list("anthropic/claude-sonnet-4-5", NOW)
    short, long = prices.at(200_000), prices.at(200_001)
    assert (short.input_usd_per_mtok, long.input_usd_per_mtok) == (Decimal(3), Decimal(6))
    assert (short.output_usd_per_mtok, long.output_usd_per_mtok) == (Decimal(15), Decimal("22.5"))
    assert long.cache_write_usd_per_mtok == Decimal("7.5")


def test_a_named_list_prices_usage() -> None:
    """It is a price list like one that is written by hand."""
    used = {"prompt_tokens": 1_000, "completion_tokens": 100}
    assert cost_of(used, named_price_list("openai/gpt-4o", NOW)) == Cost(3_500)


UNKNOWN = [
    ("gpt-4o", "<provider>/<model>"),
    ("nobody/gpt-4o", "anthropic"),
    ("openai/gpt-4ooo", "did you mean"),
]


@pytest.mark.parametrize(("name", "hint"), UNKNOWN)
def test_an_unknown_name_says_what_is_near(name: str, hint: str) -> None:
    """The message names what was asked for and what there is."""
    with pytest.raises(UnknownPriceList, match=hint):
        named_price_list(name, NOW)
