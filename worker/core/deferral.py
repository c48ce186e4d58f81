"""The fields that a deferred query has beside its decision: its remedy, and the best LLM. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from worker.contract.codes import Remedy, RemedyCode
from worker.contract.decisions import Routed

REMEDIES: dict[str, RemedyCode] = {
    "priced_out": "lower_prices",
    "duplicate": "close_dispatch",
    "expired": "later_deadline",
    "failed": "send_again",
    "unanswered": "send_again",
    "unavailable": "send_again",
    "filtered": "allow_next_llm",
}


def remedy(routed: Routed) -> Remedy:
    """What would change this deferral."""
    if routed.reason == "exhausted":
        return Remedy("raise_budget", dict(zip(routed.skipped, routed.lacking, strict=False)))
    if routed.reason == "no_candidate":
        return Remedy("change_request", excluded=routed.excluded)
    return Remedy(REMEDIES[routed.reason])


def best(routed: Routed, llms: Sequence[str]) -> tuple[str | None, float | None]:
    """The candidate of the highest score at the prices of the decision, affordable or not, and that score.

    None without prices, estimates or candidates.
    """
    terms = zip(llms, routed.quality, routed.charges, strict=False)
    scores = [(quality - charge, llm) for llm, quality, charge in terms if llm not in routed.excluded]
    if not scores:
        return None, None
    highest, llm = max(scores, key=lambda scored: scored[0])
    return llm, highest
