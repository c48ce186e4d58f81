"""Which LLMs are candidates for a query. Pure.

What is not known of an LLM excludes it from nothing: settings from before there were `features` go on to work, and an
LLM that cannot do what it is asked refuses free of charge, after which the query goes to the next one.
"""

from __future__ import annotations

from worker.contract.asks import NOTHING, Asks
from worker.contract.codes import MAX_DETAIL_CHARACTERS, Exclusion, QueryRemark, Rejection
from worker.contract.messages import Configuration


def exclusions(asks: Asks, config: Configuration) -> dict[str, Exclusion]:
    """The LLMs that are no candidates for a query, in their order, each with the first reason."""
    if asks == NOTHING or config.unknown_model is None:
        return {}
    wish = [llm for llm in asks.wish if llm in config.llms]
    reasons = ((llm, _why(llm, asks, wish, config)) for llm in config.llms)
    return {llm: why for llm, why in reasons if why is not None}


def remarks(asks: Asks, config: Configuration) -> tuple[QueryRemark, ...]:
    """What is odd about what a query asks: names that are no LLMs."""
    if not names_llms(asks, config):
        return ()
    named: dict[QueryRemark, tuple[str, ...]] = {
        "unknown_model": asks.wish,
        "unknown_allowed": asks.allow or (),
        "unknown_denied": asks.deny,
    }
    return tuple(code for code, names in named.items() if not set(names) <= set(config.llms))


def names_llms(asks: Asks, config: Configuration) -> bool:
    """Whether a query names LLMs that it wants, allows or denies."""
    return config.unknown_model is not None and bool(asks.wish or asks.allow is not None or asks.deny)


def refused_model(asks: Asks, config: Configuration) -> Rejection | None:
    """Why a query is refused for the model that it names; None if it is not."""
    if config.unknown_model != "refuse":
        return None
    unknown = next((name for name in asks.wish if name not in config.llms), None)
    return None if unknown is None else Rejection("unknown_model", detail=unknown[:MAX_DETAIL_CHARACTERS])


def _why(llm: str, asks: Asks, wish: list[str], config: Configuration) -> Exclusion | None:
    if llm in asks.deny:
        return "denied"
    if asks.allow is not None and llm not in asks.allow:
        return "not_allowed"
    if wish and llm not in wish:
        return "not_wished"
    spoken = config.dialects.get(llm)
    if spoken is not None and asks.dialects is not None and not set(asks.dialects) & set(spoken):
        return "dialect"
    able = config.features.get(llm)
    lacking = next((feature for feature in asks.features if able is not None and feature not in able), None)
    if lacking is not None:
        return lacking
    return "context" if asks.context_tokens > config.context_tokens.get(llm, asks.context_tokens) else None
