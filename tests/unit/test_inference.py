"""What an inference worker may commit, knows after a restart, and publishes."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from worker.contract import codec, examples
from worker.contract.answers import Begun
from worker.contract.messages import AccountRow, Completion, Dispatch, Offsets, Origin
from worker.contract.record import StoredRecord
from worker.contract.settings import LlmSettings, Settings
from worker.inference import outcomes, restore
from worker.inference.answerers import completion_of
from worker.inference.outcomes import Outcome
from worker.inference.positions import Positions
from worker.inference.published import Answered, Outgoing, completion_record, records_of, without_answer
from worker.kafka.memory import MemoryBroker

LLM = LlmSettings(
    budget_usd=Decimal(1), input_usd_per_mtok=Decimal(3), output_usd_per_mtok=Decimal(15), base_url="http://h/v1"
)
SETTINGS = Settings(llms={"a": LLM})
USAGE = {"prompt_tokens": 12, "completion_tokens": 30}
OK = Outcome(None, "known", usage=USAGE, model="m-1", answer=b'{"choices": []}')


def dispatch(offset: int = 7, attempt: int = 1, partition: int = 2) -> Dispatch:
    """A dispatch of a query without a body."""
    query = Raw(msgspec.msgpack.encode({"text": "x"}))
    name = f"{partition}-{offset}-{attempt}"
    return Dispatch(name, "q", "a", Origin(partition, offset), attempt, 99, 0.5, 80, 0.0, 10**13, query)


def taken(*headers: tuple[str, bytes | None]) -> StoredRecord:
    """The record of a dispatch."""
    return StoredRecord("dispatch.a", 2, 0, 0, b"2-7-1", b"...", headers)


def published(
    outcome: Outcome = OK, settings: Settings = SETTINGS, *headers: tuple[str, bytes | None]
) -> list[Outgoing]:
    """The records of a call that ended so; topics `replies` and `queries` exist."""
    answered = Answered(completion_of(dispatch(), outcome), outcome.answer, 1_234)
    return records_of(dispatch(), taken(*headers), answered, settings, {"replies", "queries"}, 5)


def said(record: Outgoing) -> Completion:
    """The completion of a record."""
    fields = codec.completion_fields(record.value, 10**6, 64)
    assert isinstance(fields, dict), f"{fields}"
    return msgspec.convert(fields, Completion)


def test_a_position_never_passes_an_open_dispatch() -> None:
    """Whatever is done above it, the position is that of the oldest dispatch that is not done."""
    positions, seen = Positions(), []
    for offset in (5, 6, 7):
        positions.take(offset)
    for offset in (6, 7, 5):
        positions.done(offset)
        seen.append(positions.position)
    assert seen == [5, 5, 8]


def test_no_position_before_the_first_record() -> None:
    """Nothing is committed for a partition that was not read."""
    assert Positions().position is None


def test_the_end_of_a_partition_is_a_position() -> None:
    """What lies between the last record and the end is no record; an open dispatch is still not passed."""
    empty, drained, busy = Positions(), Positions(), Positions()
    for positions in (drained, busy):
        positions.take(5)
    drained.done(5)
    for positions in (empty, drained, busy):
        positions.reached(7)
    assert (empty.position, drained.position, busy.position) == (7, 7, 5)


def ledger(open_ids: list[str], closed_ids: list[str], applied: int) -> list[StoredRecord]:
    """The rows of a lane."""
    row = examples.messages()["account-row"]
    assert isinstance(row, AccountRow)
    rows: list[tuple[str, bytes | None]] = [(f"reservation/{one}", b"x") for one in [*open_ids, *closed_ids]]
    rows += [(f"reservation/{one}", None) for one in closed_ids]
    rows += [("account", codec.encode(replace(row, offsets=Offsets(0, applied))))]
    return [StoredRecord("ledger", 2, n, 0, key.encode(), value, ()) for n, (key, value) in enumerate(rows)]


def completion(offset: int, dispatch_id: str) -> StoredRecord:
    """A completion at an offset."""
    value = json.dumps({"dispatch_id": dispatch_id, "unheard_of": 1}).encode()
    return StoredRecord("completions", 2, offset, 0, None, value, ())


def begun(offset: int, dispatch_id: str, value: bytes | None = b"", lost: bool = False) -> StoredRecord:
    """A row of a call that has begun; None for its end."""
    row = codec.encode(Begun(dispatch_id, "a", "w", 1, lost=lost)) if value is not None else None
    return StoredRecord("begun", 2, offset, 0, dispatch_id.encode(), row, ())


STATES = [
    ("never called", 0, "2-1-1", "open"),
    ("closed", 1, "2-2-1", "closed"),
    ("never heard of, as in a new group", 2, "2-9-1", "closed"),
    ("answered, not yet applied", 3, "2-3-1", "answered"),
    ("begun and not ended", 4, "2-4-1", "lost"),
    ("begun and left by its worker", 5, "2-5-1", "open"),
    ("dispatched after the restart", 9, "2-9-1", "open"),
]


@pytest.mark.parametrize(
    ("offset", "dispatch_id", "state"), [one[1:] for one in STATES], ids=[one[0] for one in STATES]
)
def test_after_a_restart(offset: int, dispatch_id: str, state: str) -> None:
    """The ledger, the completions after it and the begun calls say what is still to be called."""
    broker = MemoryBroker()
    broker.log.load([StoredRecord("dispatch.a", 2, number, 0, None, b"x", ()) for number in range(6)])
    broker.log.load(ledger(["2-1-1", "2-3-1", "2-4-1", "2-5-1"], ["2-2-1"], applied=0))
    broker.log.load([completion(0, "2-1-1"), completion(1, "2-3-1"), completion(2, "nonsense")])
    broker.log.load([begun(0, "2-4-1"), begun(1, "2-5-1"), begun(2, "2-5-1", None)])
    found = restore.restore(SETTINGS, broker.reader(), 2, ["dispatch.a"])
    assert found.state("dispatch.a", offset, dispatch_id) == state


@pytest.mark.parametrize("calls", [1, 3, restore.MOST_SUSPECTS, restore.MOST_SUSPECTS + 1])
def test_calls_that_died_together(calls: int) -> None:
    """Those that were open count: not one that ended, was answered, or was lost before. Of few, each is a suspect."""
    names = [f"2-{number}-1" for number in range(101, calls + 101)]
    broker = MemoryBroker()
    broker.log.load(ledger([*names, "2-7-1", "2-8-1"], ["2-9-1"], applied=-1))
    broker.log.load([completion(0, "2-7-1")])
    others = [begun(20, "2-7-1"), begun(21, "2-8-1", lost=True), begun(22, "2-9-1")]
    broker.log.load([*(begun(offset, name) for offset, name in enumerate(names)), *others])
    found = restore.restore(SETTINGS, broker.reader(), 2, ["dispatch.a"])
    row = found.lost_row(dispatch(), "w", 5)
    assert (found.suspects, row is not None) == (calls, calls <= restore.MOST_SUSPECTS)


def test_deaths_are_counted_by_query() -> None:
    """Calls that were lost with their worker count for all dispatches of their query, and for no other."""
    rows = [begun(n, f"2-1-{n}", lost=n != 2) for n in range(4)] + [begun(4, "2-11-1", lost=True)]
    broker = MemoryBroker()
    broker.log.load(rows)
    assert restore.deaths(restore.read_begun(SETTINGS, broker.reader(), 2), 2, 1) == 3


def test_an_answer_and_its_completion() -> None:
    """The answer is JSON with the response as it came, the query's headers, and the cost by the price list."""
    completed, answer = published(OK, SETTINGS, ("traceparent", b"t"), ("content-type", b"application/vnd.msgpack"))
    value = json.loads(answer.value or b"")
    assert said(completed) == Completion("2-7-1", 2, "a", "ok", usage=USAGE, cost="known", model="m-1")
    assert (answer.topic, answer.partition, answer.key) == ("answers", 2, "q")
    assert answer.headers == [("traceparent", b"t"), ("content-type", b"application/json")]
    assert value["response"] == {"choices": []}
    assert value["cost_micros"] == 486
    assert value["latency_ms"] == 1_234


def test_an_unknown_cost_is_told_as_unknown() -> None:
    """No figure is told where the cost is unknown."""
    _, answer = published(replace(OK, cost="unknown", usage=None))
    value = json.loads(answer.value or b"")
    assert value["cost"] == "unknown"
    assert value["cost_micros"] is None


def test_a_lower_bound_is_not_told_as_the_cost() -> None:
    """Usage with a detail that has no price costs more than its tokens: the lane books the reservation at least."""
    usage = {**USAGE, "server_tool_use": {"web_search_requests": 3}}
    _, answer = published(replace(OK, usage=usage))
    assert json.loads(answer.value or b"")["cost_micros"] is None


def test_an_error_has_no_answer() -> None:
    """An error is a completion with its class, its cost and its wait."""
    (completed,) = published(Outcome("rate_limited", "zero", retry_after_ms=700, error="429"))
    assert said(completed).error_class == "rate_limited"
    assert said(completed).cost == "zero"
    assert said(completed).retry_after_ms == 700


def test_a_large_answer_is_lost_and_its_completion_is_not() -> None:
    """Both where our limit says so, and where the topic refuses it."""
    big = replace(OK, answer=json.dumps("x" * 1_000_000).encode())
    (completed,) = published(big)
    assert said(completed).remarks == ("answer_too_large",)
    assert said(completed).usage == USAGE
    (completed,) = without_answer(published())
    assert said(completed).remarks == ("answer_too_large",)


USAGES: list[Any] = [{"a": "x" * 200_000}, {"a": 2**70}, json.loads('{"a":' * 200 + "1" + "}" * 200)]


@pytest.mark.parametrize("usage", USAGES, ids=["large", "beyond 64 bits", "deep"])
def test_usage_that_a_lane_does_not_take(usage: dict[str, Any]) -> None:
    """The completion comes without it, and its cost is unknown."""
    record = completion_record(dispatch(), completion_of(dispatch(), replace(OK, usage=usage)), SETTINGS)
    assert said(record).cost == "unknown"
    assert said(record).usage is None
    assert said(record).remarks == ("usage_unusable",)


REPLIES = [
    ("replies", "rep.*", ["answers", "replies"], ()),
    ("replies", None, ["answers"], ("reply_topic_refused",)),
    ("replies", "rep", ["answers"], ("reply_topic_refused",)),
    ("queries", ".*", ["answers"], ("reply_topic_refused",)),
    ("nowhere", ".*", ["answers"], ("reply_topic_missing",)),
]


@pytest.mark.parametrize(("name", "pattern", "topics", "remarks"), REPLIES)
def test_reply_topics(name: str, pattern: str | None, topics: list[str], remarks: tuple[str, ...]) -> None:
    """A topic of the query's takes the answer too: one that the settings allow, that exists, and that is not ours."""
    inference = SETTINGS.inference.model_copy(update={"reply_topics": pattern})
    settings = SETTINGS.model_copy(update={"inference": inference})
    completed, *answers = published(OK, settings, ("reply-topic", name.encode()))
    assert [one.topic for one in answers] == topics
    assert said(completed).remarks == remarks


def test_a_cut_call_may_have_cost_something() -> None:
    """A call that was sent and cut is unknown, not zero."""
    assert completion_of(dispatch(), outcomes.broken(True, "unreachable", "cut")).cost == "unknown"
    assert completion_of(dispatch(), outcomes.broken(False, "unreachable", "cut")).cost == "zero"
