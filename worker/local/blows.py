"""What a chaos run does to a system, and how each blow ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from worker.local.broker import Broker
from worker.local.cluster import Cluster
from worker.local.processes import Child
from worker.local.system import System

# Blows and their weights. A broker needs seconds to start, so few are meant for brokers.
BLOWS = {
    "kill a worker": 5,
    "stop a worker": 3,
    "end a worker": 2,
    "set a worker's clock": 2,
    "kill an inference worker": 1,
    "stop an inference worker": 1,
    "kill a broker": 1,
    "end a broker": 1,
    "stop a broker": 1,
    "cut a broker off": 1,
    "slow the network": 1,
    "throttle writes": 1,
}
DOWN_SECONDS = 5.0
DELAY_SECONDS = 0.05
THROTTLED_SECONDS, THROTTLED_BYTES = 20.0, 300_000
CLOCK_SECONDS = 40.0
# Minutes ahead, minutes behind, and a jump while it runs.
SKEWS_MS = (600_000, -600_000, 8_000)
# Python runs this before everything else. The monotonic clock stays as it is, as on a machine whose date was set.
SKEWED = """
import time
_time_ns, _began = time.time_ns, time.monotonic()
time.time_ns = lambda: _time_ns() + {skew_ms} * 1_000_000 * (time.monotonic() - _began >= {after_seconds})
"""


class Blows:
    """Strikes a system, and mends what it has struck. `session_seconds` is how long the group waits for a worker.

    At most one broker is away at a time, so that a cluster of three goes on.
    """

    def __init__(
        self, system: System, cluster: Cluster, group: str, session_seconds: float, dice: random.Random
    ) -> None:
        self._system, self._cluster = system, cluster
        self._group = group
        self._session_seconds = session_seconds
        self._dice = dice
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._away: Broker | None = None

    def draw(self) -> str:
        """The next blow."""
        [blow] = self._dice.choices(list(BLOWS), list(BLOWS.values()))
        return blow

    def strike(self, blow: str, now: float) -> None:
        """Do it. `now` is a clock that only grows, in seconds."""
        worker, inference = self._dice.choice(self._system.workers), self._dice.choice(self._system.inference)
        match blow:
            case "kill a worker":
                worker.send(signal.SIGKILL)
            case "end a worker":
                worker.send(signal.SIGTERM)
            case "stop a worker":
                self._stop(worker, now)
            case "set a worker's clock":
                self._set_clock(worker, now)
            case "kill an inference worker":
                inference.send(signal.SIGKILL)
            case "stop an inference worker":
                self._stop(inference, now)
            case "throttle writes":
                self._throttle(THROTTLED_BYTES)
                self._at(now + THROTTLED_SECONDS, lambda: self._throttle(None))
            case "slow the network":
                for link in self._cluster.links:
                    link.slow(DELAY_SECONDS)
                    self._at(now + self._long(), link.mend)
            case _:
                self._strike_broker(blow, now)

    def mend(self, now: float) -> None:
        """End the blows that have lasted long enough by `now`."""
        due = [mend for at, mend in self._later if at <= now]
        self._later = [(at, mend) for at, mend in self._later if at > now]
        for mend in due:
            mend()

    def _at(self, when: float, mend: Callable[[], object]) -> None:
        self._later.append((when, mend))

    def _long(self) -> float:
        """Longer than a session."""
        return self._session_seconds * self._dice.uniform(1.2, 3)

    def _stop(self, child: Child, now: float) -> None:
        child.send(signal.SIGSTOP)
        self._at(now + self._long(), lambda: child.send(signal.SIGCONT))

    def _set_clock(self, worker: Child, now: float) -> None:
        """The worker starts again with a wrong clock, and later with a right one."""
        place = self._system.directory / f"clock-{worker.name}"
        place.mkdir(exist_ok=True)
        skew = SKEWED.format(skew_ms=self._dice.choice(SKEWS_MS), after_seconds=self._dice.choice((0, 10)))
        (place / "sitecustomize.py").write_text(skew)
        usual = os.environ.get("PYTHONPATH", "")
        self._start_again(worker, os.pathsep.join(filter(None, (str(place), usual))))
        self._at(now + CLOCK_SECONDS, lambda: self._start_again(worker, usual))

    def _start_again(self, worker: Child, path: str) -> None:
        worker.give({"PYTHONPATH": path})
        worker.send(signal.SIGTERM)

    def _strike_broker(self, blow: str, now: float) -> None:
        if self._away is not None:
            return
        number = self._dice.randrange(len(self._cluster.brokers))
        self._away = broker = self._cluster.brokers[number]
        link, until = self._cluster.links[number], now + max(DOWN_SECONDS, self._long())
        match blow:
            case "kill a broker":
                broker.kill()
                self._at(now + self._dice.uniform(0, DOWN_SECONDS), broker.begin)
            case "end a broker":
                broker.stop()
                self._at(now, broker.begin)
            case "stop a broker":
                os.kill(broker.pid, signal.SIGSTOP)
                self._at(until, lambda: os.kill(broker.pid, signal.SIGCONT))
            case "cut a broker off":
                link.cut()
                self._at(until, link.mend)
        # Until it has caught up, it is as good as away.
        self._at(until + DOWN_SECONDS, self._is_back)

    def _is_back(self) -> None:
        self._away = None

    def _throttle(self, bytes_per_second: int | None) -> None:
        def ask() -> None:
            # Without a broker there is nothing to throttle.
            with suppress(subprocess.SubprocessError):
                self._cluster.throttle(self._group, bytes_per_second)

        threading.Thread(target=ask, name="throttle", daemon=True).start()


def most_used(children: list[Child], before: dict[str, int]) -> dict[str, int]:
    """The most memory in bytes and the most open files that one of these processes had, now or `before`."""
    for child in children:
        with suppress(OSError, IndexError):
            proc = Path(f"/proc/{child.pid}")
            pages = int((proc / "statm").read_text().split()[1])
            memory, files = pages * os.sysconf("SC_PAGE_SIZE"), len([*(proc / "fd").iterdir()])
            before = {
                "memory_bytes": max(memory, before.get("memory_bytes", 0)),
                "files": max(files, before.get("files", 0)),
            }
    return before
