"""Bounds an estimated cost by what the request itself says: its input tokens, its answers, its most output. Pure.

The estimate is the cost of one answer. Where an LLM has a price list:

    cost = input tokens x input price + min(estimated output cost x answers, most output tokens x output price)

So a cost is never below the price of the input, and never above what the request allows. Without a price list, the
whole estimate is multiplied by the number of answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from worker.contract.messages import Query
from worker.contract.requests import answers, input_tokens, most_output_tokens
from worker.contract.token_costs import MICROS_OF_A_THOUSANDTH, PriceList
from worker.estimation.features import Float64


class Asked(NamedTuple):
    """What requests say of their cost, float64 [n] each: input tokens (nan: unknown), number of answers, and the most
    output tokens of all answers together (infinite: no limit)."""

    input_tokens: Float64
    answers: Float64
    most_output_tokens: Float64


def asked(queries: Sequence[Query]) -> Asked:
    """What these queries say of their cost."""
    most = [most_output_tokens(query) for query in queries]
    return Asked(
        np.array([input_tokens(query) for query in queries], np.float64),
        np.array([answers(query) for query in queries], np.float64),
        np.array([np.inf if limit is None else limit for limit in most], np.float64),
    )


def bounded(cost_micros: Float64, said: Asked, prices: Sequence[PriceList | None]) -> Float64:
    """Estimated costs of one answer [n, LLMs], in micro-dollars -> costs of the whole requests [n, LLMs]."""
    columns = [
        _column(estimate, said, price) for estimate, price in zip(np.asarray(cost_micros).T, prices, strict=True)
    ]
    return np.array(columns, np.float64).reshape(len(prices), len(said.answers)).T


def _column(estimate: Float64, said: Asked, prices: PriceList | None) -> Float64:
    if prices is None:
        return estimate * said.answers
    inputs = np.nan_to_num(said.input_tokens)
    input_price, output_price = _prices(inputs, prices)
    request = float(prices.request_usd_per_1000 or 0) * MICROS_OF_A_THOUSANDTH
    certain = inputs * input_price + request
    output = np.maximum(estimate - certain, 0.0) * said.answers
    # Without input tokens, the estimate is not split: the limit holds for the output alone.
    most = np.where(np.isnan(said.input_tokens), np.inf, _product(said.most_output_tokens, output_price))
    return certain + np.minimum(output, most)


def _prices(input_tokens: Float64, prices: PriceList) -> tuple[Float64, Float64]:
    """Input and output prices [n] of calls with so many input tokens, in micro-dollars a token."""
    input_price = np.full(len(input_tokens), float(prices.input_usd_per_mtok))
    output_price = np.full(len(input_tokens), float(prices.output_usd_per_mtok))
    for tier in sorted(prices.tiers, key=lambda tier: tier.above_input_tokens):
        reached = input_tokens > tier.above_input_tokens
        now = prices.at(tier.above_input_tokens + 1)
        input_price[reached], output_price[reached] = float(now.input_usd_per_mtok), float(now.output_usd_per_mtok)
    return input_price, output_price


def _product(tokens: Float64, price: Float64) -> Float64:
    """Tokens times price. No limit of tokens is no limit of money, also at a price of 0."""
    limited = np.isfinite(tokens)
    return np.where(limited, np.where(limited, tokens, 0.0) * price, np.inf)
