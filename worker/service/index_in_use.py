"""The index of the settings, with the LLMs that start without history. The one way from settings to an estimator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from worker.contract.errors import FixSetting
from worker.contract.settings import Settings
from worker.contract.token_costs import PriceList
from worker.estimation import index
from worker.estimation.estimator import Estimator
from worker.estimation.manifest import Manifest
from worker.estimation.newcomers import Like, manifest_with, with_newcomers


def load(settings: Settings, directory: Path | None = None) -> Estimator:
    """The estimator of `directory` (None: index.directory) with the newcomers of the settings. Raises FixSetting."""
    estimator = index.load(directory or settings.index.directory)
    return with_newcomers(estimator, likes(settings, estimator.manifest.llms, datetime.now(UTC)))


def inspect(settings: Settings) -> Manifest:
    """The manifest of the index of the settings, with their newcomers. Raises FixSetting."""
    manifest = index.inspect(settings.index.directory)
    return manifest_with(manifest, likes(settings, manifest.llms, datetime.now(UTC)))


def likes(settings: Settings, llms: Sequence[str], at: datetime) -> dict[str, Like]:
    """Each LLM of the settings that is not one of the `llms` of an index, and that is like one of them.

    Costs differ as the prices at that time do, by the dearer of input and output. Raises FixSetting for an LLM that is
    like an unknown one, and where one of both has no prices.
    """
    found, prices = {}, settings.price_lists(at)
    for name, llm in settings.llms.items():
        if llm.like is None or name in llms:
            continue
        if llm.like not in llms:
            raise FixSetting(
                f"llms.{name}.like: {llm.like} is not an LLM of the index (it has {', '.join(llms)}); name one"
            )
        found[name] = Like(llm.like, _factor(name, llm.like, prices.get(name), prices.get(llm.like)))
    return found


def _factor(name: str, like: str, own: PriceList | None, other: PriceList | None) -> float:
    if own is None and other is None:
        return 1.0
    if own is None or other is None:
        raise FixSetting(
            f"llms.{name}.like: {name if own is None else like} has no prices, so costs cannot be compared; set prices "
            f"for both {name} and {like}, or for neither"
        )
    pairs = [
        (float(own.input_usd_per_mtok), float(other.input_usd_per_mtok)),
        (float(own.output_usd_per_mtok), float(other.output_usd_per_mtok)),
    ]
    if any(mine > 0 and its == 0 for mine, its in pairs):
        raise FixSetting(
            f"llms.{name}.like: {like} is free and {name} is not, so its cost is unknown; name an LLM that is not free"
        )
    return round(max((mine / its for mine, its in pairs if its > 0), default=1.0), 6)
