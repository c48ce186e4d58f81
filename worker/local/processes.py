"""Child processes of a demo or a test. They are ended by their own process id, and they end when this process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from worker.contract.errors import CheckFailed
from worker.kafka.clock import poll_until
from worker.local import die_with_parent

STOP_SECONDS = 60.0


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """The command, run so that it is killed when the thread that started it ends."""
    # Isolated and without site-packages, so that the launcher starts fast.
    return [sys.executable, "-I", "-S", str(Path(die_with_parent.__file__)), *command]


def wait_for(what: str, condition: Callable[[], bool], seconds: float, every_seconds: float = 0.1) -> None:
    """Return as soon as `condition` holds. Raises CheckFailed naming `what` after `seconds`."""
    if not poll_until(condition, seconds, every_seconds):
        raise CheckFailed(f"waited {seconds:.0f} s for {what}")


def address_of(server: Process, seconds: float) -> str:
    """The address that a server prints when it is ready. Raises CheckFailed if it ends, or after `seconds`."""

    def is_ready() -> bool:
        if not server.running:
            raise CheckFailed(f"{server.name} ended with {server.exit_code}; its last lines:\n{server.tail()}")
        return server.tail(1).startswith("http://")

    wait_for(f"{server.name} to be ready", is_ready, seconds)
    return server.tail(1).strip()


class Process:
    """A command with its own log file. It can be started again after its end.

    With `outlives_parent` it runs on when this process ends; else the system kills it then.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        outlives_parent: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command) if outlives_parent else dying_with_parent(command)
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; the process must have been started."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; its output is appended to the log."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._env,
                # In a session of its own: Ctrl-C reaches only this process, which ends the others in order.
                start_new_session=True,
            )

    def give(self, env: Mapping[str, str]) -> None:
        """Change the environment of its next starts."""
        self._env = {**self._env, **env}

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.running:
            os.kill(self.pid, signal_number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def stop(self) -> int | None:
        """SIGTERM, and SIGKILL to one that does not end; returns the exit code."""
        self.send(signal.SIGTERM)
        if self._process is None:
            return None
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.exit_code

    def tail(self, lines: int = 5) -> str:
        """The last lines of its log, for an error message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


class Child(Process):
    """A `python -m worker ...` process."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        super().__init__(name, [sys.executable, "-m", "worker", *arguments], log, env)


class ProcessGroup:
    """Children that are all stopped at the end. `revive` starts those again that have ended.

    `restarts` counts these, and `exits` counts their exit codes (negative: a signal).
    """

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.restarts = 0
        self.exits: Counter[int] = Counter()

    def start(self, child: Child) -> Child:
        """Start a child and keep it."""
        self.children.append(child)
        child.start()
        return child

    def revive(self) -> None:
        """Start again every child that has ended, as an orchestrator would."""
        for child in self.children:
            if not child.running:
                self.exits[child.exit_code or 0] += 1
                child.start()
                self.restarts += 1

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self.children:
            child.send(signal.SIGTERM)
        for child in self.children:
            child.stop()
