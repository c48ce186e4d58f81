"""One budget over all partitions: the sums of its accounts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from worker.contract.accounts import Account, AccountKey
from worker.contract.codes import Resource
from worker.contract.messages import Configuration


class BudgetTotal(Struct, frozen=True):
    """One budget in one period over all partitions, in whole units of its resource (US dollars: micro-dollars).

    `late` and `paid_twice` are parts of `spent`. Always: spent + reserved <= amount + overrun.
    """

    budget: str
    period: int
    resource: Resource
    amount: int
    spent: int
    late: int
    paid_twice: int
    reserved: int
    overrun: int

    @property
    def left(self) -> int:
        """What may still be reserved, at least 0."""
        return max(0, self.amount - self.spent - self.reserved)


def totals(accounts: Iterable[Account], configs: Iterable[Configuration | None]) -> list[BudgetTotal]:
    """The sums of all accounts, in the order of the configured budgets; budgets of before come last."""
    by_key: dict[AccountKey, list[Account]] = {}
    for account in accounts:
        by_key.setdefault(account.key, []).append(account)
    named = dict.fromkeys(budget.name for config in configs if config is not None for budget in config.budgets)
    place = {name: number for number, name in enumerate(named)}
    keys = sorted(by_key, key=lambda key: (place.get(key[0], len(place)), key))
    return [_total(by_key[key]) for key in keys]


def _total(parts: Sequence[Account]) -> BudgetTotal:
    first = parts[0]
    return BudgetTotal(
        budget=first.budget,
        period=first.period,
        resource=first.resource,
        amount=sum(part.amount for part in parts),
        spent=sum(part.spent for part in parts),
        late=sum(part.late for part in parts),
        paid_twice=sum(part.paid_twice for part in parts),
        reserved=sum(part.reserved for part in parts),
        overrun=sum(part.overrun for part in parts),
    )
