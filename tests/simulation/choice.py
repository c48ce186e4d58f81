"""Which LLM the policy `priced` must choose, and which completions say that they cost nothing, worked out anew."""

from __future__ import annotations

from typing import Any

from worker.contract.decisions import Routed
from worker.contract.messages import Configuration


def wrong_choice(config: Configuration | None, routed: Routed) -> str | None:
    """What is wrong with a decision: the best score above 0 of a candidate must be chosen that is in use, has enough
    context, and was neither tried nor found exhausted. None if nothing is."""
    if config is None or config.policy != "priced" or not routed.quality:
        return None
    scores = [charge - quality for quality, charge in zip(routed.quality, routed.charges, strict=False)]
    ranked = [config.llms[i] for score, i in sorted((s, i) for i, s in enumerate(scores)) if score < 0]
    known = config.context_tokens
    able = [llm for llm in ranked if known.get(llm, routed.above_context_tokens + 1) > routed.above_context_tokens]
    once_more = [routed.llm] if routed.llm in routed.tried and routed.llm in able else []
    denied = () if routed.asks is None else routed.asks.deny
    allowed = config.llms if routed.asks is None or routed.asks.allow is None else routed.asks.allow
    able = [llm for llm in able if llm in allowed and llm not in denied]
    worth = [llm for llm in able if llm not in (*routed.tried, *routed.out)] + once_more
    if routed.llm is not None:
        is_right = worth[: len(routed.skipped) + 1] == [*routed.skipped, routed.llm]
        return None if is_right else f"{worth} was the order of {routed}"
    untried = [llm for llm in routed.skipped if llm not in routed.tried]
    if routed.reason in {"exhausted", "priced_out", "unavailable", "no_candidate"} and worth != untried:
        return f"{worth} could have been tried: {routed}"
    return None


# Errors that cost nothing if the completion does not say otherwise.
FREE = {"rate_limited", "overloaded", "quota", "auth", "refused_request"}


def is_free(said: dict[str, Any]) -> bool:
    """Whether a completion without a cost above 0 says that it cost nothing."""
    if said.get("cost") is None and said.get("error_class") in FREE:
        return True
    return said.get("cost") == "zero" or (said.get("cost_micros") == 0 and said.get("status") == "error")
