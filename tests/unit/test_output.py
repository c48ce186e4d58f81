"""The progress of a long work: which step, how much of it is done, how long it needs still, and its CPU seconds."""

from __future__ import annotations

import pytest

from worker.commands.output import Steps


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_step_says_how_long_it_needs_still() -> None:
    """At the speed of the second half of what is done."""
    said, clock = list[str](), Clock()
    steps = Steps(said.append, clock, Clock())
    for done, at in ((0, 0.0), (100, 10.0), (200, 40.0)):
        clock.seconds = at
        steps("building", done, 1_000)
    assert said == [
        "building: 0 of 1,000",
        "building: 100 of 1,000, about 90 s left",
        "building: 200 of 1,000, about 4 min left",
    ]


@pytest.mark.parametrize(("seconds", "said"), [(60.0, "60 s"), (600.0, "10 min"), (9_000.0, "2 h 30 min")])
def test_a_long_time_is_said_in_larger_units(seconds: float, said: str) -> None:
    """Seconds, minutes, or hours and minutes."""
    shown, clock = list[str](), Clock()
    steps = Steps(shown.append, clock, Clock())
    steps("reading", 0, 2)
    clock.seconds = seconds
    steps("reading", 1, 2)
    assert shown[-1] == f"reading: 1 of 2, about {said} left"


def test_each_step_has_its_cpu_seconds() -> None:
    """From its first report to that of the next step, or to the end."""
    cpu = Clock()
    steps = Steps(lambda _: None, Clock(), cpu)
    for step, at in (("a", 1.0), ("a", 2.0), ("b", 5.0), ("c", 6.0)):
        cpu.seconds = at
        steps(step, 0, 1)
    cpu.seconds = 10.0
    steps.end()
    assert steps.cpu_seconds == {"a": 4.0, "b": 1.0, "c": 4.0}
