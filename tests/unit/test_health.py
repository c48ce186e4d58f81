"""What /healthz and /readyz tell: whether the broker answers, and whether decisions move."""

from __future__ import annotations

import pytest

from worker.contract.settings import KafkaSettings
from worker.service.health import ABSENT_SECONDS, ASK_SECONDS, STALLED_SECONDS, Health

PLACE = ("queries", 3)
LONG = STALLED_SECONDS + 1


class Watched:
    """A worker whose broker is asked again and again, on a clock that the test turns."""

    def __init__(self) -> None:
        self.now = 100.0
        self.health = Health(KafkaSettings(), lambda: self.now)

    def goes_on(self, seconds: float, settled: int | None = 5, end: int = 9, answers: bool = True) -> None:
        """So many seconds in which one input stands, and the broker answers or not."""
        until = self.now + seconds
        while self.now < until:
            self.now += ASK_SECONDS
            if answers:
                self.health.answered({PLACE: end}, {} if settled is None else {PLACE: settled})


def test_input_waits_and_nothing_is_decided() -> None:
    """It is told with the place, the offset and the time."""
    watched = Watched()
    watched.goes_on(LONG)
    [told] = watched.health.stalled()
    assert told.startswith("queries/3: nothing was decided for 6")
    assert "from offset 5" in told


@pytest.mark.parametrize(
    ("settled", "end"), [(9, 9), (None, 9)], ids=["nothing waits", "its lane is not open: quarantined, or restoring"]
)
def test_a_worker_that_waits_rightly_is_alive(settled: int | None, end: int) -> None:
    """However long it takes."""
    watched = Watched()
    watched.goes_on(10 * LONG, settled, end)
    assert watched.health.stalled() == []


def test_a_slow_worker_is_alive() -> None:
    """One record a minute is progress."""
    watched = Watched()
    for settled in range(5):
        watched.goes_on(STALLED_SECONDS - ASK_SECONDS, settled)
        assert watched.health.stalled() == []


def test_a_broker_that_does_not_answer() -> None:
    """Readiness says so within ten seconds; liveness does not, and the time without a broker does not count."""
    watched = Watched()
    watched.goes_on(LONG / 2)
    watched.goes_on(ABSENT_SECONDS, answers=False)
    assert watched.health.absent == "the broker has not answered for 8 s"
    watched.goes_on(10 * LONG, answers=False)
    assert watched.health.stalled() == []
    watched.goes_on(LONG / 2)
    assert watched.health.absent is None
    assert watched.health.stalled() == []
