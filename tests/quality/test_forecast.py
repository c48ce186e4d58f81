"""Queries that come sorted are priced for those that are still to come."""

from __future__ import annotations

import pytest

from worker.estimation import demo_data
from worker.evaluation.scenario import Order, Plan
from worker.evaluation.simulate import online, play_paper
from worker.evaluation.study import FIRST_SEED, Study


@pytest.fixture(scope="module")
def study() -> Study:
    """The package's data, one draw."""
    return Study(demo_data.load(), Plan())


def reached(study: Study, order: Order, forecast: bool) -> float:
    """The quality of `priced`, as a share of the reference."""
    scenario = study.scenario(FIRST_SEED, Plan(order=order, forecast=forecast))
    played = play_paper(scenario, online(scenario, "priced", scenario.estimates))
    return float(played.quality.sum() / study.reference(scenario).quality.sum())


@pytest.mark.parametrize(
    ("order", "gain"),
    [("random", -0.01), ("source", 0.02), ("hardest-last", 0.05)],
    ids=["random", "sorted", "hardest"],
)
def test_a_forecast_pays_where_queries_come_sorted(study: Study, order: Order, gain: float) -> None:
    """And it costs at most a point where they come at random."""
    assert reached(study, order, True) - reached(study, order, False) >= gain
