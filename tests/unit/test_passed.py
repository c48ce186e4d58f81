"""What was passed on is compared with what came in."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.topics import NAMES, record
from worker.audit.outputs import NIL, Form, Payloads, RecordKey
from worker.contract import codec, dead_letters
from worker.contract.codes import Rejection
from worker.contract.messages import Query
from worker.contract.record import StoredRecord

PACKED = codec.encode(Query(text="x"))
OTHER = codec.encode(Query(text="y"))
JSON = json.dumps({"text": "x"}).encode()
QUERIES: list[tuple[str, bytes, bytes, list[str]]] = [
    ("as it came", PACKED, PACKED, []),
    ("from JSON", JSON, PACKED, []),
    ("from a frame", b"\0\0\0\0\1" + PACKED, PACKED, []),
    ("gone from its topic", PACKED, NIL, []),
    ("another", PACKED, OTHER, ["its dispatch or deferral carries another query"]),
    ("of no query", b"garbage", PACKED, ["its dispatch or deferral carries another query"]),
]
VECTOR = codec.encode(Query(text="x", embedding=b"\0\x38" * 8))
FORMS: list[tuple[str, bytes, bytes, Form, bool]] = [
    ("a dispatch without the embedding", VECTOR, PACKED, "msgpack", True),
    ("a dispatch with the embedding", VECTOR, VECTOR, "msgpack", False),
    ("a dispatch in JSON", VECTOR, b'{"text":"x"}', "json", True),
    ("a dispatch in JSON of another query", VECTOR, b'{"text":"y"}', "json", False),
    ("a deferral with the embedding", VECTOR, VECTOR, "whole", True),
    ("a deferral without the embedding", VECTOR, PACKED, "whole", False),
]


def came(value: bytes | None, key: str | None = None) -> StoredRecord:
    return record(NAMES.queries, 7, key, value)


@pytest.mark.parametrize(("value", "query", "wrong"), [c[1:] for c in QUERIES], ids=[c[0] for c in QUERIES])
def test_queries(value: bytes, query: bytes, wrong: list[str]) -> None:
    """A deferral carries its query as MessagePack, whatever it came as."""
    passed = Payloads()
    first = passed.query(7, msgspec.Raw(query), "whole")
    assert (first, [found.what for found in passed.differences("queries", came(value))]) == (True, wrong)


@pytest.mark.parametrize(("value", "query", "form", "right"), [c[1:] for c in FORMS], ids=[c[0] for c in FORMS])
def test_embeddings_are_left_out_of_dispatches(value: bytes, query: bytes, form: Form, right: bool) -> None:
    """A dispatch carries its query without the embedding, a deferral with it."""
    passed = Payloads()
    passed.query(7, msgspec.Raw(query), form)
    assert (list(passed.differences("queries", came(value))) == []) == right


def test_attempts_carry_the_same_query() -> None:
    """Also where the query itself has left its topic."""
    passed = Payloads()
    said = [passed.query(7, msgspec.Raw(query), "msgpack") for query in (PACKED, PACKED, OTHER, NIL)]
    assert said == [True, True, False, True]


LETTERS: list[tuple[str, StoredRecord, dict[str, Any], bool]] = [
    ("as it came", came(b"garbage"), {}, True),
    ("cut", came(b"x" * 100), {}, True),
    ("with a key that was cut", came(b"garbage", "k" * 100), {}, True),
    ("without a value", came(None), {}, True),
    ("other bytes", came(b"garbage"), {"value": b"other"}, False),
    ("cut and changed", came(b"x" * 100), {"value": b"y" * 50}, False),
    ("another key", came(b"garbage", "key"), {"key": b"other"}, False),
]


@pytest.mark.parametrize(("origin", "changes", "same"), [c[1:] for c in LETTERS], ids=[c[0] for c in LETTERS])
def test_dead_letters(origin: StoredRecord, changes: dict[str, Any], same: bool) -> None:
    """A dead letter holds the bytes of its record, or their beginning where it says that it was cut."""
    letter = dead_letters.dead_letter(origin, Rejection("format"), 50, 60)
    stored = record(NAMES.dead_letters, 0, None, letter.value, letter.headers)._replace(key=letter.key)
    passed = Payloads()
    passed.letter(RecordKey("queries", 7), stored._replace(**changes), dead_letters.added_headers(stored))
    assert (list(passed.differences("queries", origin)) == []) == same
