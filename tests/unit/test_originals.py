"""Replayed events are compared with the records that they came from."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from tests.drive import completion, query
from tests.topics import NAMES, record
from worker import wire
from worker.events import Arrived, Completed, Event, Refused
from worker.messages import Completion, Query
from worker.originals import Originals, Stream
from worker.record import StoredRecord
from worker.settings import LimitSettings

LIMITS = LimitSettings()
GARBAGE = b"garbage"
REASON = "the first byte is 0x67: neither a MessagePack map nor a JSON object"


def stream(records: list[StoredRecord], oldest: int = 0) -> Stream:
    def read(offset: int) -> Iterator[StoredRecord]:
        return iter([stored for stored in records if stored.offset >= offset])

    return Stream(read, oldest)


def originals(queries: list[bytes], completions: list[bytes], oldest: int = 0) -> Originals:
    logs = [
        [record(topic, offset, None, value) for offset, value in enumerate(values)]
        for topic, values in ((NAMES.queries, queries), (NAMES.completions, completions))
    ]
    return Originals(LIMITS, stream(logs[0][oldest:], oldest), stream(logs[1][oldest:], oldest), None)


def asked(**changes: object) -> bytes:
    return wire.encode(Query(**{"id": "q0", "text": "x", **changes}))


def told(**changes: object) -> bytes:
    said = {"dispatch_id": "0-0-1", "origin_partition": 0, "llm": "large", "status": "ok", "cost_micros": 100}
    return wire.encode(Completion(**{**said, "quality": 1.0, **changes}))


ANSWER = completion(0, "0-0-1", "large")
QUERIES = [
    ("the same", query(0), asked(), None),
    ("another id", query(0), asked(id="q1"), ("query_id", "q0", "q1")),
    ("no id", query(0, query_id="0-0"), asked(id=None), None),
    ("another deadline", query(0), asked(deadline_ms=9), ("query_deadline_ms", None, 9)),
    ("no query", query(0), GARBAGE, ("query", "routed", f"a dead letter: {REASON}")),
    ("not there", query(1), asked(), ("offset", 1, "no such record in the topic")),
    ("refused for what it is", Refused("queries", 0, 0, REASON, ""), GARBAGE, None),
    ("refused for another reason", Refused("queries", 0, 0, "so", ""), GARBAGE, ("reason", "so", REASON)),
]
COMPLETIONS = [
    ("the same", ANSWER, told(), None),
    ("another cost", ANSWER, told(cost_micros=90), ("spent_micros", 100, 90)),
    ("another quality", ANSWER, told(quality=0.5), ("quality", 1.0, 0.5)),
    ("another dispatch", ANSWER, told(dispatch_id="0-1-1"), ("dispatch_id", "0-0-1", "0-1-1")),
    ("another LLM", ANSWER, told(llm="small"), ("llm", "large", "small")),
    ("a failure", ANSWER, told(status="error"), ("status", "ok", "error")),
    ("ignored", completion(0, "0-0-1", "", cost_micros=None), told(llm="small", status="error"), None),
    ("no completion", ANSWER, GARBAGE, ("completion", "used", f"a dead letter: {REASON}")),
    ("refused for what it is", Refused("completions", 0, 0, REASON, ""), GARBAGE, None),
]


@pytest.mark.parametrize(("event", "value", "expected"), [c[1:] for c in QUERIES], ids=[c[0] for c in QUERIES])
def test_queries(event: Arrived | Refused, value: bytes, expected: object) -> None:
    """What a decision says of its query is what the query says."""
    assert originals([value], [])(event) == expected


@pytest.mark.parametrize(("event", "value", "expected"), [c[1:] for c in COMPLETIONS], ids=[c[0] for c in COMPLETIONS])
def test_completions(event: Completed | Refused, value: bytes, expected: object) -> None:
    """What a settlement says of its completion is what the completion says."""
    assert originals([], [value])(event) == expected


def test_what_has_left_its_topic_is_counted() -> None:
    """And not taken for a difference."""
    inputs = originals([asked(id=f"q{offset}") for offset in range(4)], [], oldest=2)
    events: list[Event] = [query(offset) for offset in range(4)]
    assert ([inputs(event) for event in events], inputs.queries.gone) == ([None] * 4, 2)


ESTIMATES = [
    ("the same", {}, (None, 1, 0)),
    ("nearly the same", {"quality": [0.51, 0.3, 0.1]}, (None, 0, 1)),
    ("another cost, nearly", {"cost_micros": [620, 200, 20]}, (None, 0, 1)),
    ("another quality", {"quality": [0.6, 0.3, 0.1]}, ("quality", 0, 0)),
    ("another cost", {"cost_micros": [700, 200, 20]}, ("cost_micros", 0, 0)),
]


@pytest.mark.parametrize(("changes", "expected"), [c[1:] for c in ESTIMATES], ids=[c[0] for c in ESTIMATES])
def test_estimates_are_compared_within_tolerance(
    changes: dict[str, object], expected: tuple[str | None, int, int]
) -> None:
    """Exact ones and close ones are told apart; what is further off is a difference."""
    inputs = originals([asked()], [])
    inputs.estimate = lambda records: [msgspec.structs.replace(query(0), **changes) for _ in records]
    found = inputs(query(0))
    assert (None if found is None else found[0], inputs.exact, inputs.close) == expected
