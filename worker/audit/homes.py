"""What the books say of where they belong: other topics than today's, topics that were changed, settings that differ.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from worker.audit.mismatch import Mismatch
from worker.contract.decisions import Configured
from worker.contract.messages import Configuration, Home
from worker.core.partition_config import disagreement


class Homes:
    """The homes of one lane, in the order in which its decisions name them."""

    def __init__(self, config: Configuration | None = None) -> None:
        self._last = None if config is None else config.home

    def add(self, configured: Configured) -> Iterator[str]:
        """The next configuration; says what of the home is another now."""
        before, self._last = self._last, configured.config.home or self._last
        if before is not None and self._last is not None:
            yield from _changes(before, self._last)


def _changes(before: Home, after: Home) -> Iterator[str]:
    for name, topic_id in after.topic_ids.items():
        if topic_id != before.topic_ids.get(name):
            was = "what it held and was not decided is lost" if name in ("queries", "completions") else "it was lost"
            yield f"goes on in another topic `{name}` ({topic_id}, before it {before.topic_ids.get(name)}): {was}"
    if after.group != before.group:
        yield f"belongs to the group {after.group} from here on, before it to {before.group}"


def elsewhere(home: Home | None, ids: Mapping[str, str | None]) -> Iterator[tuple[str, Mismatch]]:
    """What of the home is another today: the names of the topics, with findings. `ids` are their ids today."""
    if home is None:
        return
    for name, topic_id in home.topic_ids.items():
        today = ids.get(name)
        if today is not None and today != topic_id:
            yield (
                name,
                Mismatch(
                    f"was deleted and made anew: its topic id is {today}, but the ledger belongs to {topic_id}; "
                    "no worker opens this partition until that is mended, see docs/how-to/lost-topics.md"
                ),
            )


def disagreements(configs: Mapping[int, Configuration]) -> Iterator[Mismatch]:
    """Partitions whose budgets are split over another number of partitions than those of others."""
    split = {n: config.home.partitions for n, config in configs.items() if config.home is not None}
    if len(set(split.values())) > 1:
        said = ", ".join(f"{n}: over {partitions}" for n, partitions in split.items())
        yield Mismatch(f"budgets are split over different numbers of partitions ({said}): more is spent than budgeted")


def notes(configs: Mapping[int, Configuration]) -> list[str]:
    """Partitions that decide by other settings than others."""
    said = disagreement(configs)
    return [f"the partitions decide by different settings: {said}"] if said else []
