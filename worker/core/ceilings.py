"""What a query can cost at most: its own token counts at list prices. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.contract.messages import Query
from worker.contract.token_costs import PriceList

UNPRICED = (np.inf, np.inf)


def ceilings_micros(queries: Sequence[Query], prices: Sequence[PriceList | None]) -> NDArray[np.float64]:
    """The most that each query can cost with each LLM, float64 [queries, LLMs] of whole micro-dollars, rounded up.

    Infinite where a query does not say both `input_tokens` and `max_output_tokens`, or an LLM has no price list.
    """
    tokens = np.array([_tokens(query) for query in queries], np.float64).reshape(-1, 2)
    rates = np.array([_rates(price) for price in prices], np.float64).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        most = np.ceil(tokens[:, :1] * rates[:, 0] + tokens[:, 1:] * rates[:, 1])
    # 0 tokens at an unknown price.
    return np.nan_to_num(most, nan=np.inf, posinf=np.inf)


def _tokens(query: Query) -> tuple[float, float]:
    if query.input_tokens is None or query.max_output_tokens is None:
        return np.inf, np.inf
    return float(query.input_tokens), float(query.max_output_tokens)


def _rates(price: PriceList | None) -> tuple[float, float]:
    return UNPRICED if price is None else (float(price.input_usd_per_mtok), float(price.output_usd_per_mtok))
