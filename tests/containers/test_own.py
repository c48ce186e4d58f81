"""`docker compose up` with settings and a history of one's own: the way of deploy/README.md, and what may break on it.

The tests build on each other, in their order: they are one week of an operator.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.llm import KEY, SAID
from tests.containers.stack import ROOT, Stack, docker, wait_for

pytestmark = pytest.mark.containers

MARKER = "zanzibar-4711"
SERVICES = ("kafka", "topics", "index", "worker", "inference")
README = (ROOT / "deploy" / "README.md").read_text()
# While Kafka is away for more than half a minute. Before, it was 1,450 lines a worker.
MOST_LINES = 150


def pasted() -> str:
    """The settings of deploy/README.md, with the address of the test's LLM."""
    (block,) = re.findall(r"cat > mine/tollgate.toml <<'END'\n(.*?)\n *END\n", README, re.DOTALL)
    lines = [line.strip() for line in block.splitlines()]
    return "\n".join(lines).replace("https://api.openai.com/v1", "http://llm:8000/v1") + "\n"


def history() -> str:
    """Past queries in words, which both LLMs of deploy/README.md have answered."""
    rows = [
        f"What is {number} and {number + 1}?,{number % 2},0.0004,{number % 3 / 2},0.00002\n" for number in range(60)
    ]
    return "prompt,large,large|total_cost,small,small|total_cost\n" + "".join(rows)


def write_key(file: Path) -> None:
    """A key that only the group 10001 may read. Who is not root lets all read it."""
    file.parent.mkdir(parents=True)
    file.write_text(KEY + "\n")
    if os.getuid() == 0:
        shutil.chown(file, "root", 10001)
    file.chmod(0o640 if os.getuid() == 0 else 0o644)


def volumes() -> set[str]:
    """All volumes of the engine."""
    return set(docker("volume", "ls", "--quiet").stdout.split())


@pytest.fixture(scope="module")
def own(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Tollgate with settings, a key and a history, up."""
    config = tmp_path_factory.mktemp("mine")
    config.chmod(0o755)
    (config / "tollgate.toml").write_text(pasted())
    (config / "history.csv").write_text(history())
    write_key(config / "keys" / "openai")
    stack = Stack(config)
    stack.down()
    stack.compose("up", "--detach", "--wait", *SERVICES, "llm")
    yield stack
    print(stack.compose("ps", "--all"))
    stack.down()


def ask(stack: Stack, text: str = "What is the capital of France?") -> str:
    """Send a query and wait for its answer."""
    return stack.tollgate("send", "--wait", "120", text)


def proven(stack: Stack) -> bool:
    """Whether the books are."""
    return "proven: every row is right" in stack.tollgate("verify")


def test_it_waits(own: Stack) -> None:
    """A second `up` changes nothing: nothing is sent, and no container was started again."""
    own.compose("up", "--detach", "--wait", *SERVICES, "llm")
    assert own.dispatches() == 0
    assert {one["RestartCount"] for one in own.containers("worker")} == {0}
    assert own.health("worker") == {"healthy"}


def test_the_first_answer(own: Stack) -> None:
    """It is the LLM's, it is paid by its usage, and the books are proven. Its text is in no log."""
    said = ask(own, f"What is {MARKER}?")
    print(said)
    print(own.tollgate("status"))
    assert f"answer    {SAID}" in said
    assert own.dispatches() == 1
    assert proven(own)
    assert MARKER not in own.logs()


def test_a_changed_setting_is_seen(own: Stack) -> None:
    """`up` does not see it, `status` names it, and a restart takes it over."""
    assert own.config is not None
    file = own.config / "tollgate.toml"
    file.write_text(file.read_text().replace("budget_usd = 10", "budget_usd = 20"))
    own.compose("up", "--detach", "--wait", *SERVICES)
    assert own.status()["changed_settings"] == {"llms.large.budget_usd": [0, 1, 2, 3]}
    own.compose("restart", "worker", "inference")
    wait_for("the new setting", lambda: own.tried("exec", "-T", "worker", "true").returncode == 0)
    wait_for("the new budget", lambda: own.status()["changed_settings"] == {})
    assert proven(own)


def test_the_demo_does_not_touch_it(own: Stack) -> None:
    """With --profile demo, the demo's producer has no topics here, and nothing is sent to one's own LLMs."""
    before = own.dispatches()
    demo = Stack(own.config, ("demo",))
    demo.tried("up", "--detach", "producer")
    wait_for("the producer's end", lambda: demo.containers("producer")[0]["State"]["Status"] == "exited")
    assert demo.containers("producer")[0]["State"]["ExitCode"] != 0
    assert own.dispatches() == before
    demo.compose("rm", "--stop", "--force", "producer", "recorded")


def test_a_killed_worker_comes_back(own: Stack) -> None:
    """Its container is started again, and the books are proven."""
    kill = "import os; [os.kill(int(p), 9) for p in os.listdir('/proc') if p.isdigit() and p != str(os.getpid()) "
    kill += "and b'/tollgate\\0run' in open(f'/proc/{p}/cmdline', 'rb').read()]"
    own.compose("exec", "-T", "--index", "1", "worker", "python", "-c", kill)
    wait_for("a restart", lambda: sum(one["RestartCount"] for one in own.containers("worker")) == 1)
    wait_for("health", lambda: own.health("worker") == {"healthy"})
    assert SAID in ask(own)
    assert proven(own)


def test_kafka_is_away(own: Stack) -> None:
    """The workers are not ready, and say so without filling the disk. They go on when Kafka is back."""
    own.compose("kill", "kafka")
    gone = time.time()
    wait_for("workers that are not ready", lambda: "healthy" not in own.health("worker"))
    wait_for("half a minute", lambda: time.time() - gone > 35)
    lines = own.compose("logs", "--no-color", "--since", f"{time.time() - gone + 1:.0f}s", "worker").splitlines()
    print(f"{len(lines)} lines of two workers")
    own.compose("start", "kafka")
    wait_for("Kafka", lambda: own.health("kafka") == {"healthy"})
    wait_for("workers that are ready", lambda: own.health("worker") == {"healthy"})
    assert SAID in ask(own)
    assert proven(own)
    assert len(lines) < 2 * MOST_LINES


def test_all_is_killed(own: Stack) -> None:
    """At once, and started again."""
    own.compose("kill")
    own.compose("up", "--detach", "--wait", *SERVICES, "llm")
    assert SAID in ask(own)
    assert proven(own)


def test_a_wrong_setting_ends_in_rest(own: Stack) -> None:
    """`up` fails and names it; a worker tries three times, says why, and is well when it is corrected."""
    assert own.config is not None
    file = own.config / "tollgate.toml"
    right = file.read_text()
    file.write_text(right + '[routing]\npolicy = "nonsense"\n')
    up = own.tried("up", "--detach", *SERVICES)
    own.compose("restart", "worker")
    wait_for("rest", lambda: own.logs("worker").count("is not tried again") == 2)
    said = own.logs("worker")
    states = {(one["State"]["Status"], one["RestartCount"]) for one in own.containers("worker")}
    file.write_text(right)
    own.compose("restart", "worker")
    own.compose("up", "--detach", "--wait", *SERVICES)
    assert up.returncode != 0
    assert "routing.policy: Input should be 'priced' or 'port', not 'nonsense'" in own.logs("topics")
    assert said.count("routing.policy: Input should be 'priced' or 'port', not 'nonsense'") == 2 * 3
    assert states <= {("running", 0), ("running", 1)}
    assert SAID in ask(own)


def test_it_stops_in_time_without_kafka(own: Stack) -> None:
    """No container is killed."""
    own.compose("kill", "kafka")
    own.compose("stop", "worker", "inference")
    codes = {one["State"]["ExitCode"] for service in ("worker", "inference") for one in own.containers(service)}
    assert 137 not in codes, codes
    own.compose("up", "--detach", "--wait", *SERVICES, "llm")


def test_down_and_up(own: Stack) -> None:
    """The data stay, no volume without a name is left, and all of it is stopped with exit code 0."""
    before = volumes()
    own.compose("stop")
    codes = {one["State"]["ExitCode"] for service in ("worker", "inference") for one in own.containers(service)}
    own.compose("down")
    left = volumes()
    own.compose("up", "--detach", "--wait", *SERVICES, "llm")
    assert codes == {0}
    assert left == before
    assert SAID in ask(own)
    assert proven(own)
    assert MARKER not in own.logs()
