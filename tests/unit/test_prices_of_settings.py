"""The prices of an LLM, from its settings and from the package's price lists."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from worker.contract.errors import FixSetting
from worker.contract.settings import LlmSettings, Settings
from worker.contract.token_costs import PriceList, Tier

NOW = datetime(2026, 11, 25, tzinfo=UTC)
PRICE_LISTS = [
    ("none", {}, None),
    (
        "input and output",
        {"input_usd_per_mtok": "0.15", "output_usd_per_mtok": "0.6"},
        PriceList(Decimal("0.15"), Decimal("0.6")),
    ),
    (
        "every price",
        {
            "input_usd_per_mtok": 1,
            "output_usd_per_mtok": 2,
            "tool_usd_per_1000": 10,
            "batch_factor": 0.5,
            "tiers": [{"above_input_tokens": 200_000, "input_usd_per_mtok": 2}],
        },
        PriceList(
            Decimal(1),
            Decimal(2),
            tool_usd_per_1000=Decimal(10),
            batch_factor=Decimal("0.5"),
            tiers=(Tier(200_000, input_usd_per_mtok=Decimal(2)),),
        ),
    ),
    (
        "free of charge",
        {"input_usd_per_mtok": "0", "output_usd_per_mtok": "0", "cached_input_usd_per_mtok": "0"},
        PriceList(Decimal(0), Decimal(0), Decimal(0)),
    ),
]


NEGOTIATED = {"price_list": "openai/gpt-4o", "output_usd_per_mtok": "8"}


def test_own_prices_replace_those_of_a_named_list() -> None:
    """A company that has a contract names the list, and the prices that differ."""
    prices = LlmSettings.model_validate({"budget_usd": 1, **NEGOTIATED}).prices(NOW)
    assert prices is not None
    assert (prices.input_usd_per_mtok, prices.output_usd_per_mtok) == (Decimal("2.5"), Decimal(8))


def test_an_unknown_price_list_names_the_setting() -> None:
    """The error names the setting and the models that are near."""
    llm = LlmSettings(budget_usd=Decimal(1), price_list="openai/gpt-4oo")
    with pytest.raises(FixSetting, match=r"llms\.a\.price_list: openai has no model 'gpt-4oo'.*did you mean gpt-4o"):
        Settings(llms={"a": llm}).price_lists(NOW)


@pytest.mark.parametrize(("prices", "price_list"), [c[1:] for c in PRICE_LISTS], ids=[c[0] for c in PRICE_LISTS])
def test_a_price_list(prices: dict[str, Any], price_list: PriceList | None) -> None:
    """A price list with prices of zero is a price list; an LLM without prices has no price list."""
    assert LlmSettings.model_validate({"budget_usd": 1, **prices}).prices(NOW) == price_list
