"""Which lines of other packages are logged."""

from __future__ import annotations

import logging

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, GroupCoordinatorNotAvailableError

from worker.service.log import GRACE_SECONDS, PassingState

STARTING, REFUSED = GroupCoordinatorNotAvailableError(), GroupAuthorizationFailedError()
G = GRACE_SECONDS
CASES = [
    ("a group that starts", [(0.0, STARTING), (1.0, STARTING)], [False, False]),
    ("a group that does not come up", [(0.0, STARTING), (G - 1, STARTING), (G + 1, STARTING)], [False, False, True]),
    ("a group that fails again much later", [(0.0, STARTING), (3 * G, STARTING)], [False, False]),
    ("another error", [(0.0, REFUSED)], [True]),
]


@pytest.mark.parametrize(("errors", "logged"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_passing_state_is_not_an_error(errors: list[tuple[float, Exception]], logged: list[bool]) -> None:
    """A group that is starting looks for its coordinator for a moment; only one that goes on failing is logged."""
    state = PassingState()
    lines = []
    for seconds, error in errors:
        line = logging.LogRecord(
            "aiokafka", logging.ERROR, "", 0, "Group Coordinator Request failed: %s", (error,), None
        )
        line.created = 1_000_000 + seconds
        lines.append(state.filter(line))
    assert lines == logged
