"""An estimated cost is bounded by what the request itself says."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from worker.contract.messages import Query
from worker.contract.token_costs import PriceList, Tier
from worker.estimation.bounds import asked, bounded

# Micro-dollars a token: input 3, output 15; above 200,000 input tokens 6 and 22.5.
BIG = PriceList(Decimal(3), Decimal(15), tiers=(Tier(200_000, Decimal(6), Decimal("22.5")),))
ONE_ANSWER = 1_000.0

CASES = [
    ("no counts: the estimate", Query(), 1_000.0),
    ("input below the estimate: the estimate", Query(input_tokens=100), 1_000.0),
    ("input above the estimate: the input", Query(input_tokens=128_000), 384_000.0),
    ("input in a dearer tier", Query(input_tokens=300_000), 1_800_000.0),
    ("a limit below the estimate", Query(input_tokens=100, max_output_tokens=5), 375.0),
    ("a limit above the estimate", Query(input_tokens=100, max_output_tokens=5_000), 1_000.0),
    ("a limit in a request", Query(input_tokens=100, body={"max_tokens": 5}), 375.0),
    ("ten answers: ten times the output", Query(input_tokens=100, body={"n": 10}), 7_300.0),
    ("ten answers of five tokens", Query(input_tokens=100, body={"n": 10, "max_tokens": 5}), 1_050.0),
    ("no tokens at all", Query(input_tokens=0, max_output_tokens=0), 0.0),
]


@pytest.mark.parametrize(("query", "micros"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_cost_is_bounded(query: Query, micros: float) -> None:
    """The input is always paid; the output is at most what the request allows, once for each answer."""
    assert bounded(np.array([[ONE_ANSWER]]), asked([query]), [BIG]).tolist() == [[micros]]


def test_without_a_price_list_every_answer_costs_the_estimate() -> None:
    """Nothing says how much of the estimate is input: so n answers cost n times the estimate."""
    said = asked([Query(input_tokens=128_000), Query(body={"n": 10, "max_tokens": 5})])
    assert bounded(np.array([[7.0], [7.0]]), said, [None]).tolist() == [[7.0], [70.0]]


def test_costs_stay_in_their_places() -> None:
    """Rows are queries and columns are LLMs."""
    said = asked([Query(input_tokens=10), Query(input_tokens=1_000)])
    free = PriceList(Decimal(0), Decimal(0))
    costs = bounded(np.array([[100.0, 5.0, 6.0], [100.0, 5.0, 6.0]]), said, [BIG, None, free])
    assert costs.tolist() == [[100.0, 5.0, 6.0], [3_000.0, 5.0, 6.0]]


def test_a_fee_for_each_request_is_certain() -> None:
    """A price of a request is paid beside the tokens."""
    fee = PriceList(Decimal(0), Decimal(1), request_usd_per_1000=Decimal(5))
    assert bounded(np.array([[10.0]]), asked([Query(input_tokens=1)]), [fee]).tolist() == [[5_000.0]]
