"""The fields that a deferred query has beside its decision: its remedy, and the best LLM. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from worker.contract.codes import Remedy
from worker.contract.decisions import Routed


def remedy(routed: Routed) -> Remedy:
    """What would change this deferral."""
    match routed.reason:
        case "duplicate":
            return Remedy("close_dispatch")
        case "expired":
            return Remedy("later_deadline")
        case "exhausted":
            return Remedy("raise_budget", dict(zip(routed.skipped, routed.lacking_micros, strict=False)))
        case "failed" | "unanswered":
            return Remedy("send_again")
    return Remedy("lower_prices")


def best(routed: Routed, llms: Sequence[str]) -> tuple[str | None, float | None]:
    """The LLM of the highest score at the prices of the decision, affordable or not, and that score.

    None without prices or estimates.
    """
    terms = zip(routed.quality, routed.cost_micros, routed.prices, strict=False)
    scores = [quality - cost * price for quality, cost, price in terms][: len(llms)]
    if not scores:
        return None, None
    highest = max(scores)
    return llms[scores.index(highest)], highest
