"""What one partition decides by: its share of the budgets and the horizon, and the LLMs of the index."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from hashlib import blake2b
from math import ceil
from typing import Protocol

import msgspec
from msgspec import UnsetType
from msgspec.structs import replace

from worker.contract.accounts import Budget
from worker.contract.errors import FixSetting
from worker.contract.kinds import Kinds
from worker.contract.messages import Configuration
from worker.contract.sentences import UNITS
from worker.contract.settings import Settings
from worker.contract.token_costs import PriceList
from worker.contract.usage import MICROS_PER_USD

SETTINGS_BYTES = 8


class Estimates(Protocol):
    """What a configuration takes of an index: its LLMs, their margins, the index's hash and its kinds of queries."""

    @property
    def llms(self) -> tuple[str, ...]: ...
    @property
    def margins(self) -> tuple[float, ...]: ...
    @property
    def index(self) -> str: ...
    @property
    def kinds(self) -> Kinds | UnsetType | None: ...


# An inference worker completes a call when its timeout is over. So much longer may a dispatch wait for its call.
UNANSWERED_SECONDS = 60


def configuration(
    settings: Settings, manifest: Estimates, partition: int, price_lists: Mapping[str, PriceList]
) -> Configuration:
    """What one partition decides by: budgets and horizon split, LLMs and margins in the order of the index.

    Budgets split exactly, in whole units: what does not divide goes to the lowest partitions. Raises FixSetting where
    the index and the settings speak of different LLMs, and where a budget cannot be counted.
    """
    check_llms(settings, manifest.llms, "the index")
    _check_budgets(settings, price_lists)
    routing, partitions = settings.routing, settings.kafka.partitions
    probe_ms = routing.probe_seconds * 1_000
    margins = zip(manifest.llms, manifest.margins, strict=True)
    whole = Configuration(
        llms=tuple(manifest.llms),
        budgets=_budgets(settings, manifest.llms),
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
        kinds=(manifest.kinds or None) if routing.forecast else None,
    )
    budgets = tuple(replace(one, amount=share(one.amount, partitions, partition)) for one in whole.budgets)
    horizon = share(whole.horizon_queries, partitions, partition)
    return replace(
        whole,
        budgets=budgets,
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
        if name == "budgets":
            yield from _differing_budgets(mine, theirs)
        elif name == "horizon_queries":
            if abs(mine - theirs) > 1:
                yield name
        elif name not in ("settings", "home", "first_probe_ms") and mine != theirs:
            yield name


def _differing_budgets(mine: tuple[Budget, ...], theirs: tuple[Budget, ...]) -> Iterator[str]:
    ours, others = ({budget.name: budget for budget in budgets} for budgets in (mine, theirs))
    for name in sorted(ours.keys() | others.keys()):
        one, other = ours.get(name), others.get(name)
        if one is None or other is None:
            yield f"the budget {name}, which only some have"
        # Shares of the same budget differ by one unit at most.
        elif abs(one.amount - other.amount) > 1:
            yield f"the budget {name} ({one.amount} and {other.amount} {UNITS[one.resource]} a partition)"
        elif replace(one, amount=other.amount) != other:
            yield f"what the budget {name} is over"


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


def _budgets(settings: Settings, llms: Collection[str]) -> tuple[Budget, ...]:
    """All budgets, whole: those of one LLM in the order of the LLMs, then the others in the order of the settings."""
    own = ((llm, settings.llms[llm].budget_usd) for llm in llms)
    of_llms = (Budget(llm, "usd", int(usd * MICROS_PER_USD), (llm,)) for llm, usd in own if usd is not None)
    others = (
        Budget(name, budget.resource, budget.amount, budget.llms or (), dict(budget.tags))
        for name, budget in settings.budgets.items()
    )
    return (*of_llms, *others)


def _check_budgets(settings: Settings, price_lists: Mapping[str, PriceList]) -> None:
    """Raise FixSetting for a budget in tokens over an LLM whose tokens nobody can estimate, and for one that `port`
    does not know."""
    for name, budget in settings.budgets.items():
        for llm in settings.llms if budget.resource == "tokens" else ():
            if budget.is_over(llm) and (llm not in price_lists or not price_lists[llm].output_usd_per_mtok):
                raise FixSetting(
                    f"budgets.{name}.tokens: {llm} has no price of output tokens, so the tokens of its answers cannot "
                    f"be estimated; set llms.{llm}.price_list, or limit {name} by requests or open"
                )
    for llm, one in settings.llms.items():
        if settings.routing.policy == "port" and one.budget_usd is None:
            raise FixSetting(
                f"llms.{llm}.budget_usd: the policy port knows only budgets of one LLM each; set it, or set "
                'routing.policy = "priced"'
            )


def share(total: int, partitions: int, partition: int) -> int:
    """The part of one partition: whole units, and what does not divide goes to the lowest partitions."""
    return total // partitions + (1 if partition < total % partitions else 0)
