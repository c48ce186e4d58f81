"""PORT (arXiv 2509.02718) against cases worked out by hand."""

from __future__ import annotations

from collections import Counter
from typing import Unpack

import numpy as np
import pytest
from msgspec.structs import replace

from tests.drive import ConfigurationChanges, config
from worker.core.policy import PORT_ALPHA, PortPolicy, View, port_weights
from worker.core.window import Sample

PRICES = (0.001, 0.002, 0.0)


def port(**changes: Unpack[ConfigurationChanges]) -> PortPolicy:
    """A lane's PORT over three LLMs that observes 6 of 60 queries."""
    return PortPolicy(replace(config(**changes), policy="port"), partition=0)


def view(quality: list[list[float]], cost_usd: list[list[float]], budget_usd: list[float]) -> View:
    """The view of PORT at the end of its observation phase."""
    budget = np.array(budget_usd) * 1e6
    none = np.empty((0, len(budget)))
    shown = np.array(quality).reshape(-1, len(budget)), np.array(cost_usd).reshape(-1, len(budget)) * 1e6
    nothing, prices = Sample.untagged(none, none), (0.0,) * len(budget)
    return View(len(quality), Sample.untagged(*shown), nothing, budget, budget, prices)


@pytest.mark.parametrize(
    ("quality", "cost", "chosen"),
    [
        pytest.param([0.9, 0.5, 0.2], [100, 10, 1], 0, id="0.8 beats 0.48 and 0.2"),
        pytest.param([0.9, 0.5, 0.2], [500, 10, 1], 1, id="0.4 loses to 0.48"),
        pytest.param([0.9, 0.5, 0.2], [800, 200, 1], 2, id="0.1 loses to 0.2"),
        pytest.param([0.1, 0.1, 0.0], [500, 300, 1], 2, id="no gate: 0 is chosen over -0.4 and -0.5"),
        pytest.param([0.5, 0.5, 0.0], [0, 0, 0], 0, id="a tie goes to the first"),
    ],
)
def test_after_observing_the_argmax_is_tried_and_nothing_else(
    quality: list[float], cost: list[int], chosen: int
) -> None:
    """The LLM with the largest alpha * q - gamma * c is the only choice, also if the value is below 0."""
    charges = [price * each for price, each in zip(PRICES, cost, strict=True)]
    assert port().rank(6, quality, charges) == [chosen]


def test_the_first_queries_are_observed_at_random() -> None:
    """A share of the horizon goes to a random LLM or to none, each as likely. Seed, partition and number decide
    alone."""
    policy = port(horizon_queries=40_000, observe_share=0.1)
    drawn = [tuple(policy.rank(seen, [0.9, 0.1, 0.1], PRICES)) for seen in range(4_000)]
    counts = Counter(drawn)
    again = [tuple(policy.rank(seen, [0.1, 0.1, 0.9], [9 * price for price in PRICES])) for seen in range(4_000)]
    assert policy.observed_queries == 4_000
    assert counts.keys() == {(), (0,), (1,), (2,)}
    assert min(counts.values()) > 900, counts
    assert max(counts.values()) < 1_100, counts
    assert drawn == again, "other estimates and costs change the draws"


@pytest.mark.parametrize(
    ("horizon", "share", "observed"),
    [(60, 0.1, 6), (61, 0.1, 7), (8_000, 0.025, 200), (0, 0.5, 3)],
    ids=["60", "rounded up", "the paper's", "horizon unknown: its floor"],
)
def test_weights_are_learned_once_when_the_observation_ends(horizon: int, share: float, observed: int) -> None:
    """Weights are solved before query number ceil(share * horizon), and never again."""
    policy = port(horizon_queries=horizon, observe_share=share)
    assert [seen for seen in range(observed + 500) if policy.due(seen)] == [observed]


def test_one_llm_has_the_price_that_its_budget_allows() -> None:
    """Four queries of quality 0.2, 0.4, 0.6, 0.8 cost 1 dollar each, and epsilon * budget is 0. With one LLM, the
    sum of max(alpha q - gamma c) falls with gamma without end, so gamma stops at its bound, 1."""
    found = port_weights(np.array([[0.2], [0.4], [0.6], [0.8]]), np.ones((4, 1)), np.zeros(1), 0.1)
    assert found.x.tolist() == [1.0]


def test_weights_are_the_minimum_of_the_published_dual() -> None:
    """With a second LLM that is free and worth nothing, a query costing 1 dollar goes to the first while alpha * q is
    above gamma: 0.2, 0.4, 0.6, 0.8. The slope of the dual is epsilon * budget = 1.5 less the number of such queries,
    and changes sign between two of them and one, at gamma = 0.6."""
    quality = np.array([[0.2, 0.0], [0.4, 0.0], [0.6, 0.0], [0.8, 0.0]]) / PORT_ALPHA
    found = port_weights(quality, np.array([[1.0, 0.0]] * 4), np.array([15.0, 0.0]), 0.1)
    assert found.x[0] == pytest.approx(0.6, abs=0.01)


def test_prices_are_gamma_over_alpha_per_micro_dollar() -> None:
    """If gamma is 1 (see above), the price is 1 / 1e-4 / 1e6 = 0.01 of quality for a micro-dollar."""
    one: ConfigurationChanges = {"llms": ("large",), "budget_micros": {"large": 0}, "observe_share": 0.1}
    solution = port(**one).solve(view([[0.2], [0.4], [0.6], [0.8]], [[1.0]] * 4, [0.0]))
    assert solution.prices == pytest.approx((0.01,))
    assert solution.fit.status == "converged"


def test_nothing_observed_keeps_the_prices() -> None:
    """Without an observed query PORT keeps the prices."""
    empty = view([], [], [1.0, 1.0, 1.0])
    blank = View(0, empty.window, empty.prior, empty.amount, empty.balance, PRICES)
    solution = port().solve(blank)
    assert solution.prices == PRICES
    assert solution.fit.status == "observing"
