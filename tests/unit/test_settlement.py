"""What a completion charges: settled or released, how much, and on what basis."""

from __future__ import annotations

import pytest

from worker.contract.messages import Reservation
from worker.core.events import Completed
from worker.core.settlement import Charge, charge

HELD = Reservation("0-0-1", "q0", "large", 0, 1, 720, 0, 1_000)

# Whether it is an answer, its cost and the basis of that -> outcome, spent, basis.
CHARGES = [
    ("an answer costs what it cost", True, 500, "cost", ("settled", 500, "cost")),
    ("also more than was held", True, 900, "usage", ("settled", 900, "usage")),
    ("an answer may be free", True, 0, "cost", ("settled", 0, "cost")),
    ("unknown is what was held, not zero", True, None, "none", ("settled", 720, "reservation")),
    ("an error costs nothing", False, None, "none", ("released", 0, "none")),
    ("an error that cost nothing says so", False, 0, "usage", ("released", 0, "usage")),
    ("an error that was charged is spent", False, 30, "cost", ("settled", 30, "cost")),
]


@pytest.mark.parametrize(
    ("ok", "cost_micros", "basis", "expected"), [case[1:] for case in CHARGES], ids=[case[0] for case in CHARGES]
)
def test_a_completion_charges(ok: bool, cost_micros: int | None, basis: str, expected: tuple[object, ...]) -> None:
    """Quality and error are passed on as they came."""
    completion = Completed(0, 0, HELD.dispatch_id, HELD.llm, ok, cost_micros, basis, 0.5, "why")
    assert charge(HELD, completion) == Charge(*expected, quality=0.5, error="why")
