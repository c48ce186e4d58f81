"""deploy/supervise.sh: what the container of a service does when `tollgate` ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "supervise.sh"
LIMIT_SECONDS = 60.0
# A program in the background of a shell ignores SIGINT, and so does all that it starts: a shell cannot trap it then.
HEARING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts the script with a `tollgate` that notes each start and then runs these lines."""

    def start(lines: str) -> subprocess.Popen[str]:
        program = tmp_path / "tollgate"
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/starts\n{lines}\n')
        program.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path), "PAUSE_SECONDS": "0"}
        command = [sys.executable, "-c", HEARING, "sh", str(SCRIPT), "run", "--x"]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start


def wait_for(file: Path) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + LIMIT_SECONDS
    while not file.exists():
        assert time.monotonic() < end, f"{file.name} did not come"
        time.sleep(0.01)


@pytest.mark.parametrize("code", [0, 1, 3, 137])
def test_any_other_end_is_the_containers(start: Start, tmp_path: Path, code: int) -> None:
    """The restart policy decides about it."""
    process = start(f"exit {code}")
    process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == code
    assert (tmp_path / "starts").read_text() == "run --x\n"


@pytest.mark.parametrize("code", [2, 4])
def test_a_mistake_is_tried_three_times(start: Start, tmp_path: Path, code: int) -> None:
    """Then the container waits for a person. Its health check sees it, and it stops at once when it is told to."""
    process = start(f"exit {code}")
    wait_for(tmp_path / "gave-up")
    assert (tmp_path / "starts").read_text() == "run --x\n" * 3
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0
    assert f"`tollgate run --x` ended with code {code} 3 times" in said


def test_a_mistake_that_is_corrected(start: Start, tmp_path: Path) -> None:
    """The next try goes on."""
    process = start(f"[ -e {tmp_path}/again ] && exit 0\ntouch {tmp_path}/again\nexit 4")
    process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0
    assert not (tmp_path / "gave-up").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_passed_on(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    """`tollgate` finishes what it does, and its exit code is the container's."""
    process = start(f"trap 'touch {tmp_path}/told; exit 0' TERM\ntouch {tmp_path}/up\nwhile :; do sleep 0.05; done")
    wait_for(tmp_path / "up")
    process.send_signal(number)
    process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0
    assert (tmp_path / "told").exists()
