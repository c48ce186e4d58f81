"""Replayed events are compared with the records that they came from."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from typing_extensions import Unpack

from tests.drive import ConfigurationChanges, completion, config, query
from tests.topics import NAMES, record
from worker.audit.input_check import OTHER_LIMITS, OTHER_PRICES, Originals
from worker.audit.inputs import Stream
from worker.audit.mismatch import Mismatch
from worker.contract import codec
from worker.contract.codes import Rejection
from worker.contract.completions import UsableCompletion
from worker.contract.messages import Completion, Query, UnknownModel
from worker.contract.record import UNREADABLE_HEADERS, Headers, StoredRecord
from worker.contract.rejections import EMPTY_TEXT, NO_EMBEDDING, NO_TEXT
from worker.contract.settings import LimitSettings
from worker.contract.token_costs import PriceList
from worker.contract.usage import Usage
from worker.core.events import Arrived, Completed, Event, Refused

LIMITS = LimitSettings()
PRICES = {"large": PriceList(Decimal(2), Decimal(4))}
GARBAGE = b"garbage"
FORMAT = Rejection("format", detail="0x67")
LENGTH = Rejection("embedding_dimension", 3, "8")
ZEROS = Rejection("embedding_zero")
OTHER = Rejection("unknown_field", detail="id")


def stream(records: list[StoredRecord], oldest: int = 0) -> Stream:
    def read(offset: int) -> Iterator[StoredRecord]:
        return iter([stored for stored in records if stored.offset >= offset])

    return Stream(read, oldest)


def originals(queries: list[bytes], completions: list[bytes], oldest: int = 0) -> Originals:
    logs = [
        [record(topic, offset, None, value) for offset, value in enumerate(values)]
        for topic, values in ((NAMES.queries, queries), (NAMES.completions, completions))
    ]
    return Originals(LIMITS, stream(logs[0][oldest:], oldest), stream(logs[1][oldest:], oldest), PRICES)


def differing(inputs: Originals, event: Event, **settings: Unpack[ConfigurationChanges]) -> object:
    """What an event says otherwise than its record, as (field, recorded, expected); None if nothing."""
    found = inputs(event, config(**settings))
    if isinstance(found, Mismatch):
        return found.field, found.recorded, found.expected
    if isinstance(found, Arrived) and isinstance(event, Arrived):
        # What it asks, and its length, are taken from its record, and decided on again.
        own = {"asks": event.asks, "tags": event.tags, "input_tokens": event.input_tokens}
        found = msgspec.structs.replace(found, **own)
    return None if found == event else found


def asked(**changes: Any) -> bytes:
    return codec.encode(msgspec.structs.replace(Query(id="q0", text="x"), **changes))


def told(**changes: Any) -> bytes:
    said = Completion("0-0-1", 0, "large", "ok", cost_micros=100, quality=1.0)
    return codec.encode(msgspec.structs.replace(said, **changes))


ANSWER = completion(0, "0-0-1", "large")
QUERIES = [
    ("the same", query(0), asked(), None),
    ("another id", query(0), asked(id="q1"), ("query_id", "q0", "q1")),
    ("no id", query(0, query_id="0-0"), asked(id=None), None),
    ("another deadline", query(0), asked(deadline_ms=10**12), ("query_deadline_ms", None, 10**12)),
    ("no query", query(0), GARBAGE, ("query", "routed", FORMAT)),
    ("not there", query(1), asked(), ("offset", 1, None)),
    ("refused for what it is", Refused("queries", 0, 0, FORMAT), GARBAGE, None),
    ("refused for another reason", Refused("queries", 0, 0, OTHER), GARBAGE, ("rejection", OTHER, FORMAT)),
    ("refused for nothing", Refused("queries", 0, 0, OTHER), asked(), ("rejection", OTHER, None)),
    ("refused without an embedding", Refused("queries", 0, 0, NO_EMBEDDING), asked(), None),
    ("refused without a text", Refused("queries", 0, 0, NO_TEXT), asked(text=None), None),
    ("refused for a blank text", Refused("queries", 0, 0, NO_TEXT), asked(text=" "), None),
    ("refused for an empty text", Refused("queries", 0, 0, EMPTY_TEXT), asked(), None),
    (
        "refused for an empty text that it has not",
        Refused("queries", 0, 0, EMPTY_TEXT),
        asked(text=None),
        ("rejection", EMPTY_TEXT, None),
    ),
    ("refused for a wrong length", Refused("queries", 0, 0, LENGTH), asked(embedding=bytes(8)), None),
    (
        "refused for another length",
        Refused("queries", 0, 0, LENGTH),
        asked(embedding=bytes(10)),
        ("rejection", LENGTH, None),
    ),
    ("refused for zeros", Refused("queries", 0, 0, ZEROS), asked(embedding=bytes(8)), None),
    (
        "refused for zeros that it has not",
        Refused("queries", 0, 0, ZEROS),
        asked(embedding=[1.0]),
        ("rejection", ZEROS, None),
    ),
]
PARTITION = Rejection("partition", detail="5")
NESTED = Rejection("nesting", 1, "completion")
COMPLETIONS = [
    ("another dispatch", ANSWER, told(dispatch_id="0-1-1"), ("dispatch_id", "0-0-1", "0-1-1")),
    ("no completion", ANSWER, GARBAGE, ("completion", "used", FORMAT)),
    ("of another partition", ANSWER, told(dispatch_id="5-0-1"), ("completion", "used", PARTITION)),
    ("refused for what it is", Refused("completions", 0, 0, FORMAT), GARBAGE, None),
    ("refused for nothing", Refused("completions", 0, 0, OTHER), told(), ("rejection", OTHER, None)),
    ("refused for its partition", Refused("completions", 0, 0, PARTITION), told(dispatch_id="5-0-1"), None),
    (
        "refused for a partition that is right",
        Refused("completions", 0, 0, PARTITION),
        told(),
        ("rejection", PARTITION, None),
    ),
    ("refused for its nesting", Refused("completions", 0, 0, NESTED), told(usage={"a": {"b": {}}}), None),
]


@pytest.mark.parametrize(("event", "value", "expected"), [c[1:] for c in QUERIES], ids=[c[0] for c in QUERIES])
def test_queries(event: Arrived | Refused, value: bytes, expected: object) -> None:
    """What a decision says of its query is what the query says."""
    assert differing(originals([value], []), event) == expected


def test_what_a_query_asks_is_taken_from_its_record() -> None:
    """The router looks for candidates again by what the record says, whatever the decision says that it asks."""
    value = asked(body={"model": "small", "messages": []}, deny=("large",), tags={"team": "search"})
    found = originals([value], [])(query(0), config())
    assert isinstance(found, Arrived)
    assert (found.asks.wish, found.asks.deny, found.tags) == (("small",), ("large",), {"team": "search"})


MODEL = Rejection("unknown_model", detail="gpt-9")
BY_MODEL: list[tuple[str, str, UnknownModel, object]] = [
    ("as the settings say", "gpt-9", "refuse", None),
    ("another model", "gpt-8", "refuse", ("rejection", MODEL, Rejection("unknown_model", detail="gpt-8"))),
    ("an LLM", "small", "refuse", ("rejection", MODEL, None)),
    ("though the settings ignore it", "gpt-9", "ignore", ("rejection", MODEL, None)),
]


@pytest.mark.parametrize(("model", "setting", "expected"), [c[1:] for c in BY_MODEL], ids=[c[0] for c in BY_MODEL])
def test_a_query_refused_for_its_model(model: str, setting: UnknownModel, expected: object) -> None:
    """Whether a model was refused rightly follows from the record and the recorded settings."""
    inputs = originals([asked(body={"model": model, "messages": []})], [])
    found = inputs(Refused("queries", 0, 0, MODEL), config(unknown_model=setting))
    differs = (found.field, found.recorded, found.expected) if isinstance(found, Mismatch) else None
    assert differs == expected


@pytest.mark.parametrize(("event", "value", "expected"), [c[1:] for c in COMPLETIONS], ids=[c[0] for c in COMPLETIONS])
def test_completions(event: Completed | Refused, value: bytes, expected: object) -> None:
    """What a decision says of its completion is what the completion says."""
    assert differing(originals([], [value]), event) == expected


AS_RECEIVED = [
    ("the same", told(), UsableCompletion("0-0-1", "large", stated_micros=100, quality=1.0)),
    ("another cost", told(cost_micros=90), UsableCompletion("0-0-1", "large", stated_micros=90, quality=1.0)),
    ("another quality", told(quality=0.5), UsableCompletion("0-0-1", "large", stated_micros=100, quality=0.5)),
    ("a failure", told(status="error"), UsableCompletion("0-0-1", "large", ok=False, stated_micros=100, quality=1.0)),
    (
        "usage",
        told(cost_micros=None, usage={"prompt_tokens": 10, "completion_tokens": 20}),
        UsableCompletion("0-0-1", "large", usage=Usage(10, 20), quality=1.0),
    ),
]


@pytest.mark.parametrize(("value", "answer"), [c[1:] for c in AS_RECEIVED], ids=[c[0] for c in AS_RECEIVED])
def test_an_answer_is_decided_as_it_was_received(value: bytes, answer: UsableCompletion) -> None:
    """The router is told what the record says, and decides again what it charges: a changed decision then differs."""
    assert originals([], [value])(ANSWER, config()) == msgspec.structs.replace(ANSWER, answer=answer)


LONG = told(error="x" * (101 - len(told(error=""))))
DOUBTS = [
    ("taken under a higher limit", completion(0, "0-0-1", "large"), told(error="x" * LIMITS.max_completion_bytes)),
    ("refused under a lower limit", Refused("completions", 0, 0, Rejection("too_large", 50, "101")), LONG),
]


@pytest.mark.parametrize(("event", "value"), [c[1:] for c in DOUBTS], ids=[c[0] for c in DOUBTS])
def test_what_only_other_settings_explain_is_a_doubt(event: Completed | Refused, value: bytes) -> None:
    """Limits are not recorded, and may have been others: no difference, but counted."""
    inputs = originals([], [value])
    assert not isinstance(inputs(event, config()), Mismatch)
    assert dict(inputs.doubts) == {OTHER_LIMITS: 1}


HEADERS = [
    ("too many", [("a", b"x" * 50)], Rejection("headers", 60, "61"), True),
    ("few", [("a", b"x")], Rejection("headers", 60, "61"), False),
    ("no names", UNREADABLE_HEADERS, Rejection("header_name"), True),
]


@pytest.mark.parametrize(("headers", "why", "is_true"), [c[1:] for c in HEADERS], ids=[c[0] for c in HEADERS])
def test_headers_are_a_reason_to_refuse_a_query(headers: Headers, why: Rejection, is_true: bool) -> None:
    """If they are what the rejection says of them."""
    inputs = Originals(LIMITS, stream([record(NAMES.queries, 0, None, asked(), headers)]), stream([]), PRICES)
    expected = None if is_true else ("rejection", why, None)
    assert differing(inputs, Refused("queries", 0, 0, why)) == expected


def test_what_has_left_its_topic_is_counted() -> None:
    """And not taken for a difference."""
    inputs = originals([asked(id=f"q{offset}") for offset in range(4)], [], oldest=2)
    found = [differing(inputs, query(offset)) for offset in range(4)]
    assert (found, inputs.queries.gone) == ([None] * 4, 2)


def test_retention_may_go_on_while_a_topic_is_read() -> None:
    """What left after the reading began is looked for once more, and then counted."""
    left = [record(NAMES.queries, offset, None, asked(id=f"q{offset}")) for offset in (0, 1, 4)]
    inputs = Originals(
        LIMITS, Stream(lambda at: iter([r for r in left if r.offset >= at]), 0, lambda: 4), stream([]), {}
    )
    assert ([differing(inputs, query(offset)) for offset in range(5)], inputs.queries.gone) == ([None] * 5, 2)


def test_a_topic_may_grow_while_it_is_read() -> None:
    """What was written after it was opened is found."""
    written = [record(NAMES.queries, offset, None, asked(id=f"q{offset}")) for offset in range(4)]
    there = written[:2]
    inputs = Originals(LIMITS, Stream(lambda at: iter([r for r in there if r.offset >= at]), 0), stream([]), {})
    before = [differing(inputs, query(offset)) for offset in range(2)]
    there += written[2:]
    assert before + [differing(inputs, query(offset)) for offset in range(2, 4)] == [None] * 4


ESTIMATES = [
    ("the same", {}, (None, 1, 0)),
    ("nearly the same", {"quality": [0.51, 0.3, 0.1]}, (None, 0, 1)),
    ("another cost, nearly", {"cost_micros": [620, 200, 20]}, (None, 0, 1)),
    ("another quality", {"quality": [0.6, 0.3, 0.1]}, ("quality", 0, 0)),
    ("another cost", {"cost_micros": [700, 200, 20]}, ("cost_micros", 0, 0)),
]


def estimated(value: bytes, **changes: object) -> Originals:
    """Originals that estimate every query anew, with these changes."""
    inputs = originals([value], [])
    inputs.index = config().index
    inputs.estimate = lambda records: [msgspec.structs.replace(query(0), **changes) for _ in records]
    return inputs


@pytest.mark.parametrize(("changes", "expected"), [c[1:] for c in ESTIMATES], ids=[c[0] for c in ESTIMATES])
def test_estimates_are_compared_within_tolerance(
    changes: dict[str, object], expected: tuple[str | None, int, int]
) -> None:
    """Exact ones and close ones are told apart; what is further off is a difference."""
    inputs = estimated(asked(), **changes)
    found = inputs(query(0), config(price_lists=PRICES))
    assert (found.field if isinstance(found, Mismatch) else None, inputs.exact, inputs.close) == expected


def test_estimates_of_another_index_are_taken_as_recorded() -> None:
    """Its hash is in the record: what this index says of them is no difference."""
    inputs = estimated(asked(), quality=[0.0, 0.0, 0.0])
    assert differing(inputs, query(0), index="another") is None
    assert inputs.elsewhere == 1
    assert inputs.missing == "another"


def test_costs_under_other_price_lists_are_a_doubt() -> None:
    """Costs are bounded by price lists. The recorded lists may not be those of today."""
    inputs = estimated(asked(), cost_micros=[9, 9, 9])
    assert differing(inputs, query(0), price_lists={}) is None
    assert dict(inputs.doubts) == {OTHER_PRICES: 1}


def test_costs_under_the_same_price_lists_are_compared() -> None:
    """Where today's lists are the recorded ones, nothing but tampering explains another cost."""
    found = estimated(asked(), cost_micros=[9, 9, 9])(query(0), config(price_lists=PRICES))
    assert isinstance(found, Mismatch), "the costs were not compared"
    assert found.field == "cost_micros"


def test_a_query_that_can_be_estimated_was_not_to_be_refused() -> None:
    """The same index that takes it is asked."""
    refused = Refused("queries", 0, 0, NO_EMBEDDING)
    found = estimated(asked())(refused, config())
    assert isinstance(found, Mismatch), "the refusal was not compared"
    assert (found.field, found.expected) == ("rejection", None)
