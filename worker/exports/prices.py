"""What an answer cost by a list of prices, where its source does not say so. Exact dollars, not rounded.

A cost that the source states stays. A cost of 0 is one only if the price is 0: tools also store 0 where they do not
know the price, for a stream without usage, and for an own key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from worker.contract.errors import FixSetting
from worker.contract.price_lists import UnknownPriceList, named_price_list
from worker.contract.token_costs import PriceList, exact_micros
from worker.contract.usage import MICROS_PER_USD, Usage, number
from worker.exports.files import File, field
from worker.exports.records import Answer

PUBLISHED = "published"
# OpenAI's Batch API costs half ("Batch API", pricing), and other providers ask the same.
BATCH_FACTOR = Decimal("0.5")
# Beyond so much, the stated costs and the prices do not speak of the same tokens.
MOST_DIFFERENCE = Decimal("0.05")
LEAST_COMPARED = 3
PRICES = ("input_usd_per_mtok", "output_usd_per_mtok", "cached_input_usd_per_mtok")

# The prices of an LLM, by its name, the name that was seen, and the time of the call.
PriceOf = Callable[[str, str, int | None], PriceList | None]


def no_prices(_llm: str, _seen: str, _at_ms: int | None) -> PriceList | None:
    """Where the user names no prices, nothing is priced."""
    return None


def read_prices(file: Path) -> PriceOf:
    """Prices of a table with the columns `llm`, `input_usd_per_mtok`, `output_usd_per_mtok` and, where cached input has
    a price of its own, `cached_input_usd_per_mtok`. Raises FixSetting."""
    lists: dict[str, PriceList] = {}
    for number_of_row, row in enumerate(File(file, file.name).rows(), start=1):
        llm = field(row, "llm", "model")
        prices = {name: number(field(row, name)) for name in PRICES}
        needed = [prices[name] for name in PRICES[:2]]
        if not isinstance(llm, str) or any(price is None or price < 0 for price in needed):
            raise FixSetting(
                f"{file}: row {number_of_row}: prices have the columns llm, {', '.join(PRICES)}, in US dollars per "
                "million tokens"
            )
        known: dict[str, Any] = {name: price for name, price in prices.items() if price is not None}
        lists[llm.strip()] = PriceList(**known)
    return lambda llm, seen, _: lists.get(llm, lists.get(seen))


def published_prices() -> PriceOf:
    """The prices that providers publish (the package genai-prices), by the name that was seen, at the time of the call.

    A name without its provider (`gpt-4o`) is looked for with the providers whose names begin so.
    """
    found: dict[tuple[str, str], PriceList | None] = {}

    def price_of(llm: str, seen: str, at_ms: int | None) -> PriceList | None:
        at = datetime.now(UTC) if at_ms is None else datetime.fromtimestamp(at_ms / 1_000, UTC)
        key = (seen, f"{at:%Y-%m-%d}")
        if key not in found:
            found[key] = next((prices for name in _listed(seen, llm) if (prices := _published(name, at))), None)
        return found[key]

    return price_of


OWNERS = {
    "gpt": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "claude": "anthropic",
    "gemini": "google",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "grok": "x-ai",
    "command": "cohere",
}


def _listed(*names: str) -> Iterable[str]:
    """Names of price lists, `<provider>/<model>`, that a name may mean."""
    for name in names:
        if "/" in name:
            yield name
        owner = OWNERS.get(name.rpartition("/")[2].split("-")[0])
        if owner is not None:
            yield f"{owner}/{name.rpartition('/')[2]}"


def _published(name: str, at: datetime) -> PriceList | None:
    try:
        return named_price_list(name, at)
    except UnknownPriceList:
        return None


def priced(answer: Answer, prices: PriceList | None) -> Decimal | None:
    """What an answer's tokens cost in US dollars; None without a price or without both counts."""
    counts = answer.counts
    if prices is None or counts.input_tokens is None or counts.output_tokens is None:
        return None
    cached = min(counts.cached_tokens or 0, counts.input_tokens)
    written = min(counts.written_tokens or 0, counts.input_tokens - cached)
    used = Usage(counts.input_tokens - cached - written, counts.output_tokens, cached, written, batch=answer.batch)
    if answer.batch and prices.batch_factor is None:
        prices = replace(prices, batch_factor=BATCH_FACTOR)
    return exact_micros(used, prices) / MICROS_PER_USD


def differences(answers: Iterable[Answer], names: Mapping[str, str], price_of: PriceOf) -> dict[str, Decimal]:
    """How far the stated costs of each LLM are from its tokens times its prices, where that is beyond 5 %.

    0.2 says that the source states 20 % more. Cached tokens that are counted twice or not at all are the usual reason.
    """
    stated: dict[str, Decimal] = defaultdict(Decimal)
    listed: dict[str, Decimal] = defaultdict(Decimal)
    count: dict[str, int] = defaultdict(int)
    for answer in answers:
        llm = names[answer.model]
        cost = priced(answer, price_of(llm, answer.model, answer.at_ms))
        if cost and answer.cost_usd:
            stated[llm] += answer.cost_usd
            listed[llm] += cost
            count[llm] += 1
    apart = {llm: stated[llm] / listed[llm] - 1 for llm in stated if count[llm] >= LEAST_COMPARED}
    return {llm: share for llm, share in apart.items() if abs(share) > MOST_DIFFERENCE}
