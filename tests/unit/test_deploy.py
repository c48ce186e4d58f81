"""docker-compose.yml, deploy/Dockerfile and deploy/tollgate.toml fit each other and the command line.

Nothing here needs Docker; `docker compose config` says whether a file obeys the Compose specification.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from worker.commands import main
from worker.contract.settings import Settings, load_settings
from worker.estimation import demo_data

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == "tollgate")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


@pytest.fixture
def settings() -> Settings:
    """The settings of the containers."""
    return load_settings(ROOT / "deploy" / "tollgate.toml")


def words(service: dict[str, Any]) -> list[str]:
    """The arguments of `tollgate` that a service runs."""
    if "command" in service:
        return list(service["command"])
    _, _, script = service["entrypoint"]
    return shlex.split(script.rpartition("exec tollgate ")[2])


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_a_command_that_exists(name: str) -> None:
    """Each service runs an existing command with existing options."""
    result = CliRunner().invoke(main.app, [*words(SERVICES[name]), "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def waits(name: str) -> dict[str, str]:
    """The services that a service waits for, and those that they wait for, with the condition of each."""
    found = {other: how["condition"] for other, how in SERVICES[name].get("depends_on", {}).items()}
    return {key: value for other in found for key, value in waits(other).items()} | found


@pytest.mark.parametrize("name", sorted(set(OURS) - {"topics", "index"}))
def test_nothing_starts_before_the_topics_exist(name: str) -> None:
    """Each service that reads or writes topics waits until the job `topics` has made them on a healthy broker."""
    assert waits(name)["topics"] == "service_completed_successfully"
    assert waits(name)["kafka"] == "service_healthy"


def test_workers_start_after_the_index_is_built() -> None:
    """A worker cannot start without an index."""
    assert waits("worker")["index"] == "service_completed_successfully"


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_is_waited_for_says_when_it_is_healthy(name: str) -> None:
    """A service that others wait for until it is healthy has a health check, or they would wait for ever."""
    healthy = [other for other, condition in waits(name).items() if condition == "service_healthy"]
    assert [other for other in healthy if "healthcheck" not in SERVICES[other]] == []


@pytest.mark.parametrize("name", OURS)
def test_our_containers_may_do_little(name: str) -> None:
    """Our containers have no capabilities, write only to volumes and gain no privileges."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_one_broker_is_enough_for_transactions() -> None:
    """Internal topics have one replica, and the broker creates no topic by itself."""
    environment = SERVICES["kafka"]["environment"]
    replicas = {name: value for name, value in environment.items() if "REPLICATION_FACTOR" in name or "MIN_ISR" in name}
    assert len(replicas) == 5, f"a replication setting is missing or new: {replicas}"
    assert set(replicas.values()) == {1}, replicas
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_nothing_is_published_beyond_this_machine() -> None:
    """All published ports are bound to 127.0.0.1."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_the_settings_fit_the_broker(settings: Settings) -> None:
    """The workers connect to the address that Kafka advertises inside."""
    advertised = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INSIDE://{settings.kafka.bootstrap_servers}" in advertised.split(",")


def test_the_settings_fit_the_index(settings: Settings) -> None:
    """Each LLM of the demo's data has a budget, and the workers read the index where its job writes it."""
    llms = demo_data.load().llms
    assert sorted(settings.llms) == sorted(llms)
    assert str(settings.index.directory) == words(SERVICES["index"])[-1]


def test_the_settings_fit_the_health_check(settings: Settings) -> None:
    """The health check asks the worker on its own port."""
    assert f"http://127.0.0.1:{settings.web.port}/readyz" in SERVICES["worker"]["healthcheck"]["test"][-1]


def test_the_image_is_built_once_from_the_lock_file() -> None:
    """One service builds the image, its packages come from the lock file with their hashes, and it does not run as
    root."""
    built = [name for name in SERVICES if "build" in SERVICES[name]]
    installs = re.findall(r"pip install (.*)", DOCKERFILE)
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)$", last, re.MULTILINE)
    assert built == ["topics"]
    for options in installs:
        assert "--no-deps" in options or {"--require-hashes", "requirements.lock"} <= {*options.split()}, options
    assert users == ["10001"]


def needed(requirements: Iterable[str]) -> set[str]:
    """The packages of these requirements and all that they require, as installed here."""
    todo, found = [Requirement(text) for text in requirements], set()
    while todo:
        one = todo.pop()
        if (seen := (canonicalize_name(one.name), frozenset(one.extras))) in found:
            continue
        found.add(seen)
        asked = map(Requirement, distribution(one.name).requires or ())
        extras = [{"extra": extra} for extra in (*one.extras, "")]
        todo += [other for other in asked if other.marker is None or any(map(other.marker.evaluate, extras))]
    return {name for name, _ in found}


def test_the_image_has_what_runs_and_nothing_else() -> None:
    """The image removes every package of an extra and no package that a worker needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # The image is made of requirements.lock, which has nothing of the extra `llm`.
    extras_in_lock = [lines for name, lines in project["optional-dependencies"].items() if name != "llm"]
    asked = [Requirement(line) for lines in extras_in_lock for line in lines]
    extras = {canonicalize_name(one.name) for one in asked} - {"tollgate"}
    runs = needed(project["dependencies"])
    (line,) = re.findall(r"pip uninstall --yes (.*)", DOCKERFILE.replace("\\\n", " "))
    taken = set(line.split())
    assert taken & runs == set(), "the image removes packages that tollgate needs"
    assert extras - runs - taken == set(), "the image keeps packages that only developers, the demo or pictures need"


def test_the_build_is_given_what_it_copies() -> None:
    """Each file that the Dockerfile copies exists, and .dockerignore does not hide it."""
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    hidden = {name for name in copied if not any(fnmatch(name, pattern) for pattern in let_through)}
    missing = {name for name in copied if not (ROOT / name).exists()}
    assert hidden == set(), ".dockerignore hides files that the Dockerfile copies"
    assert missing == set(), "the Dockerfile copies files that do not exist"
