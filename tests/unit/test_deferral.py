"""What a deferred query is told: what would change it, and which LLM was the best."""

from __future__ import annotations

from typing import Any

import pytest

from tests.drive import LLMS
from worker.contract.messages import Routed
from worker.core.deferral import best, remedy


def routed(**changes: Any) -> Routed:
    """A deferred query, with `changes`."""
    fields: dict[str, Any] = {
        "quality": [0.9, 0.5, 0.6],
        "cost_micros": [200, 10_000, 100],
        "prices": (0.001, 0.0, 0.001),
    }
    fields |= {"llm": None, "reason": "priced_out", "attempt": 1}
    return Routed(prev=b"", at_ms=0, query_id="q", offset=0, **{**fields, **changes})


REMEDIES = [
    ("duplicate", {}, "complete or expire the dispatch that is open under this id"),
    ("expired", {}, "a later deadline_ms"),
    ("exhausted", {"skipped": ("large", "small")}, "budget for large, small"),
    ("priced_out", {}, "lower prices: more budget, or fewer queries"),
    ("failed", {"quality": [], "attempt": 2}, "send it again: it has left its topic"),
    ("failed", {"attempt": 3}, "send it again: 2 attempts failed"),
]


@pytest.mark.parametrize(("reason", "changes", "expected"), REMEDIES)
def test_a_remedy_is_named(reason: str, changes: dict[str, Any], expected: str) -> None:
    """For each reason."""
    assert remedy(routed(reason=reason, **changes)) == expected


BEST = [
    ("affordable or not", {}, ("large", pytest.approx(0.7))),
    ("the first of equals", {"quality": [0.5, 0.5, 0.1], "prices": (0.0, 0.0, 0.0)}, ("large", 0.5)),
    ("without prices", {"prices": ()}, (None, None)),
    ("without estimates", {"quality": [], "cost_micros": []}, (None, None)),
]


@pytest.mark.parametrize(("changes", "expected"), [case[1:] for case in BEST], ids=[case[0] for case in BEST])
def test_the_best_score_is_named(changes: dict[str, Any], expected: object) -> None:
    """Quality less price times cost, at the prices of the decision."""
    assert best(routed(**changes), LLMS) == expected
