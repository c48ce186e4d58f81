"""`docker compose --profile demo up`: the demo from the first query to the proof."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containers.stack import Stack, wait_for

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def demo(image: str) -> Iterator[Stack]:
    """The demo, up."""
    stack = Stack(profiles=("demo",))
    stack.down()
    stack.compose("up", "--detach", "--wait")
    yield stack
    print(stack.compose("ps", "--all"))
    stack.down()


def test_all_is_answered(demo: Stack) -> None:
    """Each query is decided, recorded results settle the dispatches, and the books are proven."""
    wait_for("the producer's end", lambda: demo.containers("producer")[0]["State"]["Status"] == "exited")
    wait_for("answers", lambda: "0 expired + 0 open" in demo.tollgate("verify"))
    said = demo.tollgate("verify")
    print(demo.tollgate("status"), said)
    assert " queries      300 = " in said
    assert "proven: every row is right" in said


def test_our_containers_may_do_little(demo: Stack) -> None:
    """No capabilities, no writing but to memory, and logs with a limit."""
    found = [one for service in ("worker", "inference", "recorded") for one in demo.containers(service)]
    hosts = [one["HostConfig"] for one in found]
    assert {host["ReadonlyRootfs"] for host in hosts} == {True}
    assert {tuple(host["CapDrop"]) for host in hosts} == {("ALL",)}
    assert {host["LogConfig"]["Config"]["max-size"] for host in hosts} == {"10m"}
    assert {one["Config"]["User"] for one in found} == {"10001:10001"}
