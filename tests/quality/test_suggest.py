"""What `tollgate budget suggest` says that money buys."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from worker.estimation import demo_data
from worker.evaluation.scenario import Plan
from worker.evaluation.study import Study
from worker.evaluation.suggest import MULTIPLES, Suggestion, picture, suggest

USD, QUERIES = 5.0, 10_000


@pytest.fixture(scope="module")
def found() -> Suggestion:
    """On the first rows of the package's data."""
    history = demo_data.load().rows(np.arange(1_500))
    return suggest(Study(history, Plan(test=600)), USD, QUERIES)


def test_one_budget_is_worth_more_than_any_llm_alone(found: Suggestion) -> None:
    """With the same money, for queries that nobody learnt from."""
    assert found.total.quality >= max(each.quality for each in found.alone)


def test_no_money_is_spent_twice(found: Suggestion) -> None:
    """Whatever is bought, it costs at most the money."""
    assert max(each.usd for each in (found.total, found.divided, *found.alone)) <= USD * (1 + 1e-9)


def test_more_money_buys_more(found: Suggestion) -> None:
    """Quality rises with the money of one budget, but for the chance of 600 queries."""
    quality = [each.quality for each in found.by_money]
    assert len(quality) == len(MULTIPLES)
    assert min(later - earlier for earlier, later in pairwise(quality)) > -0.03
    assert quality[-1] > quality[0] + 0.03


def test_the_division_is_the_whole_money(found: Suggestion) -> None:
    """Nothing is left over, and no LLM gets less than nothing."""
    assert sum(share.usd for share in found.split) == pytest.approx(USD, rel=1e-3)
    assert min(share.usd for share in found.split) > 0


def test_the_picture_has_a_dot_for_each_llm(found: Suggestion) -> None:
    """And one line, of one budget."""
    lines = picture(found).lines
    assert [name for name, points in lines.items() if len(points) > 1] == ["priced"]
    assert len(lines) == 1 + len(found.alone)
