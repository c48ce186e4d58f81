"""What comes into the world of the treasury from outside: settings, queries, control records."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from random import Random
from typing import get_args

from tests.simulation.treasury_lane import Arrival
from worker.contract import codec
from worker.contract.budgets import BudgetDefinition
from worker.contract.codes import Resource
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
from worker.contract.token_costs import PriceList

START_MS = 1_800_000_000_000
LLMS = ("large", "small")
TAGS: tuple[dict[str, str], ...] = ({}, {"team": "search"}, {"team": "ads"})
# Of the settings file, and such as people add.
FILED, ADDED = ("company", "team", "minute"), ("trial", "extra")


# The amounts of a world: some queries' worth, enough for some blocks, or all of it.
SMALL, MEDIUM, MIXED = range(14), range(20, 100, 4), (0, 1, 5, 9, 30, 60, 200, 400)


def definition(random: Random, name: str, amounts: Sequence[int]) -> BudgetDefinition:
    """A budget of any kind."""
    resources: tuple[Resource, ...] = get_args(Resource)
    return BudgetDefinition(
        name=name,
        resource=random.choices(resources, (6, 2, 1, 2))[0],
        amount=random.choice(amounts),
        every=random.choice(("total", "minute", "minute")),
        carry_over=random.random() < 0.5,
        llms=random.choice(((), (), ("large",), ("small",))),
        tags=random.choice(TAGS) if random.random() < 0.3 else {},
    )


def definitions(random: Random, amounts: Sequence[int]) -> tuple[BudgetDefinition, ...]:
    """The budgets of a settings file."""
    return tuple(definition(random, name, amounts) for name in FILED[: random.randrange(1, 4)])


def query(random: Random, query_id: str) -> Arrival:
    """A query of any size."""
    llms = random.choice((LLMS, LLMS, LLMS[:1], LLMS[1:], LLMS[::-1]))
    return Arrival(query_id, random.choice((1, 1, 2, 3, 8)), random.choice(TAGS), llms)


def control_bytes(random: Random, amounts: Sequence[int]) -> bytes:
    """A control record, or bytes that are none."""
    if random.random() < 0.1:
        return random.choice(
            (b"", b"{", b'{"kind": "set_budget", "amount": -1}', b'{"kind": "x"}', b"\x93\x01\x02\x03")
        )
    return codec.encode(_control(random, amounts))


def _control(random: Random, amounts: Sequence[int]) -> Control:
    who = {"by": "an operator", "why": "a test"}
    name, llm = random.choice((*FILED, *ADDED)), random.choice(LLMS)
    resources: tuple[Resource, ...] = get_args(Resource)
    price = PriceList(Decimal(random.randrange(1, 4)), Decimal(1))
    makers: dict[int, Control] = {
        0: SetBudget(name=name, resource=random.choice(resources), amount=random.choice(amounts), **who),
        1: SetBudget(name=name, resource="usd", amount=random.choice(amounts), **who),
        2: AddBudget(budget=definition(random, random.choice(ADDED), amounts), **who),
        3: RemoveBudget(name=name, **who),
        4: PauseBudget(name=name, **who),
        5: ResumeBudget(name=name, **who),
        6: PauseLlm(llm=llm, **who),
        7: ResumeLlm(llm=llm, **who),
        8: PriceLlm(llm=llm, price_list=price, **who),
    }
    [kind] = random.choices(list(makers), (1, 5, 3, 1, 2, 3, 1, 2, 2))
    return makers[kind]
