"""Which budgets a query draws on, and how much a dispatch holds of each."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.drive import Drive, QueryChanges, completion, config, query
from worker.contract.accounts import Budget, Hold
from worker.contract.codes import Lack
from worker.contract.decisions import Closed, Routed
from worker.contract.token_costs import PriceList
from worker.contract.usage import Usage
from worker.core.draws import Draws
from worker.service.metrics import Metrics

COMPANY = Budget("company", "usd", 10**9)
SEARCH = Budget("search", "usd", 10**9, tags={"team": "search"})
URGENT = Budget("urgent search", "requests", 100, tags={"team": "search", "urgent": "yes"})
TOKENS = Budget("tokens", "tokens", 10**6, ("large", "medium"))
GPU = Budget("gpu", "open", 2, ("small",))
OTHERS = (COMPANY, SEARCH, URGENT, TOKENS, GPU)
PRICES = PriceList(Decimal(2), Decimal(10))
SETTINGS = config(budget_micros={}, budgets=OTHERS, price_lists={"large": PRICES, "medium": PRICES})

# Tags of a query -> the names of the budgets that it draws on for each LLM.
MATCHING = [
    ({}, ["company tokens", "company tokens", "company gpu"]),
    ({"team": "ads"}, ["company tokens", "company tokens", "company gpu"]),
    ({"team": "search"}, ["company search tokens", "company search tokens", "company search gpu"]),
    ({"urgent": "yes"}, ["company tokens", "company tokens", "company gpu"]),
    (
        {"urgent": "yes", "team": "search", "x": "y"},
        [f"company search urgent search {last}" for last in ("tokens", "tokens", "gpu")],
    ),
]


@pytest.mark.parametrize(("tags", "names"), MATCHING)
def test_a_query_draws_on_the_budgets_that_match_it(tags: dict[str, str], names: list[str]) -> None:
    """A budget matches if it is over the LLM, and if the query carries all its tags."""
    draws = Draws(SETTINGS)
    found = [[draws.budgets[number].name for number in numbers] for numbers in draws.matching(draws.cell(tags))]
    assert [" ".join(each) for each in found] == names


# Cost in micro-dollars and input tokens -> the tokens that a dispatch with a margin of 1.2 holds.
HELD = [
    ("input and output", 2_000.0, 500, 720),
    ("the cost is that of the input", 1_000.0, 500, 600),
    ("the cost is below that of the input", 10.0, 500, 600),
    ("the input is not known", 2_000.0, 0, 1_200),
    ("nothing", 0.0, 0, 1),
]


@pytest.mark.parametrize(("cost", "tokens", "held"), [case[1:] for case in HELD], ids=[case[0] for case in HELD])
def test_tokens_are_the_input_and_what_the_rest_of_the_cost_pays(cost: float, tokens: int, held: int) -> None:
    """At 2 micro-dollars for an input token and 10 for an output token, with the margin, rounded up. Unknown input is
    as much as the cost can pay."""
    found = Draws(SETTINGS).held({}, 0, cost, tokens)
    assert found.tokens == held
    assert found.holds[-1] == Hold("tokens", held)


UNKNOWN = [({"team": "search"}, []), ({"team": "sales"}, ["team"]), ({"x": "y", "urgent": "yes"}, ["x"]), ({}, [])]


@pytest.mark.parametrize(("tags", "names"), UNKNOWN)
def test_a_tag_that_no_budget_asks_for_is_named(tags: dict[str, str], names: list[str]) -> None:
    """Also if only its value is another. Where no budget has tags, tags are for reports, and none is unknown."""
    assert Draws(SETTINGS).unknown(tags) == names
    assert Draws(config()).unknown(tags) == []


def test_unknown_tags_are_counted_and_names_are_limited() -> None:
    """Each query counts once under the name of its tag. Names come from outside: after fifty they share one."""
    drive, metrics = Drive(SETTINGS), Metrics()
    batch = [query(number, tags={f"tag-{number // 2}": "x"}) for number in range(120)]
    metrics.committed(drive.commit(batch), len(batch), 0.1)
    page = metrics.exposition().decode()
    assert 'tollgate_unknown_tags_total{name="tag-0"} 2.0' in page
    assert 'tollgate_unknown_tags_total{name="(others)"} 20.0' in page


def test_a_budget_that_is_short_passes_the_query_on() -> None:
    """The best LLM is passed over for the budget that has too little, which is named, and the next takes the query."""
    full = Budget("gpu", "open", 0, ("large",))
    drive = Drive(config(budgets=(COMPANY, SEARCH, full), budget_micros={}))
    drive.run([query(0, quality=[0.9, 0.8, 0.1], tags={"team": "search"})])
    [routed] = drive.decided(Routed)
    assert (routed.llm, routed.skipped) == ("medium", ("large",))
    assert routed.lacking == ((Lack("gpu", "open", 1),),)
    budgets = drive.router.view.budgets
    assert budgets["company"].reserved == budgets["search"].reserved == routed.reserved_micros


def test_open_dispatches_limit_until_they_are_answered() -> None:
    """Two are open, the third query is deferred. An answer gives one back, and the fourth is dispatched."""
    gpu = Budget("gpu", "open", 2)
    drive = Drive(config(budgets=(COMPANY, gpu), budget_micros={}))
    best: QueryChanges = {"quality": [0.9, 0.0, 0.0]}
    drive.run([query(number, **best) for number in range(3)])
    first = drive.dispatches[0]
    drive.run([completion(0, first.id, first.llm), query(3, **best)])
    assert [routed.llm for routed in drive.decided(Routed)] == ["large", "large", None, "large"]
    assert drive.router.view.budgets["gpu"].reserved == 2


def test_tokens_of_an_answer_are_those_of_its_usage() -> None:
    """Input and output, whatever the answer cost; without a usage as reserved."""
    many = Budget("tokens", "tokens", 10**6)
    lists = dict.fromkeys(("large", "medium", "small"), PRICES)
    drive = Drive(config(budgets=(COMPANY, many), budget_micros={}, price_lists=lists))
    drive.run([query(0, input_tokens=40), query(1, input_tokens=40)])
    first, second = drive.dispatches
    drive.run([completion(0, first.id, first.llm, usage=Usage(31, 9)), completion(1, second.id, second.llm)])
    tokens = [closed.spent_tokens for closed in drive.decided(Closed)]
    assert tokens == [40, drive.decided(Routed)[1].reserved_tokens]
    assert drive.router.view.budgets["tokens"].spent == sum(tokens)
