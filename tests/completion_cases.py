"""The completions of tests/cases, and the price list that their right values are by."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from worker.contract.token_costs import PriceList, Tier

CASES = Path(__file__).parent / "cases" / "completions"

# A model that charges for everything.
BIG = PriceList(
    input_usd_per_mtok=Decimal(3),
    output_usd_per_mtok=Decimal(15),
    cached_input_usd_per_mtok=Decimal("0.3"),
    cache_write_usd_per_mtok=Decimal("3.75"),
    cache_write_1h_usd_per_mtok=Decimal(6),
    output_audio_usd_per_mtok=Decimal(80),
    batch_factor=Decimal("0.5"),
    tiers=(Tier(200_000, input_usd_per_mtok=Decimal(6), output_usd_per_mtok=Decimal("22.5")),),
)
