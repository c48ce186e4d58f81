"""What must not be simplified in the protocol of the treasury: the shortest traces of what happens then.

Each trace is run against the product, where its claim holds. The simulator's planted bugs that it is about are run too:
there it must not hold.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.treasury_planted import BUGS
from tests.simulation.treasury_world import SOUND, Actors
from tests.unit.exchange import Exchange
from worker.contract.budgets import BudgetDefinition
from worker.contract.control import SetBudget
from worker.contract.leases import Granted
from worker.core.leasing import Parked, Refused, Reserved
from worker.core.ledger import BrokenInvariant

MINUTE_MS = 60_000


def budget(name: str, amount: int, **more: object) -> BudgetDefinition:
    """A budget of micro-dollars for ever, unless more is said."""
    return BudgetDefinition(name=name, resource="usd", amount=amount, **more)  # type: ignore[arg-type]


def amount_of(name: str, amount: int) -> SetBudget:
    """A control record that sets the amount of a budget."""
    return SetBudget(by="an operator", why="a test", name=name, resource="usd", amount=amount)


def one(amount: int) -> dict[str, dict[int, int]]:
    """A query that one LLM may answer, for so much of the first budget."""
    return {"large": {1: amount}}


BOTH = {"large": {1: 1, 2: 1}}


def two_budgets_never_change_hands(actors: Actors) -> None:
    """Two queries need both of two budgets that are enough for one: one is dispatched, and the system comes to rest."""
    play = Exchange(budget("a", 1), budget("b", 1), actors=actors)
    play.query(0, "x", BOTH)
    play.query(1, "y", BOTH)
    play.quiet()
    assert [type(play.lanes[0].outcomes["x"]), type(play.lanes[1].outcomes["y"])] == [Reserved, Refused]


def nobody_holds_a_part_and_waits(actors: Actors) -> None:
    """One lane has the last of one budget, one that of the other: a query that needs both still gets them."""
    play = Exchange(budget("a", 1), budget("b", 1), actors=actors)
    for lane, number in ((0, 1), (1, 2)):
        play.query(lane, "first", {"large": {number: 1}})
    play.quiet()
    for lane in (0, 1):
        play.close(lane, "first", {})
    play.query(0, "x", BOTH)
    play.query(1, "y", BOTH)
    play.quiet()
    assert {type(play.lanes[0].outcomes["x"]), type(play.lanes[1].outcomes["y"])} == {Reserved, Refused}


def dry_is_not_for_ever(actors: Actors) -> None:
    """A lane is told that a budget is dry; then another settles for less: the first lane hears of it, and gets it."""
    play = Exchange(budget("a", 1), actors=actors)
    play.query(0, "x", one(1))
    play.quiet()
    play.query(1, "y", one(1))
    play.quiet()
    assert isinstance(play.lanes[1].outcomes["y"], Refused)
    play.close(0, "x", {})
    play.quiet()
    play.query(1, "later", one(1))
    play.quiet()
    assert isinstance(play.lanes[1].outcomes["later"], Reserved)


def dry_has_a_size(actors: Actors) -> None:
    """A query of 2 is denied where 1 is left: a query of 1 is dispatched."""
    play = Exchange(budget("a", 2), actors=actors)
    play.query(0, "x", one(1))
    play.quiet()
    play.query(1, "large", one(2))
    play.quiet()
    play.query(1, "small", one(1))
    play.quiet()
    assert [type(play.lanes[1].outcomes[name]) for name in ("large", "small")] == [Refused, Reserved]


def an_old_return_stays_old(actors: Actors) -> None:
    """What comes back of a minute that is over cannot be spent in the next one."""
    play = Exchange(budget("a", 2, every="minute"), actors=actors)
    play.query(0, "x", one(2))
    play.quiet()
    play.close(0, "x", {})
    play.now_ms += MINUTE_MS
    play.query(1, "y", one(2))
    play.quiet()
    play.query(1, "z", one(1))
    play.quiet()
    assert [type(play.lanes[1].outcomes[name]) for name in ("y", "z")] == [Reserved, Refused]


def a_lowered_amount_is_recalled(actors: Actors) -> None:
    """An amount is lowered below what lanes hold, and nobody asks: their free money goes back."""
    play = Exchange(budget("a", 1_000), actors=actors)
    play.query(0, "x", one(1))
    play.quiet()
    assert play.free(0, 1) > 0
    play.control(amount_of("a", 0))
    play.quiet()
    assert (play.free(0, 1), play.left(1)) == (0, -1)


def an_overrun_is_drawn(actors: Actors) -> None:
    """A lane spends 2 of 1 reserved: the treasury's last unit pays for it, and nobody else gets it."""
    play = Exchange(budget("a", 2), actors=actors)
    play.query(0, "x", one(1))
    play.quiet()
    play.close(0, "x", {1: 2})
    play.quiet()
    play.query(1, "y", one(1))
    play.quiet()
    assert (play.left(1), type(play.lanes[1].outcomes["y"])) == (0, Refused)


def a_lane_without_an_owner_stops_nobody(actors: Actors) -> None:
    """A lane holds the rest and does not answer the recall: after a while the ask is answered without it."""
    play = Exchange(budget("a", 2), actors=actors)
    play.query(0, "x", one(1))
    play.quiet()
    play.close(0, "x", {})
    play.query(1, "y", one(2))
    play.quiet(1)
    assert isinstance(play.lanes[1].outcomes["y"], Parked)
    play.silence()
    play.quiet(1)
    assert isinstance(play.lanes[1].outcomes["y"], Refused)


def scarcity_outlives_who_was_told(actors: Actors) -> None:
    """Money comes back while a lane believes that a budget is dry, and another lane takes nearly all: once that is
    given back, the first lane hears of it."""
    play = Exchange(budget("a", 40), actors=actors)
    play.query(0, "x", one(10))
    play.quiet()
    play.query(1, "y", one(40))
    play.quiet()
    assert isinstance(play.lanes[1].outcomes["y"], Refused)
    play.control(amount_of("a", 1_000))
    play.query(0, "most", one(960))
    play.up(0)
    play.down(0)
    play.close(0, "most", {})
    play.quiet()
    play.query(1, "later", one(40))
    play.quiet()
    assert isinstance(play.lanes[1].outcomes["later"], Reserved)


def a_better_llm_is_tried_again(actors: Actors) -> None:
    """A query skips a better LLM as dry, and the next LLM is denied to it; meanwhile the better one has money again."""
    play = Exchange(budget("a", 1), budget("b", 1), actors=actors)
    play.query(0, "x", {"large": {1: 1}})
    play.query(0, "w", {"small": {2: 1}})
    play.quiet()
    play.query(1, "y", {"large": {1: 1}})
    play.quiet()
    play.query(1, "z", {"large": {1: 1}, "small": {2: 1}})
    play.close(0, "x", {})
    play.quiet(0)
    play.quiet()
    assert [llm for llm, *_ in [play.reserved(1, "z")]] == ["large"]


def a_query_asks_for_an_llm_once(actors: Actors) -> None:
    """Two LLMs cost more than their budgets have: a query is denied twice and deferred: it does not ask in a circle."""
    play = Exchange(budget("a", 1), budget("b", 1), actors=actors)
    play.query(1, "y", {"large": {1: 5}, "small": {2: 5}})
    assert play.quiet() < 20
    assert isinstance(play.lanes[1].outcomes["y"], Refused)


def scarcity_outlives_who_waits(actors: Actors) -> None:
    """An ask waits for a recall, and enough for blocks is left: the budget is not recalled once more meanwhile."""
    play = Exchange(budget("a", 1_000), actors=actors)
    play.query(0, "x", one(1))
    play.quiet()
    play.query(1, "y", one(999))
    play.up(1)
    recall = play.treasury.budgets[1].recall
    play.query(1, "z", one(1))
    play.up(1)
    assert (play.treasury.budgets[1].recall, play.treasury.budgets[1].is_scarce) == (recall, True)


def a_hopeless_need_is_not_remembered(actors: Actors) -> None:
    """A query needs more than the whole budget: others still get blocks."""
    play = Exchange(budget("a", 1_000), actors=actors)
    play.query(0, "x", one(1))
    play.quiet()
    play.query(1, "huge", one(5_000))
    play.up(1)
    play.query(1, "small", one(1))
    play.up(1)
    play.quiet()
    granted = [item for item in play.items if isinstance(item, Granted)][-1]
    assert granted.entries[0].amount > 1
    assert [play.treasury.budgets[1].is_scarce, play.treasury.budgets[1].dry] == [False, None]


def a_lower_late_cost_makes_no_money_in_an_old_period(actors: Actors) -> None:
    """An answer after the expiry costs less, in a period that has ended, and its lane has not heard of that yet."""
    play = Exchange(budget("a", 2, every="minute"), actors=actors)
    play.query(0, "x", one(2))
    play.quiet()
    play.close(0, "x", {1: 2})
    play.query(0, "w", one(3))
    play.quiet()
    play.now_ms += MINUTE_MS
    play.query(1, "y", one(1))
    play.quiet(1)
    play.correct(0, "x", {1: -2})
    play.query(0, "z", one(3))
    play.quiet()
    assert (play.free(0, 1), play.left(1)) == (0, 1)


HOLES: dict[Callable[[Actors], None], tuple[str, ...]] = {
    two_budgets_never_change_hands: ("ask for one of several budgets",),
    nobody_holds_a_part_and_waits: ("hold and wait", "deny without a recall"),
    dry_is_not_for_ever: ("never say that money is back", "recall once, not as a mode"),
    dry_has_a_size: (),
    an_old_return_stays_old: ("credit an old return to the new period",),
    a_lowered_amount_is_recalled: ("leave a lowered amount out",),
    an_overrun_is_drawn: ("owe an overrun",),
    a_lane_without_an_owner_stops_nobody: (),
    scarcity_outlives_who_was_told: ("give blocks while a lane is told dry",),
    a_better_llm_is_tried_again: ("try only later LLMs after a denial",),
    a_query_asks_for_an_llm_once: ("ask for a denied LLM again",),
    scarcity_outlives_who_waits: ("end scarcity while an ask waits",),
    a_hopeless_need_is_not_remembered: ("remember a hopeless need",),
    a_lower_late_cost_makes_no_money_in_an_old_period: ("free what a late answer costs less",),
}


@pytest.mark.parametrize("trace", HOLES, ids=lambda trace: trace.__name__)
def test_the_hole_is_closed(trace: Callable[[Actors], None]) -> None:
    """The claim of each trace holds."""
    trace(SOUND)


@pytest.mark.parametrize(
    ("trace", "bug"),
    [(trace, bug) for trace, bugs in HOLES.items() for bug in bugs],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_trace_shows_the_hole(trace: Callable[[Actors], None], bug: str) -> None:
    """With the bug planted, the claim does not hold, or the product stops."""
    with pytest.raises((AssertionError, BrokenInvariant)):
        trace(BUGS[bug])
