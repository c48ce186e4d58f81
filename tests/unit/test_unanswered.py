"""A dispatch that nobody answers: the query goes on, the money stays held, and in the end the reservation expires."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.drive import CRASH, Drive, Input, completion, config, failure, query, tick
from tests.topics import Recorded
from tests.unit.test_replay import ledger_of, replayed
from tests.unit.test_verify import prove
from tests.unit.test_what_if import play
from worker.audit.what_if import Change
from worker.contract.decisions import ChargedAgain, Closed, Routed
from worker.core.events import Unanswered

UNANSWERED_MS = (2_000, 2_000, 2_000)
SETTINGS = config(unanswered_ms=UNANSWERED_MS, checkpoint_every=2)
# The best LLM is large, the next medium, then small.
COSTS = [10.0, 10.0, 10.0]
FIRST = query(0, at_ms=0, quality=[0.9, 0.8, 0.7], cost_micros=COSTS)


def silent(attempt: int = 1, at_ms: int = 2_000, *, in_topic: bool = True) -> Unanswered:
    """Nobody has answered this attempt of the first query."""
    again = query(0, at_ms=at_ms, quality=[0.9, 0.8, 0.7], cost_micros=COSTS, deadline_ms=FIRST.deadline_ms)
    return Unanswered(at_ms, 0, attempt, again if in_topic else None)


def routes(drive: Drive) -> list[tuple[int, str | None, str]]:
    """The attempts: number, LLM and reason."""
    return [(one.attempt, one.llm, one.reason) for one in drive.decided(Routed)]


def test_the_query_goes_to_the_next_llm_and_the_money_stays_held() -> None:
    """Not to the LLM that is silent. Both reservations are open, and the record names who was tried."""
    drive = Drive(SETTINGS).run([FIRST, silent()])
    accounts = drive.router.view.budgets
    assert routes(drive) == [(1, "large", "best_score"), (2, "medium", "best_score")]
    assert drive.decided(Routed)[-1].tried == ("large",)
    assert min(accounts["large"].reserved, accounts["medium"].reserved) > 0
    assert [one.is_unanswered for one in drive.router.view.open.values()] == [True, False]


NO_OTHER: list[tuple[str, Sequence[Input]]] = [
    ("every attempt is made", [FIRST, silent(), silent(2, 4_000)]),
    ("the query has left its topic", [FIRST, silent(in_topic=False)]),
    ("no other LLM is worth it", [query(0, at_ms=0, quality=[0.9, 0.0, 0.0]), silent(at_ms=2_000)]),
    ("the deadline has passed", [query(0, at_ms=0, deadline_ms=1_500), silent(at_ms=1_500)]),
]


@pytest.mark.parametrize("events", [case[1] for case in NO_OTHER], ids=[case[0] for case in NO_OTHER])
def test_where_no_other_llm_can_be_asked_the_query_is_deferred(events: Sequence[Input]) -> None:
    """With the reason `unanswered`. The reservation stays open."""
    *before, last = events
    if isinstance(last, Unanswered) and last.retry is not None:
        first = events[0]
        again = query(0, at_ms=last.at_ms, quality=[0.9, 0.0, 0.0], deadline_ms=getattr(first, "deadline_ms", None))
        last = Unanswered(last.at_ms, 0, last.attempt, again)
    drive = Drive(SETTINGS).run([*before, last])
    assert [deferred.reason for deferred in drive.deferred] == ["unanswered"]
    assert drive.deferred[0].remedy.code == "send_again"
    assert len(drive.router.view.open) == len(drive.dispatches)


WAITS = [
    ("as the settings say", None, 2_000, 2_000),
    ("half of what is left to the deadline", 3_000, 2_000, 1_500),
    ("no longer than the money is held", None, 50_000, 10_000),
]


@pytest.mark.parametrize(
    ("deadline_ms", "unanswered_ms", "expected"), [case[1:] for case in WAITS], ids=[case[0] for case in WAITS]
)
def test_when_a_dispatch_is_unanswered(deadline_ms: int | None, unanswered_ms: int, expected: int) -> None:
    """So that another LLM can still answer in time."""
    drive = Drive(config(unanswered_ms=(unanswered_ms,) * 3)).run([query(0, at_ms=0, deadline_ms=deadline_ms)])
    [open_] = drive.router.view.open.values()
    assert open_.unanswered_at_ms == expected
    assert drive.router.view.next_due_ms == expected
    assert drive.router.view.unanswered(expected - 1, 10) == []
    assert drive.router.view.unanswered(expected, 10) == [open_]


IGNORED: list[tuple[str, Sequence[Input]]] = [
    ("before its time", [FIRST, silent(at_ms=1_999)]),
    ("twice", [FIRST, silent(), silent()]),
    ("after its answer", [FIRST, completion(0, "0-0-1", "large", at_ms=1_000), silent()]),
    ("of a dispatch that was never made", [FIRST, Unanswered(2_000, 7, 1, None)]),
]


@pytest.mark.parametrize("events", [case[1] for case in IGNORED], ids=[case[0] for case in IGNORED])
def test_a_look_that_came_too_early_or_too_late_changes_nothing(events: Sequence[Input]) -> None:
    """The lane decides by what the router knows, not by what a thread has seen a moment ago."""
    before, after = Drive(SETTINGS).run(events[:-1]), Drive(SETTINGS).run(events)
    assert [routes(after), after.decided(Closed)] == [routes(before), before.decided(Closed)]
    assert after.router.view.open == before.router.view.open


SECOND: list[tuple[str, Sequence[Input], list[tuple[str, tuple[str, ...]]]]] = [
    (
        "the second dispatch answers first",
        [completion(0, "0-0-2", "medium", at_ms=2_100), completion(1, "0-0-1", "large", at_ms=2_200)],
        [("0-0-2", ()), ("0-0-1", ("second_answer",))],
    ),
    (
        "the first dispatch answers after all",
        [completion(0, "0-0-1", "large", at_ms=2_100), completion(1, "0-0-2", "medium", at_ms=2_200)],
        [("0-0-1", ()), ("0-0-2", ("second_answer",))],
    ),
    (
        "an error is no answer",
        [failure(0, "0-0-1", "large", at_ms=2_100), completion(1, "0-0-2", "medium", at_ms=2_200)],
        [("0-0-1", ()), ("0-0-2", ())],
    ),
]


@pytest.mark.parametrize(("events", "expected"), [case[1:] for case in SECOND], ids=[case[0] for case in SECOND])
def test_one_answer_is_the_answer(events: Sequence[Input], expected: list[tuple[str, tuple[str, ...]]]) -> None:
    """The first. The second costs money and is remarked, and no error after an answer brings another attempt."""
    drive = Drive(SETTINGS).run([FIRST, silent(), *events])
    closed = drive.decided(Closed)
    assert [(one.dispatch_id, one.remarks) for one in closed] == expected
    assert len(drive.dispatches) == 2
    assert drive.deferred == []


def test_an_error_of_a_dispatch_that_was_left_brings_no_attempt() -> None:
    """The query waits for the second dispatch; its error brings the third."""
    settings = config(unanswered_ms=UNANSWERED_MS, max_attempts=3)
    again = query(0, at_ms=2_500, quality=[0.9, 0.8, 0.7], cost_micros=COSTS)
    drive = Drive(settings).run([FIRST, silent()])
    drive.run([failure(0, "0-0-1", "large", at_ms=2_400, retry=again)])
    left = len(drive.dispatches)
    drive.run([failure(1, "0-0-2", "medium", at_ms=2_500, retry=again)])
    assert (left, [dispatch.llm for dispatch in drive.dispatches]) == (2, ["large", "medium", "small"])


BEGUN = [("its call had begun", ["0-0-1"], "unanswered"), ("no call had begun", [], "none")]


@pytest.mark.parametrize(("begun", "basis"), [case[1:] for case in BEGUN], ids=[case[0] for case in BEGUN])
def test_a_reservation_expires_as_reserved_if_its_call_had_begun(begun: list[str], basis: str) -> None:
    """And for nothing otherwise. A later answer replaces what was booked by the true cost."""
    drive = Drive(SETTINGS).run([query(0, at_ms=0, cost_micros=[600, 900, 900], quality=[0.9, 0.0, 0.0])])
    drive.run([tick(10_000, begun)])
    [closed] = drive.decided(Closed)
    held = 720 if begun else 0
    assert (closed.outcome, closed.basis, closed.spent_micros) == ("expired", basis, held)
    assert drive.router.view.budgets["large"].spent == held
    drive.run([CRASH, completion(0, "0-0-1", "large", at_ms=10_100)])
    [late] = drive.decided(ChargedAgain)
    account = drive.router.view.budgets["large"]
    assert (late.reason, late.spent_micros, late.replaced_micros) == ("late", 100, held)
    assert (account.spent, account.late) == (100, 100)


def story() -> list[Input]:
    """Twenty queries: nobody answers the first attempts of half, and calls of some had begun. Answers come to both
    attempts, in both orders, or to none, also after the expiry."""
    events: list[Input] = [query(offset, at_ms=offset) for offset in range(20)]
    made = Drive(SETTINGS).run(events).dispatches
    again = {offset: query(offset, at_ms=2_100) for offset in range(20)}
    left = [dispatch for dispatch in made if dispatch.origin.offset % 2 == 0]
    events += [Unanswered(2_100, one.origin.offset, one.attempt, again[one.origin.offset]) for one in left]
    second = Drive(SETTINGS).run(events).dispatches[len(made) :]
    assert len(second) > 5
    answers = [one for one in made if one.origin.offset % 3] + second[::2] + made[:2]
    events += [
        completion(number, one.id, one.llm, at_ms=2_200 + number, ok=number % 4 != 3, retry=again[one.origin.offset])
        for number, one in enumerate(answers)
    ]
    events += [tick(60_000, [one.id for one in [*made, *second][::2]])]
    return [*events, *(completion(100 + n, one.id, one.llm, at_ms=60_001) for n, one in enumerate(second))]


def test_neither_crashes_nor_batches_change_what_is_decided() -> None:
    """A crash at any cut, and all events in one batch."""
    events = story()
    whole = Drive(SETTINGS).run(events).outcome()
    for cut in range(len(events) + 1):
        assert Drive(SETTINGS).run([*events[:cut], CRASH, *events[cut:]]).outcome() == whole, f"cut at {cut}"
    assert Drive(SETTINGS).run([events]).outcome() == whole  # type: ignore[list-item]


def test_it_is_verified_and_replayed() -> None:
    """Also from a checkpoint in the middle, and by a lane that crashed."""
    drive = Recorded(SETTINGS).run(item for event in story() for item in (event, CRASH))
    records = drive.topics()["decisions"]
    assert prove(drive.topics()).findings == []
    for start in (0, len(records) // 2):
        found = replayed(records[start:], ledger=ledger_of(drive.log))
        assert found.mismatch is None
        assert found.compared > 0
    assert prove(drive.topics()).books.counts["unanswered"] > 5


def test_what_if_nothing_were_changed_is_what_happened() -> None:
    """Also with two open dispatches of one query."""
    played = play(Drive(SETTINGS).run(story()), Change())
    assert played.other.deferred == played.real.deferred
    assert played.other.llms == played.real.llms
