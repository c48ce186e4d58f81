"""Which budgets a query draws on for each LLM, and what it would use of each. Pure.

The budgets with tags that a query draws on are its cell. All queries of a cell draw on the same budgets, LLM by LLM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from worker.contract.accounts import Budget, Hold
from worker.contract.messages import Configuration
from worker.contract.token_costs import PriceList


class Held(NamedTuple):
    """What a dispatch holds of each account, and the money and the tokens of it; 0 tokens if no budget is in tokens."""

    holds: tuple[Hold, ...]
    micros: int
    tokens: int


# The numbers of the budgets with tags that a query carries, in their order.
Cell = tuple[int, ...]
NO_TAGS: Cell = ()
# A price of 1 US dollar per thousand is 1,000 micro-dollars each.
MICROS_OF_A_THOUSANDTH = 1_000.0


class Draws:
    """The budgets of one configuration, asked by query and LLM. LLMs and budgets are numbers in their order there."""

    def __init__(self, config: Configuration) -> None:
        self.budgets = config.budgets
        self.llms = config.llms
        self._margins = config.margins
        self._lists = config.price_lists
        self.counts_tokens = any(budget.resource == "tokens" for budget in config.budgets)
        self._matching: dict[Cell, tuple[tuple[int, ...], ...]] = {}
        self._asked = {tag for budget in config.budgets for tag in budget.tags.items()}
        # Each budget with tags under one of them: a query looks only at the budgets of its own tags.
        self._tagged: dict[tuple[str, str], list[int]] = {}
        for number, budget in enumerate(config.budgets):
            for tag in list(budget.tags.items())[:1]:
                self._tagged.setdefault(tag, []).append(number)

    def cell(self, tags: Mapping[str, str]) -> Cell:
        """The budgets with tags that a query with these tags draws on."""
        if not tags or not self._tagged:
            return NO_TAGS
        found = [number for tag in tags.items() for number in self._tagged.get(tag, ())]
        return tuple(sorted(number for number in found if self.budgets[number].tags.items() <= tags.items()))

    def unknown(self, tags: Mapping[str, str]) -> list[str]:
        """The names of those tags of a query that no budget asks for with this value; none if no budget has tags."""
        return [tag[0] for tag in tags.items() if tag not in self._asked] if self._asked else []

    def matching(self, cell: Cell) -> tuple[tuple[int, ...], ...]:
        """The budgets that a query of this cell draws on, for each LLM."""
        known = self._matching.get(cell)
        if known is None:
            of_cell = [n for n, budget in enumerate(self.budgets) if not budget.tags or n in cell]
            known = tuple(tuple(n for n in of_cell if _is_over(self.budgets[n], llm)) for llm in self.llms)
            self._matching[cell] = known
        return known

    def tokens(self, cost_micros: Sequence[float], input_tokens: int) -> list[float]:
        """The estimated tokens of a query [LLMs]: its input (0: not known), and the output that the cost pays."""
        rows = zip(self.llms, cost_micros, strict=True)
        return [_tokens(self._lists.get(llm), cost, input_tokens) for llm, cost in rows]

    def held(self, tags: Mapping[str, str], llm: int, cost_micros: float, input_tokens: int) -> Held:
        """What a dispatch with this estimate holds: cost and tokens with the LLM's margin, rounded up."""
        micros, tokens = math.ceil(cost_micros * self._margins[llm]), 0
        holds = []
        for number in self.matching(self.cell(tags))[llm]:
            budget = self.budgets[number]
            if budget.resource == "usd":
                holds.append(Hold(budget.name, micros))
            elif budget.resource == "tokens":
                tokens = tokens or self._reserved_tokens(llm, cost_micros, input_tokens)
                holds.append(Hold(budget.name, tokens))
            else:
                holds.append(Hold(budget.name, 1))
        return Held(tuple(holds), micros, tokens)

    def _reserved_tokens(self, llm: int, cost_micros: float, input_tokens: int) -> int:
        estimate = _tokens(self._lists.get(self.llms[llm]), cost_micros, input_tokens)
        return max(1, math.ceil(estimate * self._margins[llm]))


def _is_over(budget: Budget, llm: str) -> bool:
    return not budget.llms or llm in budget.llms


def _tokens(prices: PriceList | None, cost_micros: float, input_tokens: int) -> float:
    """Input and estimated output. An LLM without a price list is in no budget of tokens.

    If the input is not known (0), it is as much as the cost can pay at the lower price: unknown is never less.
    """
    if prices is None:
        return float(input_tokens)
    now = prices.at(input_tokens)
    each, of_input = float(now.output_usd_per_mtok), float(now.input_usd_per_mtok)
    if not input_tokens and of_input:
        each = min(each, of_input)
    known = input_tokens * of_input + float(now.request_usd_per_1000 or 0) * MICROS_OF_A_THOUSANDTH
    return input_tokens + (max(0.0, cost_micros - known) / each if each else 0.0)
