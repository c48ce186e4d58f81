"""What a completion charges: settled or released, how much, and on what basis."""

from __future__ import annotations

from typing import Literal

import pytest

from worker.contract.messages import Reservation
from worker.core.events import Completed
from worker.core.settlement import Charge, charge

HELD = Reservation("0-0-1", "q0", "large", 0, 1, 720, 0, 1_000)

# Whether it is an answer, its cost and the basis of that -> outcome, spent, basis.
CHARGES: list[tuple[str, bool, int | None, Literal["cost", "usage", "none"], Charge]] = [
    ("an answer costs what it cost", True, 500, "cost", Charge("settled", 500, "cost", 0.5, "why")),
    ("also more than was held", True, 900, "usage", Charge("settled", 900, "usage", 0.5, "why")),
    ("an answer may be free", True, 0, "cost", Charge("settled", 0, "cost", 0.5, "why")),
    ("unknown is what was held, not zero", True, None, "none", Charge("settled", 720, "reservation", 0.5, "why")),
    ("an error costs nothing", False, None, "none", Charge("released", 0, "none", 0.5, "why")),
    ("an error that cost nothing says so", False, 0, "usage", Charge("released", 0, "usage", 0.5, "why")),
    ("an error that was charged is spent", False, 30, "cost", Charge("settled", 30, "cost", 0.5, "why")),
]


@pytest.mark.parametrize(
    ("ok", "cost_micros", "basis", "expected"), [case[1:] for case in CHARGES], ids=[case[0] for case in CHARGES]
)
def test_a_completion_charges(
    ok: bool, cost_micros: int | None, basis: Literal["cost", "usage", "none"], expected: Charge
) -> None:
    """Quality and error are passed on as they came."""
    completion = Completed(0, 0, HELD.dispatch_id, HELD.llm, ok, cost_micros, basis, 0.5, "why")
    assert charge(HELD, completion) == expected
