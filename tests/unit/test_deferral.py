"""A deferred query has a remedy, and names the best LLM."""

from __future__ import annotations

from typing import Any

import pytest

from tests.drive import LLMS
from worker.contract.codes import Lack, Remedy
from worker.contract.decisions import Cause, Routed
from worker.core.deferral import best, remedy


def routed(**changes: Any) -> Routed:
    """A deferred query, with `changes`."""
    fields: dict[str, Any] = {
        "quality": [0.9, 0.5, 0.6],
        "cost_micros": [200, 10_000, 100],
        "charges": [0.2, 0.0, 0.1],
    }
    fields |= {"llm": None, "reason": "priced_out", "attempt": 1}
    return Routed(prev=b"", cause=Cause("queries", 0), at_ms=0, query_id="q", offset=0, **{**fields, **changes})


SHORT = (Lack("company", "usd", 5),)
TOKENS = Lack("small-tokens", "tokens", 7)
REMEDIES = [
    ("duplicate", {}, Remedy("close_dispatch")),
    ("expired", {}, Remedy("later_deadline")),
    (
        "exhausted",
        {"skipped": ("large", "small"), "lacking": (SHORT, (*SHORT, TOKENS))},
        Remedy("raise_budget", {"large": SHORT, "small": (*SHORT, TOKENS)}),
    ),
    ("priced_out", {}, Remedy("lower_prices")),
    ("failed", {"quality": [], "attempt": 2}, Remedy("send_again")),
    ("failed", {"attempt": 3}, Remedy("send_again")),
]


@pytest.mark.parametrize(("reason", "changes", "expected"), REMEDIES)
def test_a_remedy_is_named(reason: str, changes: dict[str, Any], expected: Remedy) -> None:
    """Each reason has its remedy; a lack of budget is told for each LLM."""
    assert remedy(routed(reason=reason, **changes)) == expected


BEST = [
    ("affordable or not", {}, ("large", pytest.approx(0.7))),
    ("the first of equals", {"quality": [0.5, 0.5, 0.1], "charges": [0.0, 0.0, 0.0]}, ("large", 0.5)),
    ("without prices", {"charges": []}, (None, None)),
    ("without estimates", {"quality": [], "cost_micros": []}, (None, None)),
]


@pytest.mark.parametrize(("changes", "expected"), [case[1:] for case in BEST], ids=[case[0] for case in BEST])
def test_the_best_score_is_named(changes: dict[str, Any], expected: object) -> None:
    """Quality less charge, at the prices of the decision."""
    assert best(routed(**changes), LLMS) == expected
