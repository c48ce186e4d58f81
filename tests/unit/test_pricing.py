"""Pricing: when prices are solved for, on what, and what a new configuration keeps."""

from __future__ import annotations

from typing import Unpack

import pytest

from tests.drive import LLMS, PRIOR, ConfigurationChanges, config, query
from worker.contract.accounts import Account
from worker.core.ledger import Ledger
from worker.core.policy import make_policy
from worker.core.pricing import Pricing

LEDGER = Ledger(Account(llm, "usd", 10_000) for llm in LLMS)


def pricing(seen: int = 0, **changes: Unpack[ConfigurationChanges]) -> Pricing:
    """A pricing that has seen this many queries."""
    settings = config(**changes)
    made = Pricing(make_policy(settings, 0), settings, PRIOR)
    for offset in range(seen):
        made.remember(query(offset))
    return made


# Queries seen before, and whether prices are in force -> due. Solved every seven queries.
DUE = [("no prices yet", 3, False, True), ("between", 3, True, False), ("on schedule", 7, True, True)]


@pytest.mark.parametrize(("seen", "solved", "due"), [case[1:] for case in DUE], ids=[case[0] for case in DUE])
def test_prices_are_due(seen: int, solved: bool, due: bool) -> None:
    """Prices are due at once while there are none, and then on the policy's schedule."""
    made = pricing(seen)
    if solved:
        made.solve(LEDGER)
    assert made.is_due() is due


TAKEN_OVER: list[tuple[str, ConfigurationChanges, bool]] = [
    ("budgets", {"budget_micros": dict.fromkeys(LLMS, 1)}, True),
    ("the policy", {"policy": "port"}, True),
    ("the index", {"index": "another"}, False),
    ("the LLMs", {"llms": ("large", "medium")}, False),
    ("the length of the window", {"window_queries": 10}, False),
]


@pytest.mark.parametrize(("changes", "kept"), [case[1:] for case in TAKEN_OVER], ids=[case[0] for case in TAKEN_OVER])
def test_the_window_outlives_what_does_not_change_its_meaning(changes: ConfigurationChanges, kept: bool) -> None:
    """The next solution needs estimates of the same index and the same LLMs: only then the window is kept."""
    old, settings = pricing(12), config(**changes)
    new = Pricing(make_policy(settings, 0), settings, PRIOR, seen=12)
    assert new.take_over(old) is kept
    assert (new.window is old.window) is kept, "a kept window is the old one itself"
    assert new.window_from == (0 if kept else 12)
