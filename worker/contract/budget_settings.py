"""[budgets."<name>"]: a limit over some LLMs and some queries, and what all budgets together must be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from worker.contract.codes import Resource
from worker.contract.extras import MOST_TAG_CHARACTERS, MOST_TAGS
from worker.contract.section import Dollars, Section
from worker.contract.usage import MICROS_PER_USD

RESOURCES: tuple[Resource, ...] = ("usd", "tokens", "requests", "open")
MOST_BUDGETS = 1_000
Amount = Annotated[int, Field(gt=0, le=10**15)]
Every = Literal["total"]
TagText = Annotated[str, Field(min_length=1, max_length=MOST_TAG_CHARACTERS)]


class BudgetSettings(Section):
    """[budgets."<name>"]: exactly one of `usd`, `tokens`, `requests` and `open`, over the queries that it matches.

    It matches a query for an LLM if `llms` names the LLM, or is not set, and if the query carries all `tags`. `open`
    limits the dispatches that are not answered yet. `every` is how often the amount comes anew: `total` is once.
    """

    usd: Annotated[Dollars, Field(gt=0)] | None = None
    tokens: Amount | None = None
    requests: Amount | None = None
    open: Amount | None = None
    llms: Annotated[tuple[str, ...], Field(min_length=1, max_length=1_000)] | None = None
    tags: dict[TagText, TagText] = Field(default={}, max_length=MOST_TAGS)
    every: Every = "total"

    @model_validator(mode="after")
    def _one_resource(self) -> BudgetSettings:
        given = [resource for resource in RESOURCES if getattr(self, resource) is not None]
        if len(given) != 1:
            found = "none of them" if not given else " and ".join(given)
            raise ValueError(f"a budget has exactly one of {', '.join(RESOURCES)}; this one has {found}")
        return self

    @property
    def resource(self) -> Resource:
        """What it limits."""
        return next(resource for resource in RESOURCES if getattr(self, resource) is not None)

    @property
    def amount(self) -> int:
        """How much, in whole units of its resource: micro-dollars, tokens, requests or open dispatches."""
        given = getattr(self, self.resource)
        return int(given * MICROS_PER_USD) if self.resource == "usd" else int(given)

    def is_over(self, llm: str) -> bool:
        """Whether it is over this LLM."""
        return self.llms is None or llm in self.llms


def uncovered(budgets: Mapping[str, BudgetSettings], llms: Collection[str], own: Collection[str]) -> Iterator[str]:
    """What is wrong with all budgets together, in words for the operator. `own` are the LLMs with a `budget_usd`."""
    if len(budgets) > MOST_BUDGETS:
        yield f"budgets: {len(budgets)} are too many; at most {MOST_BUDGETS} can be priced"
    for name, budget in budgets.items():
        if not name.strip():
            yield "budgets: a budget's name is empty"
        if name in llms:
            yield f"budgets.{name}: has the name of an LLM; give it another name, or set llms.{name}.budget_usd instead"
        if unknown := sorted(set(budget.llms or ()) - set(llms)):
            known = ", ".join(sorted(llms)) or "there are none"
            yield f"budgets.{name}.llms: {', '.join(unknown)} is no LLM of [llms]; the LLMs are: {known}"
        if not llms:
            yield f"budgets.{name}: matches no LLM, because [llms] has none; add the LLMs that it pays"
    everybody = [budget for budget in budgets.values() if not budget.tags]
    for llm in llms:
        if llm not in own and not any(budget.is_over(llm) for budget in everybody):
            yield (
                f"llms.{llm}: no budget is over all of its queries, so it could spend without a limit; set "
                f"llms.{llm}.budget_usd, or add a budget without tags over it"
            )
