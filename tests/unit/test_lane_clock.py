"""The time of a lane is the word of two clocks at least."""

from __future__ import annotations

import pytest

from worker.service.lane_clock import LaneClock

TRUE_MS = 1_700_000_000_000


class Machine:
    """A clock of a machine, `skew_ms` off; `passed` are the true seconds since it began."""

    def __init__(self) -> None:
        self.passed, self.skew_ms = 0.0, 0

    def now_ms(self) -> int:
        return TRUE_MS + int(self.passed * 1000) + self.skew_ms

    def monotonic(self) -> float:
        return 77.0 + self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds

    @property
    def true_ms(self) -> int:
        return TRUE_MS + int(self.passed * 1000)


def opened(machine: Machine, last_ms: int | None, broker_skew_ms: int = 0) -> LaneClock:
    """The clock of a lane that was just opened: its last decision was at `last_ms`."""
    clock = LaneClock(machine)
    clock.hear(machine.true_ms + broker_skew_ms, machine.monotonic())
    if last_ms is not None:
        clock.decided(last_ms)
    return clock


SKEWS = [-600_000, -8_000, 0, 8_000, 600_000]


@pytest.mark.parametrize("skew_ms", SKEWS)
@pytest.mark.parametrize("idle_ms", [0, 100, 86_400_000])
def test_a_lane_that_is_taken_over_is_never_ahead(skew_ms: int, idle_ms: int) -> None:
    """Whatever the machine's clock says, and however long ago the last decision was. It is behind only if the lane was
    idle and the machine is behind, and by no more than one of both."""
    machine = Machine()
    machine.skew_ms = skew_ms
    late_ms = machine.true_ms - opened(machine, machine.true_ms - idle_ms).now_ms()
    assert 0 <= late_ms <= min(idle_ms, max(0, -skew_ms))


@pytest.mark.parametrize("skew_ms", SKEWS)
def test_a_jump_changes_nothing(skew_ms: int) -> None:
    """The lane goes on with the broker's time and its own."""
    machine = Machine()
    clock = opened(machine, machine.true_ms)
    machine.passed, machine.skew_ms = 30.0, skew_ms
    assert clock.now_ms() == machine.true_ms


@pytest.mark.parametrize("skew_ms", SKEWS)
def test_a_wrong_broker_changes_nothing(skew_ms: int) -> None:
    """Of a lane at work. One that was idle is behind at most as its broker is."""
    machine = Machine()
    assert opened(machine, machine.true_ms, skew_ms).now_ms() == machine.true_ms
    late_ms = machine.true_ms - opened(machine, machine.true_ms - 86_400_000, skew_ms).now_ms()
    assert late_ms == max(0, -skew_ms)


@pytest.mark.parametrize("skew_ms", SKEWS)
def test_a_wrong_time_of_the_lane_itself_changes_nothing(skew_ms: int) -> None:
    """It was decided with by an older version, on a machine whose clock was off."""
    machine = Machine()
    assert opened(machine, machine.true_ms + skew_ms).now_ms() == machine.true_ms


@pytest.mark.parametrize("skew_ms", SKEWS)
def test_a_new_lane_takes_the_earlier_clock(skew_ms: int) -> None:
    """It has no time of its own yet."""
    machine = Machine()
    machine.skew_ms = skew_ms
    assert opened(machine, None).now_ms() == machine.true_ms + min(0, skew_ms)


@pytest.mark.parametrize("skew_ms", SKEWS)
def test_without_the_brokers_time_a_lane_is_not_ahead(skew_ms: int) -> None:
    """The lane's own time and the machine's are left, and the earlier one counts."""
    machine = Machine()
    machine.skew_ms = skew_ms
    clock = LaneClock(machine)
    clock.decided(machine.true_ms - 1_000)
    assert (clock.now_ms(), clock.drift_ms) == (machine.true_ms + min(-1_000, skew_ms), 0)


def test_a_lane_without_any_other_time_takes_the_machines() -> None:
    """A new lane whose broker does not tell its time has one clock."""
    machine = Machine()
    assert LaneClock(machine).now_ms() == machine.true_ms


@pytest.mark.parametrize(("skew_ms", "drift_ms"), [(0, 0), (150, 0), (200, 0), (201, 1), (600_000, 599_800), (-1, -1)])
def test_drift_is_what_the_way_of_a_record_does_not_explain(skew_ms: int, drift_ms: int) -> None:
    """A record that was under way for 200 ms was appended somewhere in that time."""
    machine = Machine()
    clock, asked = LaneClock(machine), machine.monotonic()
    machine.passed = 0.2
    clock.hear(TRUE_MS + 200, asked)
    machine.skew_ms = skew_ms
    assert clock.drift_ms == drift_ms
