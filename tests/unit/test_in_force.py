"""Which settings lanes do not decide by yet, as `tollgate status` names them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from worker.audit.in_force import changed
from worker.audit.status import PartitionStatus, Status
from worker.commands.status import tables
from worker.contract.messages import Configuration, Fit, Offsets
from worker.contract.settings import KafkaSettings, LimitSettings, LlmSettings, RoutingSettings, Settings
from worker.core.partition_config import configuration
from worker.estimation.manifest import Manifest

LLMS = {"a": LlmSettings(budget_usd=Decimal(1)), "b": LlmSettings(budget_usd=Decimal(2))}
PARTITIONS = 3


def settings(**changes: Any) -> Settings:
    """The settings with which the workers started, with `changes`."""
    fields: dict[str, Any] = {"kafka": KafkaSettings(partitions=PARTITIONS), "llms": LLMS}
    return Settings(**fields | changes)


def manifest(**changes: Any) -> Manifest:
    """The index with which the workers started, with `changes`."""
    fields: dict[str, Any] = dict.fromkeys(Manifest.__struct_fields__)
    return Manifest(**fields | {"llms": ("a", "b"), "margins": (1.5, 2.0), "index": "old"} | changes)


def running(index: Manifest) -> list[Configuration | None]:
    """What the lanes decide by: partition 2 has decided nothing yet."""
    return [*(configuration(settings(), index, partition, {}) for partition in (0, 1)), None]


PRICED = LlmSettings(budget_usd=Decimal(1), input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(2))
CHANGES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("nothing", {}, []),
    ("a budget", {"llms": LLMS | {"b": LlmSettings(budget_usd=Decimal(3))}}, ["llms.b.budget_usd"]),
    ("a margin", {"llms": LLMS | {"a": LlmSettings(budget_usd=Decimal(1), margin=3.0)}}, ["llms.a.margin"]),
    ("a price", {"llms": LLMS | {"a": PRICED}}, ["llms.a.price_list"]),
    ("the policy", {"routing": RoutingSettings(policy="port")}, ["routing.policy"]),
    ("a time", {"routing": RoutingSettings(reservation_seconds=7)}, ["routing.reservation_seconds"]),
    ("a limit", {"limits": LimitSettings(max_cost_usd=Decimal(5))}, ["limits.max_cost_usd"]),
    ("another LLM", {"llms": {"a": LLMS["a"]}}, ["llms"]),
]


@pytest.mark.parametrize("here", [True, False], ids=["the index is here", "it is not"])
@pytest.mark.parametrize(("changes", "named"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_changed_setting_is_named(changes: dict[str, Any], named: list[str], here: bool) -> None:
    """With the partitions whose lanes decide by another value."""
    now = settings(**changes)
    prices = now.price_lists(datetime.now(UTC))
    found = changed(now, manifest() if here else None, prices, running(manifest()))
    assert found == {name: [0, 1] for name in named}


def test_another_index_is_named() -> None:
    """If it is here, so that it can be compared."""
    new = manifest(index="new", margins=(1.5, 9.0))
    assert changed(settings(), new, {}, running(manifest())) == {"llms.b.margin": [0, 1], "index.directory": [0, 1]}
    assert changed(settings(), None, {}, running(manifest())) == {}


def test_another_order_of_the_llms_is_one_change() -> None:
    """Not a change of each value."""
    other = manifest(llms=("b", "a"), margins=(2.0, 1.5))
    assert changed(settings(), other, {}, running(manifest())) == {"llms": [0, 1]}


def test_two_settings_at_once() -> None:
    """Only the partitions that decide by another value are named."""
    first, second, third = running(manifest())
    assert second is not None
    assert changed(settings(), manifest(), {}, [first, replace(second, seed=5), third]) == {"routing.seed": [1]}


PARTITION = PartitionStatus(
    partition=0,
    transactions=1,
    decisions=1,
    dispatches=1,
    clock_ms=0,
    open=0,
    oldest_ms=None,
    offsets=Offsets(),
    behind=Offsets(),
    accounts=[],
    prices={},
    fit=Fit("observing", 0.0, 0.0, 0, "no_estimates"),
    unanswered={},
)
SAID = [
    ({}, True, "settings  every partition decides by these settings\n"),
    ({}, False, "these settings; the index is not here: index.directory and margins were not compared\n"),
    ({"routing.policy": [1]}, True, "changed since the workers started; restart them: routing.policy (partition 1)\n"),
    ({"llms": [0, 2], "x": [0]}, True, "restart them: llms (partitions 0, 2), x (partition 0)\n"),
]


@pytest.mark.parametrize(("names", "here", "said"), SAID)
def test_status_says_it(names: dict[str, list[int]], here: bool, said: str) -> None:
    """In its last line."""
    status = Status(
        budgets=[], prices={}, llms={}, partitions=[PARTITION], silent=[], changed_settings=names, index_is_here=here
    )
    screen = Console(width=200)
    with screen.capture() as shown:
        screen.print(tables(status))
    assert shown.get().endswith(said)
