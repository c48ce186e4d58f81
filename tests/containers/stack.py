"""One Tollgate in containers, as an operator handles it: with `docker compose`."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILES = ("-f", "docker-compose.yml", "-f", "tests/containers/override.yml")
PROJECT = "tollgate-test"
# A hundred times what it takes on a quiet machine: a limit is for what hangs.
LIMIT_SECONDS = 600.0
POLL_SECONDS = 0.2


def docker(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `docker` at the root of the repository."""
    return subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )


def wait_for(what: str, condition: Callable[[], bool], limit_seconds: float = LIMIT_SECONDS) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {limit_seconds:.0f} s"
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Stack:
    """A project of Compose. `config` is what TOLLGATE_CONFIG names; None leaves it out."""

    config: Path | None = None
    profiles: tuple[str, ...] = ()

    def tried(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`docker compose` with these arguments."""
        environment = {"TOLLGATE_CONFIG": "" if self.config is None else str(self.config)}
        profiles = [word for profile in self.profiles for word in ("--profile", profile)]
        return docker("compose", "-p", PROJECT, *FILES, *profiles, *arguments, environment=environment)

    def compose(self, *arguments: str) -> str:
        """The same; it must succeed."""
        done = self.tried(*arguments)
        assert done.returncode == 0, f"docker compose {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def tollgate(self, *arguments: str) -> str:
        """`tollgate` in a running worker."""
        return self.compose("exec", "-T", "worker", "tollgate", *arguments)

    def status(self) -> dict[str, Any]:
        """What `tollgate status` says."""
        found: dict[str, Any] = json.loads(self.tollgate("status", "--json"))
        return found

    def dispatches(self) -> int:
        """How many dispatches there were."""
        return sum(int(partition["dispatches"]) for partition in self.status()["partitions"])

    def containers(self, service: str) -> list[dict[str, Any]]:
        """What `docker inspect` says of each container of a service."""
        ids = self.compose("ps", "--all", "--quiet", service).split()
        found: list[dict[str, Any]] = json.loads(docker("inspect", *ids).stdout)
        return found

    def health(self, service: str) -> set[str]:
        """How the containers of a service are."""
        return {one["State"]["Health"]["Status"] for one in self.containers(service)}

    def logs(self, *services: str) -> str:
        """All that they have logged."""
        return self.compose("logs", "--no-color", *services)

    def down(self) -> None:
        """Remove all of it, also the data and what an earlier run has left."""
        self.tried("--profile", "demo", "down", "--volumes", "--remove-orphans", "--timeout", "60")
