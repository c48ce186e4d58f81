"""What a lane learns of budgets from an item of the treasury that is neither a grant nor a denial (L7). Pure."""

from __future__ import annotations

from typing import NamedTuple, assert_never

from msgspec.structs import replace

from worker.contract.leases import (
    BudgetClosed,
    BudgetPaused,
    BudgetResumed,
    LlmPriced,
    LlmsPaused,
    MoneyIsBack,
    PeriodOpened,
    Recalled,
    Standings,
)
from worker.contract.purse_rows import LaneBudget
from worker.core.purse_state import AccountKey, PurseState

News = (
    PeriodOpened
    | BudgetClosed
    | Recalled
    | MoneyIsBack
    | BudgetPaused
    | BudgetResumed
    | LlmsPaused
    | LlmPriced
    | Standings
)


class Learned(NamedTuple):
    """The account that the lane may have to give back, and whether the treasury waits for an answer."""

    loose: AccountKey | None = None
    must_answer: bool = False


def learn(state: PurseState, item: News) -> Learned:
    """Change what the lane believes of budgets and LLMs."""
    match item:
        case PeriodOpened():
            return _opened(state, item)
        case Recalled(budget, number) | BudgetPaused(budget, number):
            state.put_row(replace(state.row, heard=number))
            changed = {"is_scarce": True} if isinstance(item, Recalled) else {"is_paused": True}
            return Learned(_changed(state, budget, **changed), must_answer=True)
        case MoneyIsBack(budget):
            return Learned(_changed(state, budget, dry=None))
        case BudgetResumed(budget):
            return Learned(_changed(state, budget, is_paused=False, dry=None))
        case BudgetClosed(budget):
            return Learned(_changed(state, budget, period=None))
        case LlmsPaused(llms):
            state.put_row(replace(state.row, paused_llms=llms))
        case LlmPriced(llm, price_list):
            state.put_row(replace(state.row, prices={**state.row.prices, llm: price_list}))
        case Standings():
            _stands(state, item)
        case _:
            assert_never(item)
    return Learned()


def _opened(state: PurseState, item: PeriodOpened) -> Learned:
    old = state.budgets.get(item.budget)
    loose = _open_account(state, item.budget)
    if item.definition is not None:
        state.put_budget(item.budget, LaneBudget(item.definition, item.period))
    else:
        assert old is not None, "a budget comes with its definition before any of its later periods"
        state.put_budget(item.budget, LaneBudget(old.definition, item.period, is_paused=old.is_paused))
    return Learned(loose)


def _stands(state: PurseState, item: Standings) -> None:
    for one in item.budgets:
        state.put_budget(one.budget, LaneBudget(one.definition, one.period, one.is_scarce, one.is_paused))
    state.put_row(replace(state.row, is_ready=True, heard=item.heard, paused_llms=item.paused_llms, prices=item.prices))


def _changed(state: PurseState, number: int, **changes: object) -> AccountKey | None:
    """Change one budget; returns its open account, as it was before."""
    loose = _open_account(state, number)
    state.put_budget(number, replace(state.budgets[number], **changes))
    return loose


def _open_account(state: PurseState, number: int) -> AccountKey | None:
    period = state.open_period(number)
    return None if period is None else (number, period)
