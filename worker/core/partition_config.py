"""What one partition decides by: its share of the budgets and the horizon, and the LLMs of the index."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from hashlib import blake2b
from math import ceil
from typing import Protocol

import msgspec
from msgspec.structs import replace

from worker.contract.errors import FixSetting
from worker.contract.messages import Configuration
from worker.contract.settings import MICROS_PER_USD, Settings
from worker.contract.token_costs import PriceList

SETTINGS_BYTES = 8


class Estimates(Protocol):
    """What a configuration takes of an index: its LLMs, their margins and the index's hash."""

    @property
    def llms(self) -> tuple[str, ...]: ...
    @property
    def margins(self) -> tuple[float, ...]: ...
    @property
    def index(self) -> str: ...


# An inference worker completes a call when its timeout is over. So much longer may a dispatch wait for its call.
UNANSWERED_SECONDS = 60


def configuration(
    settings: Settings, manifest: Estimates, partition: int, price_lists: Mapping[str, PriceList]
) -> Configuration:
    """What one partition decides by: budgets and horizon split, LLMs and margins in the order of the index.

    Budgets split exactly: what does not divide goes to the lowest partitions. Raises FixSetting where the index and
    the settings speak of different LLMs.
    """
    check_llms(settings, manifest.llms, "the index")
    routing, partitions = settings.routing, settings.kafka.partitions
    probe_ms = routing.probe_seconds * 1_000
    margins = zip(manifest.llms, manifest.margins, strict=True)
    whole = Configuration(
        llms=tuple(manifest.llms),
        budget_micros={llm: _micros(settings.llms[llm].budget_usd) for llm in manifest.llms},
        margins=tuple(float(settings.llms[llm].margin or margin) for llm, margin in margins),
        policy=routing.policy,
        horizon_queries=routing.horizon_queries,
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
        first_probe_ms=probe_ms,
        probe_ms=settings.kafka.partitions * probe_ms,
        defers_filtered=routing.after_content_filter == "defer",
        unanswered_ms=tuple(_unanswered_ms(settings, llm) for llm in manifest.llms),
        features={llm: given for llm in manifest.llms if (given := settings.llms[llm].features) is not None},
        context_tokens={llm: most for llm in manifest.llms if (most := settings.llms[llm].context_tokens) is not None},
        dialects={llm: spoken for llm in manifest.llms if (spoken := settings.llms[llm].spoken) is not None},
        unknown_model=routing.unknown_model,
        exploration_share=routing.exploration_share,
    )
    budgets = {llm: _share(micros, partitions, partition) for llm, micros in whole.budget_micros.items()}
    horizon = _share(whole.horizon_queries, partitions, partition)
    return replace(
        whole,
        budget_micros=budgets,
        horizon_queries=horizon,
        # One lane after the other, so that all together probe an LLM once in this time.
        first_probe_ms=(partition + 1) * probe_ms,
        settings=_hash(whole, partitions),
    )


def disagreement(configs: Mapping[int, Configuration]) -> str:
    """What partitions decide differently, in words; empty if all decide by the same settings."""
    groups: dict[str, list[int]] = {}
    for partition, config in configs.items():
        if config.settings:
            groups.setdefault(config.settings, []).append(partition)
    if len(groups) < 2:
        return ""
    first, *others = groups.values()
    mine = configs[first[0]]
    differ = [(other, ", ".join(_differing(mine, configs[other[0]]))) for other in others]
    return "; ".join(f"{_numbers(first)} and {_numbers(other)} differ in {what}" for other, what in differ)


def _numbers(partitions: list[int]) -> str:
    return f"partition {partitions[0]}" if len(partitions) == 1 else f"partitions {', '.join(map(str, partitions))}"


def _differing(one: Configuration, other: Configuration) -> Iterator[str]:
    for name in one.__struct_fields__:
        mine, theirs = getattr(one, name), getattr(other, name)
        if name == "budget_micros":
            for llm in sorted({*mine, *theirs}):
                # Shares of the same budget differ by one micro-dollar at most.
                if abs(mine.get(llm, 0) - theirs.get(llm, 0)) > 1:
                    yield f"the budget of {llm} ({mine.get(llm, 0)} and {theirs.get(llm, 0)} micro-dollars a partition)"
        elif name == "horizon_queries":
            if abs(mine - theirs) > 1:
                yield name
        elif name not in ("settings", "home", "first_probe_ms") and mine != theirs:
            yield name


def _hash(whole: Configuration, partitions: int) -> str:
    encoded = msgspec.msgpack.encode((whole, partitions), order="deterministic")
    return blake2b(encoded, digest_size=SETTINGS_BYTES).hexdigest()


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


def _unanswered_ms(settings: Settings, llm: str) -> int:
    """How long a dispatch to this LLM may go without an answer."""
    seconds = settings.routing.unanswered_seconds
    return ceil(1_000 * (settings.llms[llm].timeout_seconds + UNANSWERED_SECONDS if seconds is None else seconds))


def _micros(usd: Decimal) -> int:
    return int(usd * MICROS_PER_USD)


def _share(total: int, partitions: int, partition: int) -> int:
    return total // partitions + (1 if partition < total % partitions else 0)
