"""What one partition decides by: its share of the budgets and the horizon, and the LLMs of the index."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Protocol

from worker.contract.errors import FixSetting
from worker.contract.messages import Configuration
from worker.contract.settings import MICROS_PER_USD, Settings
from worker.contract.token_costs import PriceList


class Estimates(Protocol):
    """What a configuration takes of an index: its LLMs, their margins and the index's hash."""

    @property
    def llms(self) -> tuple[str, ...]: ...
    @property
    def margins(self) -> tuple[float, ...]: ...
    @property
    def index(self) -> str: ...


def configuration(
    settings: Settings, manifest: Estimates, partition: int, price_lists: Mapping[str, PriceList]
) -> Configuration:
    """What one partition decides by: budgets and horizon split, LLMs and margins in the order of the index.

    Budgets split exactly: what does not divide goes to the lowest partitions. Raises FixSetting where the index and
    the settings speak of different LLMs.
    """
    check_llms(settings, manifest.llms, "the index")
    routing, partitions = settings.routing, settings.kafka.partitions
    margins = zip(manifest.llms, manifest.margins, strict=True)
    return Configuration(
        llms=tuple(manifest.llms),
        budget_micros={
            llm: _share(_micros(settings.llms[llm].budget_usd), partitions, partition) for llm in manifest.llms
        },
        margins=tuple(float(settings.llms[llm].margin or margin) for llm, margin in margins),
        policy=routing.policy,
        horizon_queries=_share(routing.horizon_queries, partitions, partition),
        horizon_floor_queries=routing.horizon_floor_queries,
        resolve_every_queries=routing.resolve_every_queries,
        window_queries=routing.window_queries,
        observe_share=routing.observe_share,
        max_attempts=routing.max_attempts,
        reservation_ms=routing.reservation_seconds * 1000,
        checkpoint_every=routing.checkpoint_every,
        seed=routing.seed,
        index=manifest.index,
        max_cost_micros=settings.limits.max_cost_micros,
        price_lists={llm: price_lists[llm] for llm in manifest.llms if llm in price_lists},
    )


def check_llms(settings: Settings, llms: Collection[str], where: str) -> None:
    """Raise FixSetting if the LLMs of an index, or of the table of an index, are not those of the settings."""
    known, configured = set(llms), set(settings.llms)
    if known != configured:
        raise FixSetting(
            f"llms: {where} and the settings differ (index.directory: {settings.index.directory}); only in {where}: "
            f"{sorted(known - configured)}, only in the settings: {sorted(configured - known)}. "
            f"Configure a budget for each LLM of {where}, or build an index of these LLMs; an LLM without history "
            "starts with `like`, the name of an LLM of the index"
        )


def _micros(usd: Decimal) -> int:
    return int(usd * MICROS_PER_USD)


def _share(total: int, partitions: int, partition: int) -> int:
    return total // partitions + (1 if partition < total % partitions else 0)
