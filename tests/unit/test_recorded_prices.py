"""Prices that a replay solves again, against those that were recorded."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.drive import PRIOR, config
from worker.audit.recorded_prices import Solutions
from worker.contract.decisions import Cause, Priced
from worker.core.policy import View, make_policy
from worker.core.window import Sample

CLOSE = [
    ("prices that are worth as much", 1.0000001, 1e-12, 1),
    ("prices with an objective that is not theirs", 1.0, 1e-6, 0),
    ("prices that are worth less", 1.5, 0.0, 0),
]


@pytest.mark.parametrize(("factor", "said", "close"), [case[1:] for case in CLOSE], ids=[case[0] for case in CLOSE])
def test_other_prices_pass_only_where_they_are_worth_the_same(factor: float, said: float, close: int) -> None:
    """Another machine's solver ends at other prices nearby. Their objective is computed again, so it must be true."""
    left = np.array([900.0, 300.0, 50.0])
    sample = Sample.untagged(PRIOR.quality, PRIOR.cost_micros)
    view = View(0, sample, sample, left, left, (0.0,) * 3)
    policy = make_policy(config(horizon_queries=6), 0)
    solved = policy.solve(view)
    prices = tuple(factor * price for price in solved.prices)
    objective = policy.objective(view, prices) * (1 + said)
    solutions = Solutions(config().index)
    fit = msgspec.structs.replace(solved.fit, objective=objective)
    solutions.recorded = Priced(b"", Cause("queries", 0), 0, 0, prices, fit)
    judged = solutions.judge(solved, view, policy)
    assert solutions.close == close
    assert judged.prices == (prices if close else solved.prices)
