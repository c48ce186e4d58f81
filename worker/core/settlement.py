"""How an open reservation closes: settled, released or expired, and what is booked as spent. Pure.

The first rule that holds decides:

1. The completion states a cost above 0: that cost.
2. Its usage has a price: that price, and at least the reservation where a detail of the usage has no price.
3. Its cost is above the limit and cannot be: the limit.
4. Nothing was charged: the completion says so, or the LLM is free.
5. The cost is unknown: the whole reservation. Unknown is never zero.

Tokens are those of the usage, or as reserved where it says nothing; a refusal that cost nothing used none. A request
counts once it was sent, also when it was refused.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from worker.contract.codes import Resource
from worker.contract.completions import Remark, UsableCompletion
from worker.contract.messages import Basis, Outcome
from worker.contract.token_costs import PriceList, UnpricedDetail, price, stated
from worker.contract.usage import Usage

UNPRICED: dict[UnpricedDetail, Remark] = {
    "input_audio": "unpriced_input_audio",
    "output_audio": "unpriced_output_audio",
    "tool_calls": "unpriced_tool_calls",
    "service_tier": "unpriced_service_tier",
}


class Held(Protocol):
    """A dispatch for which money is or was held: an open reservation or a dispatch that closed."""

    @property
    def llm(self) -> str:
        """The LLM that it went to."""

    @property
    def reserved_micros(self) -> int:
        """The money that was held for it."""

    @property
    def reserved_tokens(self) -> int:
        """The tokens that were held for it; 0 if no budget in tokens was drawn on."""


class Charge(Struct, frozen=True):
    """How a reservation closes: what is spent in micro-dollars, on what basis, and what was odd about the answer.

    `spent_tokens` is what budgets in tokens are charged; 0 if the dispatch draws on none.
    """

    outcome: Outcome
    spent_micros: int
    basis: Basis
    quality: float | None = None
    error: str | None = None
    usage: Usage | None = None
    remarks: tuple[Remark, ...] = ()
    spent_tokens: int = 0


def expiry(dispatch: Held, begun: bool) -> Charge:
    """What the expiry of a reservation charges: all of it if the call has begun, because it may have cost that."""
    if not begun:
        return Charge("expired", 0, "none")
    return Charge("expired", dispatch.reserved_micros, "unanswered", spent_tokens=dispatch.reserved_tokens)


def uses(resource: Resource, charge: Charge) -> int:
    """What a budget of this resource is charged, in whole units. Open dispatches are given back."""
    match resource:
        case "usd":
            return charge.spent_micros
        case "tokens":
            return charge.spent_tokens
        case "requests":
            return 0 if charge.outcome == "expired" and charge.basis == "none" else 1
        case "open":
            return 0


def charge(dispatch: Held, answer: UsableCompletion, prices: PriceList | None, most_micros: int) -> Charge:
    """What an answer to this dispatch charges.

    `prices` is the price list of the dispatch's LLM; `most_micros` is the most that one answer can cost.
    """
    remarks = list(answer.remarks)
    if answer.llm is not None and answer.llm != dispatch.llm:
        remarks.append("llm_spelled_otherwise")
    spent, basis = _spent(dispatch.reserved_micros, answer, prices, most_micros, remarks)
    outcome: Outcome = "settled" if answer.ok or spent else "released"
    return Charge(
        outcome=outcome,
        spent_micros=spent,
        basis=basis,
        quality=answer.quality,
        error=answer.error,
        usage=answer.usage,
        remarks=tuple(dict.fromkeys(remarks)),
        spent_tokens=_tokens(dispatch.reserved_tokens, outcome, answer.usage),
    )


def second(charge: Charge) -> Charge:
    """The charge of an answer after another dispatch of the same query was answered."""
    return replace(charge, remarks=tuple(dict.fromkeys((*charge.remarks, "second_answer"))))


def _spent(
    reserved: int, answer: UsableCompletion, prices: PriceList | None, most_micros: int, remarks: list[Remark]
) -> tuple[int, Basis]:
    said, used = answer.stated_micros, _used(reserved, answer, prices, remarks)
    if said and said <= most_micros:
        return (max(said, reserved) if answer.cost == "unknown" and used is None else said), "cost"
    if used is not None and used <= most_micros and (used > 0 or answer.ok):
        return used, "usage"
    if (said or 0) > most_micros or (used or 0) > most_micros:
        remarks.append("cost_above_limit")
        return most_micros, "limit"
    if _is_free(answer, prices):
        return 0, "none"
    return reserved, "reservation"


def _tokens(reserved: int, outcome: Outcome, usage: Usage | None) -> int:
    """The tokens that an answer used, of a dispatch that holds so many."""
    if not reserved:
        return 0
    if usage is not None:
        return usage.all_input_tokens + usage.all_output_tokens
    return reserved if outcome == "settled" else 0


def _used(reserved: int, answer: UsableCompletion, prices: PriceList | None, remarks: list[Remark]) -> int | None:
    """What the answer's usage costs, in micro-dollars; None where nobody can say."""
    usage = answer.usage
    if usage is None:
        return None
    cost = stated(usage) if prices is None else price(usage, prices)
    if cost is None:
        remarks.append("no_price_list")
        return None
    remarks += [UNPRICED[detail] for detail in cost.unpriced]
    return max(cost.micros, reserved) if cost.unpriced else cost.micros


def _is_free(answer: UsableCompletion, prices: PriceList | None) -> bool:
    """Whether an answer without a cost above 0 cost nothing.

    It has to say so, or its LLM has to be free. An error that states a cost of 0 says so; an answer that succeeded says
    so with `cost` too, because proxies write 0 where they do not know.
    """
    if answer.cost == "zero" or (prices is not None and prices.is_free):
        return True
    return answer.stated_micros == 0 and (answer.cost == "known" or (not answer.ok and answer.cost is None))
