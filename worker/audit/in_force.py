"""Which settings the lanes do not decide by yet: those that were changed since the workers started.

A lane records what it decides by in its ledger (`Configuration`), so no worker is asked. Settings that no decision
depends on, such as [log], [web] or a base_url, are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from worker.contract.errors import FixSetting
from worker.contract.messages import Configuration
from worker.contract.settings import Settings
from worker.contract.token_costs import PriceList
from worker.core.partition_config import configuration
from worker.estimation.manifest import Manifest
from worker.service import index_in_use

# The settings of the fields that are not called like a setting of [routing].
SETTINGS = {
    "llms": "llms",
    "index": "index.directory",
    "reservation_ms": "routing.reservation_seconds",
    "first_probe_ms": "routing.probe_seconds",
    "probe_ms": "routing.probe_seconds",
    "defers_filtered": "routing.after_content_filter",
    "unanswered_ms": "routing.unanswered_seconds",
    "max_cost_micros": "limits.max_cost_usd",
}
# Where the lane is at home, and a hash of the settings as a whole.
NO_SETTINGS = ("home", "settings")
# The fields that hold a value for each LLM.
OF_LLMS = {
    "margins": "margin",
    "price_lists": "price_list",
    "features": "features",
    "context_tokens": "context_tokens",
    "dialects": "dialects",
}


def manifest_of(settings: Settings) -> Manifest | None:
    """The manifest of the index of the settings; None if it is not here."""
    try:
        return index_in_use.inspect(settings)
    except FixSetting:
        return None


def changed(
    settings: Settings,
    manifest: Manifest | None,
    prices: Mapping[str, PriceList],
    running: Sequence[Configuration | None],
) -> dict[str, list[int]]:
    """The settings that differ from what lanes decide by, each with the partitions that decide by another value.

    `running` holds the configuration of each partition's lane, None where there is none yet. Without the index's
    `manifest`, index.directory and margins are not compared.
    """
    found: dict[str, list[int]] = {}
    for partition, config in enumerate(running):
        if config is None:
            continue
        for name in _changed(settings, manifest, prices, partition, config):
            found.setdefault(name, []).append(partition)
    return found


def _changed(
    settings: Settings,
    manifest: Manifest | None,
    prices: Mapping[str, PriceList],
    partition: int,
    running: Configuration,
) -> Iterator[str]:
    try:
        wanted = configuration(settings, manifest or running, partition, prices)
    except FixSetting:
        yield "llms"
        return
    for field in Configuration.__struct_fields__:
        if field in NO_SETTINGS:
            continue
        before, after = getattr(running, field), getattr(wanted, field)
        if before == after:
            continue
        if field == "budgets":
            yield from _budgets(running, wanted)
        elif field in OF_LLMS and running.llms == wanted.llms:
            yield from (f"llms.{llm}.{OF_LLMS[field]}" for llm in _llms(running.llms, before, after))
        elif field not in OF_LLMS:
            yield SETTINGS.get(field, f"routing.{field}")


def _budgets(running: Configuration, wanted: Configuration) -> Iterator[str]:
    """The budgets that are others. A budget with the name of an LLM is the LLM's own."""
    before, after = ({budget.name: budget for budget in config.budgets} for config in (running, wanted))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"llms.{name}.budget_usd" if name in wanted.llms else f"budgets.{name}"


def _llms(llms: Sequence[str], before: object, after: object) -> Iterator[str]:
    """The LLMs whose values differ, of values by name or in the order of `llms`."""
    for number, llm in enumerate(llms):
        values = [side.get(llm) if isinstance(side, Mapping) else side[number] for side in (before, after)]  # type: ignore[index]
        if values[0] != values[1]:
            yield llm
