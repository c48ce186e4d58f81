"""What becomes of a query when its provider has a bad day: from the HTTP response through the router to the books.

A query is worth most at `asked`, which misbehaves; then come `next`, and `spacious`, which has more context. Both are
well. The table says which LLMs are asked in turn, what the first call is booked as, and whether `asked` stays in use.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from tests.lane_of_calls import LaneOfCalls, past
from tests.provider import Provider, providing
from worker.contract.codes import ErrorClass
from worker.contract.settings import LlmSettings, RoutingSettings, Settings
from worker.estimation import index
from worker.estimation.estimator import Estimator
from worker.inference.answerers import LlmAnswerer
from worker.kafka.clock import SYSTEM_CLOCK

# Real waits of real calls.
pytestmark = pytest.mark.long

SLOW_SECONDS = 12.0
# Of the cases that are cut, and of all others: long, so that a busy machine changes no outcome.
CUT_SECONDS, LONG_SECONDS = 4.0, 120.0
CUT = ("33", "34", "35", "67")
QUESTION = {"role": "user", "content": "What is two and two, and why is it so? " * 10}
QUALITY = {"asked": 0.9, "next": 0.7, "spacious": 0.5}
GOOD = 486
# More than a call that tells nothing can cost here, so that books at the reservation are never below the bill.
USUAL_MICROS = 2_000.0

Booked = int | Literal["reserved"]
Fate = Literal["stays", "counts", "out"]
STAY, NEXT, MORE = ["asked"], ["asked", "next"], ["asked", "spacious"]
# Deferred: `filtered`.
FILTERED = ["asked", None]


class Case(NamedTuple):
    """A behaviour of the provider. `failed` is the class that the lane hears of the first dispatch, None: an answer.

    `path` are the LLMs that are asked, None for a deferral. `booked` is what the first dispatch costs in micro-dollars.
    """

    id: str
    failed: ErrorClass | None
    path: list[str | None] | list[str]
    booked: Booked
    fate: Fate = "stays"


CASES = [
    Case("01", None, STAY, GOOD),
    # Refused free of charge, and repeated inside the dispatch: the lane hears of the answer only.
    *(Case(id_, None, STAY, GOOD) for id_ in ("02", "03", "04", "05", "06", "10", "11", "12", "19", "63")),
    Case("07", "rate_limited", NEXT, 0, "out"),
    Case("08", "quota", NEXT, 0, "out"),
    Case("09", "refused_request", NEXT, 0),
    Case("13", "overloaded", NEXT, 0, "out"),
    Case("14", "overloaded", NEXT, "reserved", "counts"),
    Case("15", "timeout", NEXT, "reserved", "counts"),
    Case("16", "overloaded", NEXT, "reserved", "counts"),
    Case("17", "quota", NEXT, 0, "out"),
    Case("18", "quota", NEXT, 0, "out"),
    Case("20", "bad_answer", NEXT, 141, "counts"),
    Case("21", "bad_answer", NEXT, 111, "counts"),
    Case("22", "bad_answer", NEXT, "reserved", "counts"),
    Case("23", "bad_answer", NEXT, 3_036),
    Case("24", None, STAY, 171),
    Case("25", "content_filter", FILTERED, 246),
    Case("26", "content_filter", FILTERED, "reserved"),
    Case("27", None, STAY, 306),
    Case("28", None, STAY, 51),
    Case("29", "bad_answer", NEXT, "reserved", "counts"),
    Case("30", "unreachable", NEXT, "reserved", "counts"),
    Case("31", "unreachable", NEXT, "reserved", "counts"),
    Case("33", "timeout", NEXT, "reserved", "counts"),
    Case("34", "timeout", NEXT, "reserved", "counts"),
    Case("35", "timeout", NEXT, "reserved", "counts"),
    *(Case(id_, None, STAY, GOOD) for id_ in ("36", "37", "38", "40", "41", "42")),
    Case("39", "misconfigured", NEXT, "reserved", "out"),
    # Nothing tells what these cost.
    *(Case(id_, None, STAY, "reserved") for id_ in ("43", "45", "46", "50")),
    Case("44", "bad_answer", NEXT, 61_476),
    *(Case(id_, None, STAY, GOOD) for id_ in ("47", "48", "49")),
    Case("51", None, STAY, 1_386),
    Case("52", None, STAY, 462),
    *(Case(id_, "context_length", MORE, 0) for id_ in ("53", "54", "55", "56", "57", "58")),
    Case("59", "refused_request", NEXT, 0),
    Case("60", "refused_request", NEXT, 0),
    Case("61", "misconfigured", NEXT, 0, "out"),
    Case("64", "misconfigured", NEXT, 0, "out"),
    Case("65", "misconfigured", NEXT, 0, "out"),
    Case("66", "timeout", NEXT, "reserved", "counts"),
    Case("67", "timeout", NEXT, "reserved", "counts"),
]
UNTOLD = [case.id for case in CASES if case.booked == "reserved"]
IDS = [case.id for case in CASES]


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Estimator:
    """The index of the three LLMs."""
    place: Path = tmp_path_factory.mktemp("index") / "index"
    index.build(past(QUALITY, USUAL_MICROS), place, "supplied")
    return index.load(place)


def settings_of(provider: Provider, behaviour: str, routing: dict[str, Any], **asked: Any) -> Settings:
    """Three LLMs of one provider, of which `asked` behaves so."""
    common = {"budget_usd": 10, "base_url": provider.base_url, "input_usd_per_mtok": 3, "output_usd_per_mtok": 15}
    asked = {"model": behaviour, "timeout_seconds": CUT_SECONDS if behaviour in CUT else LONG_SECONDS, **asked}
    own: dict[str, dict[str, Any]] = {
        "asked": {"context_tokens": 1_000, "api_key": "k-secret", **asked},
        "next": {"context_tokens": 1_000, "model": "good", "timeout_seconds": LONG_SECONDS},
        "spacious": {"context_tokens": 100_000, "model": "good", "timeout_seconds": LONG_SECONDS},
    }
    llms = {name: LlmSettings.model_validate(common | fields) for name, fields in own.items()}
    return Settings(llms=llms, routing=RoutingSettings.model_validate({"max_attempts": 3, **routing}))


class Day(NamedTuple):
    """The lane after the calls, and what the provider billed in all."""

    lane: LaneOfCalls
    billed: int


async def live(
    estimator: Estimator, provider: Provider, behaviour: str, queries: int = 1, silence: bool = False, **more: Any
) -> Day:
    """Queries that come one after the other, each with all that follows. With `silence`, an LLM may not answer."""
    routing = more.pop("routing", {})
    settings = settings_of(provider, behaviour, routing, **more)
    async with LlmAnswerer(settings, dict(settings.llms)) as answerer:
        lane = LaneOfCalls(settings, estimator, answerer)
        users = [f"{behaviour}-{number}-{len(provider.billed)}" for number in range(queries)]
        for user in users:
            lane.ask({"messages": [QUESTION], "user": user})
            await lane.call_all()
            if silence:
                await lane.call_all_after_silence()
    return Day(lane, sum(provider.billed[user] for user in users))


def alone(estimator: Estimator, behaviour: str, **more: Any) -> Day:
    """One behaviour, with a provider of its own."""

    async def run() -> Day:
        async with providing(SLOW_SECONDS) as provider:
            return await live(estimator, provider, behaviour, **more)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def days(estimator: Estimator) -> dict[str, Day]:
    """Every behaviour, all at once: they mostly wait."""

    async def run() -> list[Day]:
        async with providing(SLOW_SECONDS) as provider:
            return await asyncio.gather(*(live(estimator, provider, case.id) for case in CASES))

    return dict(zip(IDS, asyncio.run(run()), strict=True))


def fate_of(lane: LaneOfCalls) -> Fate:
    """What the lane thinks of `asked`."""
    breaker = lane.view.breakers.get("asked")
    if breaker is None:
        return "stays"
    return "out" if breaker.until_ms else "counts"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_who_is_asked(days: dict[str, Day], case: Case) -> None:
    """The LLMs in turn, the class of the first end, and one answer unless the query is deferred."""
    lane = days[case.id].lane
    assert lane.path() == case.path
    first = lane.closed()[0]
    assert first.error_class == case.failed, first.error
    assert lane.answers() == (0 if case.path[-1] is None else 1)
    assert not lane.view.open


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_what_is_booked(days: dict[str, Day], case: Case) -> None:
    """The first dispatch, and all: equal to the bill where it was told, and never below it. `verify` agrees."""
    lane, billed = days[case.id]
    first, *others = lane.closed()
    assert first.spent_micros == (first.reserved_micros if case.booked == "reserved" else case.booked)
    assert [one.spent_micros for one in others] == [GOOD for llm in case.path[1:] if llm is not None]
    proof = lane.proof()
    assert proof.findings == []
    spent = sum(account.spent for account in proof.books.accounts.values())
    assert spent == sum(one.spent_micros for one in lane.closed())
    assert spent >= billed
    assert spent == billed or case.id in UNTOLD


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_whether_the_llm_stays(days: dict[str, Day], case: Case) -> None:
    """An LLM that the next query would meet in the same state is taken out; others fail once, or not at all."""
    assert fate_of(days[case.id].lane) == case.fate


def test_the_table_has_every_behaviour() -> None:
    """01 to 67; two have tests of their own."""
    assert sorted({*IDS, "32", "62"}) == [f"{number:02}" for number in range(1, 68)]


def test_a_kept_connection_dies(estimator: Estimator) -> None:
    """32: the second query goes on to the next LLM, its first call is booked as reserved, and `asked` stays."""
    lane, billed = alone(estimator, "32", queries=2)
    assert lane.path() == ["asked", "asked", "next"]
    broke = next(one for one in lane.closed() if one.failed)
    assert (broke.error_class, broke.spent_micros) == ("unreachable", broke.reserved_micros)
    assert sum(one.spent_micros for one in lane.closed()) - broke.reserved_micros == billed
    assert (fate_of(lane), lane.answers(), lane.proof().findings) == ("stays", 2, [])


def test_a_refused_key(estimator: Estimator) -> None:
    """62: no completion. The LLM is out at once, and the query goes to the next LLM when its time is over; its money is
    held until the reservation expires."""
    lane, billed = alone(estimator, "62", silence=True, routing={"unanswered_seconds": 1})
    assert lane.path() == NEXT
    assert [(one.llm, one.spent_micros) for one in lane.closed()] == [("next", GOOD)]
    assert [one.llm for one in lane.view.open.values()] == ["asked"]
    breaker = lane.view.breakers["asked"]
    assert (breaker.error_class, breaker.until_ms > 0) == ("auth", True)
    assert (billed, lane.answers(), lane.proof().findings) == (GOOD, 1, [])


def test_an_idempotency_key(estimator: Estimator) -> None:
    """67: where the provider honours it, a call that was cut is repeated in its dispatch, and booked once."""
    lane, billed = alone(estimator, "67", honours_idempotency_key=True)
    assert (lane.path(), lane.closed()[0].spent_micros, billed) == (STAY, GOOD, GOOD)


def test_a_filtered_request_may_go_on(estimator: Estimator) -> None:
    """25: with `routing.after_content_filter = "next_llm"`."""
    lane, billed = alone(estimator, "25", routing={"after_content_filter": "next_llm"})
    assert (lane.path(), lane.answers()) == (NEXT, 1)
    assert sum(one.spent_micros for one in lane.closed()) == billed == 246 + GOOD


def test_a_provider_that_goes_on_failing_is_taken_out(estimator: Estimator) -> None:
    """29: an answer that breaks off counts; after a few the LLM is out, and the next query does not wait for it."""
    lane, _ = alone(estimator, "29", queries=6)
    assert lane.path() == [*["asked", "next"] * 5, "next"]
    assert fate_of(lane) == "out"


def test_deadlines_that_leave_no_time_for_a_call(estimator: Estimator) -> None:
    """Nobody is called, nothing is paid, and no LLM is taken out, however many such queries come."""

    async def run() -> Day:
        async with providing(SLOW_SECONDS) as provider:
            settings = settings_of(provider, "good", {})
            async with LlmAnswerer(settings, dict(settings.llms)) as answerer:
                lane = LaneOfCalls(settings, estimator, answerer)
                for number in range(6):
                    deadline_ms = SYSTEM_CLOCK.now_ms() + int(LONG_SECONDS * 900)
                    lane.ask({"messages": [QUESTION], "user": str(number)}, deadline_ms=deadline_ms)
                    await lane.call_all()
                return Day(lane, len(provider.asked))

    lane, calls = asyncio.run(run())
    assert lane.path() == ["asked", "next", "spacious", None] * 6
    assert {(one.error_class, one.spent_micros, one.remarks) for one in lane.closed()} == {
        ("timeout", 0, ("deadline",))
    }
    assert (calls, lane.view.breakers, lane.proof().findings) == (0, {}, [])


def test_nobody_with_more_context(estimator: Estimator) -> None:
    """53: where no LLM has more context, the query is deferred, and costs nothing."""
    lane, billed = alone(estimator, "53", context_tokens=200_000)
    assert (lane.path(), lane.answers(), billed) == (["asked", None], 0, 0)
    assert lane.proof().findings == []
