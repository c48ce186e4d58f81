"""Which systems the counting reader finds fault with."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from worker.local.counted import Counted

WELL = Counted(queries=10, lost=0, doubled=0, dispatched=8, unanswered=1, spent_micros=700, billed_micros=700, lag=0)


def test_a_system_that_is_well() -> None:
    """An unanswered dispatch is no fault: its money is given back when it expires."""
    assert WELL.problems == []


@pytest.mark.parametrize(
    ("field", "value"), [("lost", 1), ("doubled", 2), ("lag", 3), ("spent_micros", 699), ("billed_micros", 699)]
)
def test_each_fault_is_named(field: str, value: int) -> None:
    """One line for one fault; a micro-dollar is enough."""
    [problem] = replace(WELL, **{field: value}).problems
    assert str(value) in problem
