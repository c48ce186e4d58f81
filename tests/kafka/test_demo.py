"""`tollgate demo` and `tollgate broker` as a user runs them: they end what they started, whatever ends them."""

from __future__ import annotations

import json
import re
import shlex
import signal
from pathlib import Path

import psutil
import pytest

from tests.kafka.commands import PATIENCE_SECONDS
from worker.local.processes import Child, wait_for
from worker.service.ports import free_port


def ended(child: Child) -> tuple[int | None, str]:
    """Exit code and output, once it has ended by itself."""
    try:
        wait_for(f"{child.name} to end", lambda: not child.running, PATIENCE_SECONDS)
    finally:
        child.kill()
    return child.exit_code, child.log.read_text()


def run(folder: Path, *arguments: str) -> tuple[int | None, str]:
    """Exit code and output of one command."""
    child = Child("command", arguments, folder / "command.log")
    child.log.unlink(missing_ok=True)
    child.start()
    return ended(child)


def demo(folder: Path, *options: str) -> Child:
    """A short demo, started."""
    child = Child("demo", ["demo", "--queries", "300", "--directory", str(folder / "demo"), *options], folder / "log")
    child.start()
    return child


def test_the_demo(tmp_path: Path) -> None:
    """300 queries, a worker killed midway: the books are proven, the result is written, and nothing is left behind."""
    file = tmp_path / "result.json"
    code, said = ended(demo(tmp_path, "--output", str(file)))
    result = json.loads(file.read_bytes())
    counts, timing = result["report"]["counts"], result["timing"]
    found = (code, counts["queries"], result["report"]["findings"], timing["takeover_seconds"] is not None)
    assert found == (0, 300, [], True), said
    assert ("proof     300 queries = " in said, sorted(result["rivals"])) == (True, ["port", "random"]), said
    assert not (tmp_path / "demo").exists()


def command_of(process: psutil.Process) -> str:
    """What it runs; nothing once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


MOMENTS = [
    ("Ctrl-C while Kafka starts", signal.SIGINT, "kafka.Kafka"),
    ("SIGTERM while workers start", signal.SIGTERM, "-m worker run"),
]


@pytest.mark.parametrize(("how", "awaited"), [c[1:] for c in MOMENTS], ids=[c[0] for c in MOMENTS])
def test_nothing_outlives_a_demo_that_is_ended(tmp_path: Path, how: signal.Signals, awaited: str) -> None:
    """Kafka, workers and inference worker end with it, and it says nothing of a program that broke."""
    child = demo(tmp_path)
    group: dict[int, psutil.Process] = {}

    def is_there() -> bool:
        group.update({one.pid: one for one in psutil.Process(child.pid).children(recursive=True)})
        return any(awaited in command_of(one) for one in group.values())

    try:
        wait_for(f"{awaited} to start", is_there, PATIENCE_SECONDS)
        child.send(how)
        code, said = ended(child)
    finally:
        child.kill()
    assert code == 130, said
    assert [command_of(one) for one in group.values() if command_of(one)] == [], said
    assert "Traceback" not in said, said


def test_a_standing_broker(tmp_path: Path) -> None:
    """It outlives the command that started it, is found, is not started twice, and is stopped by the command that its
    start names."""
    place = ["--directory", str(tmp_path / "broker")]
    port = str(free_port())
    start = run(tmp_path, "broker", "start", "--port", port, *place)
    hints = re.findall(r"`tollgate (.*)`", start[1])
    try:
        steps = [run(tmp_path, "broker", step, *place) for step in ("status", "start")]
        steps += [run(tmp_path, *shlex.split(hint)) for hint in hints]
        steps += [run(tmp_path, "broker", step, *place) for step in ("status", "stop")]
    finally:
        run(tmp_path, "broker", "stop", *place)
    pid = re.findall(r"process (\d+)", start[1])[0]
    codes = [code for code, _ in (start, *steps)]
    assert codes == [0, 0, 4, 0, 1, 1], (start, steps)
    assert f"process {pid}" in steps[0][1]
    assert f"a broker is already running: process {pid}, 127.0.0.1:{port}" in steps[1][1]
    wait_for("the broker's process to be gone", lambda: not psutil.pid_exists(int(pid)), PATIENCE_SECONDS)
