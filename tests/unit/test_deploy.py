"""docker-compose.yml, deploy/Dockerfile and deploy/demo/tollgate.toml fit each other and the command line.

Nothing here needs Docker. `make containers` runs all of it on an engine.
"""

from __future__ import annotations

import re
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
from worker.inference.publisher import TRIES_SECONDS
from worker.service.app import LEAVE_SECONDS

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == "tollgate")
DEMO = sorted(name for name, service in SERVICES.items() if service.get("profiles") == ["demo"])
PLAIN = sorted(SERVICES.keys() - set(DEMO))
# What apache/kafka declares as volumes.
KAFKA_VOLUMES = {"/var/lib/kafka/data", "/etc/kafka/secrets", "/mnt/shared/config"}
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


@pytest.fixture
def settings() -> Settings:
    """The settings of the demo's containers."""
    return load_settings(ROOT / "deploy" / "demo" / "tollgate.toml")


def seconds(duration: str) -> int:
    """A duration of a compose file, such as 90s or 2m."""
    return int(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]


def mounts(name: str) -> dict[str, str]:
    """What a service mounts: the path in the container, and the source with `:ro` if it cannot be written."""
    found = {}
    for mount in SERVICES[name].get("volumes", []):
        source, place, *mode = re.split(r":(?!-)", mount)
        found[place] = ":".join([source, *mode])
    return found


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_a_command_that_exists(name: str) -> None:
    """Each service runs an existing command with existing options."""
    assert SERVICES[name].get("entrypoint", ["supervise"]) == ["supervise"]
    result = CliRunner().invoke(main.app, [*SERVICES[name]["command"], "--help"])
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
    """Each LLM of the demo's data has a budget. Only the job that builds the index can write where it lies."""
    place = str(settings.index.directory.parent)
    writers = [name for name in OURS if place in mounts(name) and not mounts(name)[place].endswith(":ro")]
    assert sorted(settings.llms) == sorted(demo_data.load().llms)
    assert str(settings.index.history) == "demo"
    assert place in mounts("worker")
    assert writers == ["index"]


def test_the_settings_fit_the_health_check(settings: Settings) -> None:
    """The health check asks the worker on its own port."""
    check = SERVICES["worker"]["healthcheck"]["test"][-1]
    assert f"/dev/tcp/127.0.0.1/{settings.web.port} " in check
    assert "GET /readyz " in check


@pytest.mark.parametrize("name", PLAIN)
def test_nothing_is_made_up_without_the_demo(name: str) -> None:
    """Without the profile `demo`, nothing sends queries, and nothing answers from recorded data."""
    command = SERVICES[name].get("command", [])
    assert "produce" not in command
    assert ("infer" in command) == ("--calls-only" in command)


@pytest.mark.parametrize("name", DEMO)
def test_the_demo_keeps_to_itself(name: str, settings: Settings) -> None:
    """The demo's services read the demo's settings whatever TOLLGATE_CONFIG names, and have topics of their own."""
    assert mounts(name) == {"/srv/tollgate": "./deploy/demo:ro"}
    assert settings.kafka.topic_prefix != Settings().kafka.topic_prefix
    assert settings.kafka.group != Settings().kafka.group


@pytest.mark.parametrize("name", SERVICES)
def test_a_log_has_a_limit(name: str) -> None:
    """No container fills the disk with its log."""
    assert SERVICES[name]["logging"]["options"] == {"max-size": "10m", "max-file": "3"}


def test_the_image_is_never_pulled() -> None:
    """No registry has the image, and the Dockerfile asks for no other frontend, which would be pulled."""
    assert {name: SERVICES[name]["pull_policy"] for name in OURS} == dict.fromkeys(OURS, "never")
    assert "syntax=" not in DOCKERFILE


def test_there_is_time_to_stop(settings: Settings) -> None:
    """A container is killed only after the limits that a worker or an inference worker has without a broker."""
    transaction = settings.kafka.transaction_timeout_ms / 1000
    limits = {"worker": transaction + LEAVE_SECONDS, "inference": TRIES_SECONDS, "recorded": TRIES_SECONDS}
    short = [name for name, limit in limits.items() if seconds(SERVICES[name]["stop_grace_period"]) < limit * 1.5]
    assert short == []


def test_kafka_leaves_no_volume_without_a_name() -> None:
    """Each path that the image of Kafka declares as a volume is a named volume or in memory."""
    assert mounts("kafka").keys() | set(SERVICES["kafka"]["tmpfs"]) == KAFKA_VOLUMES


@pytest.mark.parametrize("name", [name for name in SERVICES if "healthcheck" in SERVICES[name]])
def test_old_engines_take_the_health_checks(name: str) -> None:
    """Engines before 25 refuse `start_interval`. A busy machine gets two minutes to start."""
    check = SERVICES[name]["healthcheck"]
    assert "start_interval" not in check
    assert name in ("inference", "recorded") or seconds(check["start_period"]) >= 120


def test_a_service_runs_until_it_is_stopped() -> None:
    """What is to run always is started again after any end, also after a restart of the machine. Jobs are not."""
    policies = {name: service.get("restart", "no") for name, service in SERVICES.items()}
    always = {name for name, policy in policies.items() if policy == "unless-stopped"}
    limited = {name for name, policy in policies.items() if policy in ("no", "on-failure:3")}
    assert always == {"kafka", "worker", "inference", "recorded"}
    assert limited == {"topics", "index", "producer"}
    assert {name for name in always if SERVICES[name].get("entrypoint") != ["supervise"]} == {"kafka"}


def test_the_image_is_built_once_from_the_lock_file() -> None:
    """One service builds the image, its packages come from the lock file with their hashes, and it does not run as
    root."""
    built = [name for name in SERVICES if "build" in SERVICES[name]]
    installs = re.findall(r"pip --python /venv install (.*)", DOCKERFILE)
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)$", last, re.MULTILINE)
    assert built == ["topics"]
    for options in installs:
        assert "--no-deps" in options or {"--require-hashes", "requirements.lock"} <= {*options.split()}, options
    assert len(installs) == 2
    assert users == ["10001:10001"]
    assert "groupadd --system --gid 10001" in last


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


def locked(file: Path) -> dict[str, tuple[str, list[str]]]:
    """The packages of a lock file that are installed on Linux: the versions and markers, and the hashes of each."""
    found: dict[str, tuple[str, list[str]]] = {}
    for block in re.split(r"\n(?=\S)", file.read_text()):
        first, *hashes = [line.strip(" \\") for line in block.splitlines()]
        one = Requirement(first)
        if one.marker is None or one.marker.evaluate({"sys_platform": "linux", "platform_system": "Linux"}):
            found[canonicalize_name(one.name)] = (first, hashes)
    return found


def test_the_image_has_what_runs_and_nothing_else() -> None:
    """The image has the packages that Tollgate needs: neither the developers', nor those of the demo, of pictures or
    of the embedded LLM. What builds the wheel is removed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (line,) = re.findall(r"pip --python /venv uninstall --yes (.*)", DOCKERFILE)
    image = locked(ROOT / "deploy" / "requirements.lock").keys() - set(line.split())
    assert image == needed(project["dependencies"])


def test_the_image_has_the_tested_versions() -> None:
    """The image's lock file is a part of requirements.lock, with which the tests run."""
    image, tested = locked(ROOT / "deploy" / "requirements.lock"), locked(ROOT / "requirements.lock")
    assert {name: tested.get(name) for name in image} == image


def test_the_build_is_given_what_it_copies() -> None:
    """Each file that the Dockerfile copies exists, and .dockerignore does not hide it."""
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    hidden = {name for name in copied if not any(fnmatch(name, pattern) for pattern in let_through)}
    missing = {name for name in copied if not (ROOT / name).exists()}
    assert hidden == set(), ".dockerignore hides files that the Dockerfile copies"
    assert missing == set(), "the Dockerfile copies files that do not exist"
