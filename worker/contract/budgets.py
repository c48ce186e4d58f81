"""What a budget is: an amount of one resource for each period, over the queries that it matches. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from worker.contract.calendar import Every
from worker.contract.codes import Resource

Amount = Annotated[int, Meta(ge=0, le=2**53)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class BudgetDefinition(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One budget: `amount` whole units of `resource` for each period (usd: micro-dollars).

    It matches a query for an LLM if the LLM is in `llms` (none: all LLMs) and the query has all `tags`. With
    `carry_over`, what is left of a period is added to the next one, and an overrun is taken off it.
    """

    name: Name
    resource: Resource
    amount: Amount
    every: Every = "total"
    time_zone: Annotated[str, Meta(max_length=100)] = "UTC"
    carry_over: bool = False
    llms: Annotated[tuple[Name, ...], Meta(max_length=1_000)] = ()
    tags: Annotated[dict[Name, Annotated[str, Meta(max_length=256)]], Meta(max_length=100)] = {}

    def matches(self, llm: str, tags: Mapping[str, str]) -> bool:
        """Whether a query with these tags would draw on this budget if this LLM answered it."""
        return (not self.llms or llm in self.llms) and all(tags.get(tag) == self.tags[tag] for tag in self.tags)
