"""What a decision draws on budgets, and what a closing charges them, worked out anew."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, isclose

import msgspec
from msgspec.structs import replace

from worker.contract.accounts import Account, Budget
from worker.contract.decisions import ChargedAgain, Closed, Routed
from worker.contract.messages import Configuration


def drawn_on(config: Configuration | None, routed: Routed) -> tuple[str, ...]:
    """The budgets that a dispatch must hold a part of."""
    assert config is not None, "a decision follows from a configuration"
    return tuple(
        budget.name for budget in config.budgets if routed.llm is not None and _is_over(budget, routed, routed.llm)
    )


def _is_over(budget: Budget, routed: Routed, llm: str) -> bool:
    return (not budget.llms or llm in budget.llms) and set(budget.tags.items()) <= set(routed.tags.items())


def accounts_of(rows: Mapping[str, bytes]) -> dict[str, Account]:
    """The accounts in the rows of a ledger, by their budgets."""
    accounts = (msgspec.msgpack.decode(rows[key], type=Account) for key in rows if key.startswith("budget/"))
    return {account.budget: account for account in accounts}


def again(old: Account, charged: ChargedAgain, replaced: Closed | ChargedAgain | None) -> Account:
    """The account after a further answer, which replaces what an expiry had charged, or is added."""
    more = used(old, charged)
    if replaced is None:
        return changed(old, spent=old.spent + more, paid_twice=old.paid_twice + more)
    return changed(old, spent=old.spent + more - used(old, replaced), late=old.late + more)


def adds_up(account: Account) -> bool:
    """Whether an account keeps its rules."""
    least = min(account.amount, account.spent, account.reserved, account.overrun, account.late, account.paid_twice)
    return least >= 0 and account.spent + account.reserved <= account.amount + account.overrun


def granted(accounts: dict[str, Account], config: Configuration) -> None:
    """Give the accounts the amounts of a configuration."""
    for budget in config.budgets:
        old = accounts.get(budget.name, Account(budget.name, budget.resource, 0))
        accounts[budget.name] = changed(old, amount=budget.amount)


def changed(old: Account, **changes: int) -> Account:
    """An account with changes. Overrun is what is beyond the amount."""
    new = replace(old, **changes)
    return replace(new, overrun=max(0, new.reserved + new.spent - new.amount))


def held(account: Account, routed: Routed) -> int:
    """What a dispatch holds of an account."""
    return {"usd": routed.reserved_micros, "tokens": routed.reserved_tokens}.get(account.resource, 1)


def used(account: Account, charged: Closed | ChargedAgain) -> int:
    """What a closing, or a further answer, uses of an account."""
    never_sent = isinstance(charged, Closed) and charged.outcome == "expired" and charged.basis == "none"
    match account.resource:
        case "usd":
            return charged.spent_micros
        case "tokens":
            return charged.spent_tokens
        case "requests":
            return 0 if never_sent else 1
    return 0


def is_at(config: Configuration | None, prices: tuple[float, ...], routed: Routed) -> bool:
    """Whether each LLM is charged what it uses of the budgets at these prices."""
    if config is None or not prices or not routed.quality:
        return routed.charges == []
    charges = [_charge(config, prices, routed, number) for number in range(len(config.llms))]
    return all(isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(charges, routed.charges, strict=True))


def _charge(config: Configuration, prices: tuple[float, ...], routed: Routed, number: int) -> float:
    uses = {"usd": routed.cost_micros[number], "tokens": _tokens(config, routed, number), "requests": 1.0, "open": 0.0}
    priced = zip(config.budgets, prices, strict=True)
    llm = config.llms[number]
    return sum(price * uses[budget.resource] for budget, price in priced if _is_over(budget, routed, llm))


def _tokens(config: Configuration, routed: Routed, number: int) -> float:
    prices = config.price_lists.get(config.llms[number])
    if prices is None:
        return 0.0
    of_input, of_output = float(prices.input_usd_per_mtok), float(prices.output_usd_per_mtok)
    each = of_output if routed.input_tokens else min(of_input, of_output)
    rest = routed.cost_micros[number] - routed.input_tokens * of_input
    return routed.input_tokens + max(0.0, rest) / each


def token_problem(config: Configuration | None, held_by: Routed, charged: Closed | ChargedAgain) -> str | None:
    """What is wrong with the tokens that a closing charges. Unknown tokens are as reserved, and none are free but
    those of a call that never began or was refused for nothing."""
    spent, reserved = charged.spent_tokens, held_by.reserved_tokens
    if not reserved:
        return None if spent == 0 else f"{charged}: it draws on no budget in tokens"
    if charged.usage is not None:
        right = spent == charged.usage.all_input_tokens + charged.usage.all_output_tokens
    else:
        right = spent == reserved or (
            spent == 0 and charged.spent_micros == 0 and (charged.failed or charged.basis == "none")
        )
    return None if right else f"{charged}: {reserved} tokens were reserved"


def reserved_problem(config: Configuration | None, routed: Routed) -> str | None:
    """What is wrong with the tokens that a dispatch holds."""
    if config is None or routed.llm is None:
        return None
    counts = any(one.resource == "tokens" and _is_over(one, routed, routed.llm) for one in config.budgets)
    number = config.llms.index(routed.llm)
    least = _tokens(config, routed, number) * config.margins[number]
    right = abs(routed.reserved_tokens - ceil(least)) <= 1 if counts else routed.reserved_tokens == 0
    return None if right else f"{routed}: {least} tokens are estimated with the margin"
