"""Prices of many budgets that overlap: beside the best routing that HiGHS finds, and what is unique of them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.optimize import check_grad

from tests.drive import config
from worker.contract.accounts import Budget
from worker.core.draws import Draws
from worker.core.market import market_of
from worker.core.solver import dual, smoothed, solve
from worker.core.window import Sample
from worker.evaluation.price_sizes import SIZES, made_up, optimum

# What the dual may be above the optimum, as a share of it.
WORST_GAP = 0.02


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("start", [0.0, 1e6], ids=["from nothing", "from far too high prices"])
def test_prices_of_overlapping_budgets_reach_the_optimum(size: tuple[int, int, int, float], start: float) -> None:
    """The dual objective is within 2 % of what HiGHS reaches, for up to 300 LLMs and some 300 budgets."""
    here = made_up(*size).market
    best = optimum(here)
    found, fit = solve(here, (start,) * len(here.budget))
    assert fit.status == "converged", fit
    assert best - 1e-6 <= fit.objective <= best * (1 + WORST_GAP), (best, fit)
    assert fit.gap <= 0.05, fit
    assert any(found), "budgets are short, so some have a price"


@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_the_gradient_is_the_slope_of_the_smoothed_dual(temperature: float) -> None:
    """Also where budgets overlap and queries are of several teams."""
    here = made_up(5, 4, 80, 0.4).market
    at = np.random.default_rng(1).random(len(here.budget)) * 0.3
    value = partial(smoothed, here, temperature=temperature)
    assert check_grad(lambda y: value(y)[0], lambda y: value(y)[1], at, epsilon=1e-7) < 1e-3
    assert 0 <= value(at)[0] - dual(here, at) <= temperature * np.log(6)


def test_of_two_budgets_that_are_the_same_only_the_sum_is_unique() -> None:
    """A budget that stands twice is worth what it is worth once. The solver may share the price out as it likes."""
    draw = np.random.default_rng(2)
    sample = Sample.untagged(draw.random((200, 2)), draw.lognormal(3.0, 1.0, (200, 2)))
    once = (Budget("a", "usd", 0),)
    per_query = np.full(2, 0.1 * float(sample.cost_micros.mean()))
    paid = []
    for budgets in (once, (*once, Budget("b", "usd", 0))):
        draws = Draws(config(llms=("x", "y"), margins=(1.0, 1.0), budget_micros={}, budgets=budgets))
        prices, _ = solve(market_of(sample, draws, per_query[: len(budgets)]), (0.0,) * len(budgets))
        paid.append(sum(prices))
    assert paid[1] == pytest.approx(paid[0], rel=0.02)


def test_a_budget_in_requests_has_a_price() -> None:
    """If a tenth of the requests may be sent, a request costs what the tenth best is worth."""
    quality = np.linspace(0.0, 1.0, 101)[:, None]
    sample = Sample.untagged(quality, np.ones((101, 1)))
    draws = Draws(config(llms=("x",), margins=(1.0,), budget_micros={}, budgets=(Budget("r", "requests", 0),)))
    [price], _ = solve(market_of(sample, draws, np.array([0.1])), (0.0,))
    assert price == pytest.approx(0.9, abs=0.02)


def test_open_dispatches_have_no_price() -> None:
    """They only filter: how long an answer takes is not known."""
    sample = Sample.untagged(np.ones((10, 1)), np.ones((10, 1)))
    budgets = (Budget("gpu", "open", 1), Budget("money", "usd", 0))
    draws = Draws(config(llms=("x",), margins=(1.0,), budget_micros={}, budgets=budgets))
    prices, _ = solve(market_of(sample, draws, np.array([0.0, 0.5])), (0.0, 0.0))
    assert prices[0] == 0.0 < prices[1]
