"""Commands as an operator runs them: a process of its own, its exit code and what it printed."""

from __future__ import annotations

from worker.local.processes import Child, wait_for
from worker.local.system import System

# The longest that a test waits for anything. Seconds are usual, and a minute on a busy machine: the limit is for what
# never comes.
PATIENCE_SECONDS = 300.0


def run(system: System, *arguments: str, env: dict[str, str] | None = None) -> tuple[int | None, str]:
    """Exit code and output of one command that ends by itself."""
    child = Child(
        "command", [*arguments, "--config", str(system.config)], system.directory / f"{arguments[0]}.log", env
    )
    child.start()
    try:
        wait_for(f"{arguments} to end", lambda: not child.running, PATIENCE_SECONDS)
    finally:
        child.kill()
    return child.exit_code, child.log.read_text()
