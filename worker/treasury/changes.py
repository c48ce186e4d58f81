"""What people change while queries flow, and what the settings file says when an owner begins. Pure.

The rule is T9 of docs/concepts/treasury.md. The newest control record wins until the file's value changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from msgspec.structs import replace

from worker.contract.budgets import BudgetDefinition
from worker.contract.codes import RejectCode, Rejection
from worker.contract.control import (
    AddBudget,
    Control,
    PauseBudget,
    PauseLlm,
    PriceLlm,
    RemoveBudget,
    ResumeBudget,
    ResumeLlm,
    SetBudget,
)
from worker.contract.leases import BudgetClosed, BudgetPaused, BudgetResumed, LlmPriced, LlmsPaused
from worker.treasury.books import Books
from worker.treasury.outbox import Outbox
from worker.treasury.periods import Periods

# More budgets than this are refused: each lane holds them all.
MOST_BUDGETS = 1_000


class Changes:
    """Applies control records and the settings file."""

    def __init__(self, books: Books, outbox: Outbox, periods: Periods) -> None:
        self._books = books
        self._outbox = outbox
        self._periods = periods

    def apply(self, record: Control) -> Rejection | None:
        """Apply one record, or say why it changes nothing."""
        match record:
            case AddBudget(budget=definition):
                return self._add(definition)
            case SetBudget() | RemoveBudget() | PauseBudget() | ResumeBudget():
                number = self._books.number_of(record.name)
                if number is None:
                    return _rejected("unknown_budget", record.name)
                return self._change(number, record)
            case PauseLlm() | ResumeLlm():
                self._pause_llm(record.llm, isinstance(record, PauseLlm))
            case PriceLlm(llm=llm, price_list=price_list):
                self._books.put_row(replace(self._books.row, prices={**self._books.row.prices, llm: price_list}))
                self._outbox.tell_all(self._books.lanes, LlmPriced(llm, price_list))
            case _:
                assert_never(record)
        return None

    def read_settings(self, definitions: Iterable[BudgetDefinition]) -> None:
        """What the file says now. A budget whose value in the file is as it was keeps what a record has set."""
        filed = {definition.name: definition for definition in definitions}
        known = {one.filed.name: number for number, one in self._books.open_budgets() if one.filed is not None}
        for name in [name for name in known if name not in filed]:
            self._remove(known[name])
        row = self._books.row
        # A removal stands as long as the file says what it said then.
        removed = {name: old for name, old in row.removed.items() if filed.get(name) == old}
        if removed != row.removed:
            self._books.put_row(replace(row, removed=removed))
        for definition in filed.values():
            if definition.name not in removed:
                self._file(definition, self._books.number_of(definition.name))

    def _file(self, definition: BudgetDefinition, number: int | None) -> None:
        if number is None:
            self._periods.add(definition, definition)
            return
        budget = self._books.budgets[number]
        if budget.filed == definition:
            return
        if not _is_same_budget(budget.definition, definition):
            self._remove(number)
            self._periods.add(definition, definition)
            return
        self._books.put_budget(number, replace(budget, filed=definition))
        self._set(number, definition)

    def _add(self, definition: BudgetDefinition) -> Rejection | None:
        if self._books.number_of(definition.name) is not None:
            return _rejected("budget_exists", definition.name)
        if sum(1 for _ in self._books.open_budgets()) >= MOST_BUDGETS:
            return Rejection("too_many_budgets", MOST_BUDGETS)
        self._periods.add(definition, None)
        return None

    def _change(self, number: int, record: SetBudget | RemoveBudget | PauseBudget | ResumeBudget) -> Rejection | None:
        books = self._books
        budget = books.budgets[number]
        match record:
            case SetBudget(resource=resource, amount=amount):
                if resource != budget.definition.resource:
                    return _rejected("another_resource", budget.definition.resource)
                self._set(number, replace(budget.definition, amount=amount))
            case RemoveBudget():
                if budget.filed is not None:
                    removed = {**books.row.removed, budget.filed.name: budget.filed}
                    books.put_row(replace(books.row, removed=removed))
                self._remove(number)
            case PauseBudget() if not budget.is_paused:
                recall = books.row.recall + 1
                books.put_row(replace(books.row, recall=recall))
                books.put_budget(number, replace(budget, is_paused=True))
                self._outbox.tell_all(books.lanes, BudgetPaused(number, recall))
            case ResumeBudget() if budget.is_paused:
                books.put_budget(number, replace(budget, is_paused=False, dry=None, told=()))
                self._outbox.tell_all(books.lanes, BudgetResumed(number))
            case _:
                # It is already so.
                pass
        return None

    def _set(self, number: int, definition: BudgetDefinition) -> None:
        """Another amount, in the open period and the next ones."""
        key = self._books.open_key(number)
        assert key is not None, f"budget {number} is open"
        self._books.put_budget(number, replace(self._books.budgets[number], definition=definition))
        self._books.set_amount(key, definition.amount)

    def _remove(self, number: int) -> None:
        self._outbox.tell_all(self._books.lanes, BudgetClosed(number))
        self._periods.remove(number)

    def _pause_llm(self, llm: str, paused: bool) -> None:
        books = self._books
        others = {one for one in books.row.paused_llms if one != llm}
        llms = tuple(sorted({*others, llm} if paused else others))
        if llms != books.row.paused_llms:
            books.put_row(replace(books.row, paused_llms=llms))
            self._outbox.tell_all(books.lanes, LlmsPaused(llms))


def _is_same_budget(old: BudgetDefinition, new: BudgetDefinition) -> bool:
    """Whether only what can change in an open period differs: the amount, and whether it is carried over."""
    return replace(old, amount=new.amount, carry_over=new.carry_over) == new


def _rejected(code: RejectCode, detail: str) -> Rejection:
    return Rejection(code, detail=detail[:100])
