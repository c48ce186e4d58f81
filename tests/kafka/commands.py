"""Commands as an operator runs them: the exit code and the output."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from worker.commands import main
from worker.local.processes import Child, wait_for
from worker.local.system import System

# The longest that a test waits for anything. Seconds are usual, and a minute on a busy machine: the limit is for what
# never comes.
PATIENCE_SECONDS = 300.0


def run(system: System, *arguments: str, env: dict[str, str] | None = None) -> tuple[int | None, str]:
    """Exit code and output of one command that ends by itself, in a process of its own."""
    child = Child(
        "command", [*arguments, "--config", str(system.config)], system.directory / f"{arguments[0]}.log", env
    )
    child.start()
    try:
        wait_for(f"{arguments} to end", lambda: not child.running, PATIENCE_SECONDS)
    finally:
        child.kill()
    return child.exit_code, child.log.read_text()


def run_here(system: System, *arguments: str) -> tuple[int, str]:
    """Exit code and output of one command in this process. It saves the two seconds of CPU that a start takes."""
    written = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["tollgate", *arguments, "--config", str(system.config)]),
        redirect_stdout(written),
        redirect_stderr(written),
    ):
        try:
            main.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return code, written.getvalue()
