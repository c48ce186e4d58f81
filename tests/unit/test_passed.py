"""What was passed on is compared with what came in."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.topics import NAMES, record
from worker.audit.outputs import NIL, Input, Payloads
from worker.contract import codec
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


def came(value: bytes | None, key: str | None = None) -> StoredRecord:
    return record(NAMES.queries, 7, key, value)


@pytest.mark.parametrize(("value", "query", "wrong"), [c[1:] for c in QUERIES], ids=[c[0] for c in QUERIES])
def test_queries(value: bytes, query: bytes, wrong: list[str]) -> None:
    """A dispatch carries its query as MessagePack, whatever it came as."""
    passed = Payloads()
    first = passed.query(7, msgspec.Raw(query))
    assert (first, [found.what for found in passed.differences("queries", came(value))]) == (True, wrong)


def test_attempts_carry_the_same_query() -> None:
    """Also where the query itself has left its topic."""
    passed = Payloads()
    assert [passed.query(7, msgspec.Raw(query)) for query in (PACKED, PACKED, OTHER, NIL)] == [True, True, False, True]


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
    letter = codec.dead_letter(origin, "no", "format", 50, 60)
    stored = record(NAMES.dead_letters, 0, None, letter.value, letter.headers)._replace(key=letter.key)
    passed = Payloads()
    passed.letter(Input("queries", 7), stored._replace(**changes))
    assert (list(passed.differences("queries", origin)) == []) == same
