"""What each LLM would have used of the budgets, at the prices in force: worked out anew for every decision. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose

from worker.audit.mismatch import Mismatch
from worker.contract.accounts import Budget
from worker.contract.codes import Resource
from worker.contract.decisions import Routed
from worker.contract.messages import Configuration

# Sums in another order differ in the last bits.
SAME = 1e-9
MOST_KNOWN = 1_000
MICROS_OF_A_THOUSANDTH = 1_000


class Charges:
    """Checks the charges of decisions under one configuration."""

    def __init__(self, config: Configuration) -> None:
        self._config = config
        self._of_tags: dict[tuple[tuple[str, str], ...], list[list[Budget]]] = {}

    def mismatch(self, routed: Routed, prices: Mapping[str, float]) -> Mismatch | None:
        """What is wrong with the charges of a decision; None if nothing is."""
        expected = self._expected(routed, prices)
        same = len(expected) == len(routed.charges) and all(
            isclose(made, said, rel_tol=SAME, abs_tol=SAME) for made, said in zip(expected, routed.charges, strict=True)
        )
        return None if same else Mismatch("Routed", "charges", routed.charges, expected)

    def _expected(self, routed: Routed, prices: Mapping[str, float]) -> list[float]:
        if not prices or not routed.cost_micros:
            return []
        charges = []
        for llm, cost, budgets in zip(self._config.llms, routed.cost_micros, self._drawn(routed.tags), strict=False):
            uses: dict[Resource, float] = {"usd": cost, "requests": 1.0, "open": 0.0}
            if any(budget.resource == "tokens" for budget in budgets):
                uses["tokens"] = self._tokens(llm, cost, routed.input_tokens)
            charges.append(sum(prices.get(budget.name, 0.0) * uses[budget.resource] for budget in budgets))
        return charges

    def _drawn(self, tags: Mapping[str, str]) -> list[list[Budget]]:
        """The budgets that a query with these tags draws on, for each LLM."""
        key = tuple(tags.items())
        if key not in self._of_tags:
            if len(self._of_tags) >= MOST_KNOWN:
                self._of_tags.clear()
            own = [one for one in self._config.budgets if set(one.tags.items()) <= set(tags.items())]
            self._of_tags[key] = [[one for one in own if not one.llms or llm in one.llms] for llm in self._config.llms]
        return self._of_tags[key]

    def _tokens(self, llm: str, cost_micros: float, input_tokens: int) -> float:
        """The estimated tokens: the input, and the output that the rest of the cost pays."""
        prices = self._config.price_lists.get(llm)
        if prices is None:
            return float(input_tokens)
        now = prices.at(input_tokens)
        fresh, out = float(now.input_usd_per_mtok), float(now.output_usd_per_mtok)
        rest = cost_micros - input_tokens * fresh - float(now.request_usd_per_1000 or 0) * MICROS_OF_A_THOUSANDTH
        price = out if input_tokens or not fresh else min(out, fresh)
        return input_tokens + (max(rest, 0.0) / price if price else 0.0)
