"""What a deferred query is told beside its decision: what would change it, and which LLM was the best. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from worker.contract.messages import Routed


def remedy(routed: Routed) -> str:
    """What would change this deferral, in words."""
    match routed.reason:
        case "duplicate":
            return "complete or expire the dispatch that is open under this id"
        case "expired":
            return "a later deadline_ms"
        case "exhausted":
            return f"budget for {', '.join(routed.skipped)}"
        case "failed" if not routed.quality:
            return "send it again: it has left its topic"
        case "failed":
            return f"send it again: {routed.attempt - 1} attempts failed"
    return "lower prices: more budget, or fewer queries"


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
