"""What a bare request cannot hold comes as headers or in its metadata; the header wins."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from worker.contract import sentences
from worker.contract.codes import Rejection
from worker.contract.messages import Query
from worker.contract.record import Headers, StoredRecord
from worker.contract.rejections import Limits, read_query

ASKED = {"messages": [{"role": "user", "content": "Why is the river?"}]}
LATER_MS = 1_900_000_000_000


def read(value: dict[str, Any], *headers: tuple[str, bytes | None]) -> Query | Rejection:
    """The query of a record with these headers."""
    given: Headers = headers
    return read_query(StoredRecord("queries", 0, 0, 0, None, msgpack.packb(value), given), Limits())


HEADERS: list[tuple[str, str, bytes | None, dict[str, Any]]] = [
    ("an id", "tollgate-id", b"q-1", {"id": "q-1"}),
    ("capitals", "Tollgate-ID", b"q-1", {"id": "q-1"}),
    ("a deadline", "tollgate-deadline-ms", b"1900000000000", {"deadline_ms": LATER_MS}),
    ("a deadline without a unit", "tollgate-deadline", b" 1900000000000 ", {"deadline_ms": LATER_MS}),
    ("allowed LLMs", "tollgate-allow", b"big/a:1, small", {"allow": ("big/a:1", "small")}),
    ("allowed LLMs as JSON", "tollgate-allow", b'["a, b", "c"]', {"allow": ("a, b", "c")}),
    ("denied LLMs", "tollgate-deny", b"small", {"deny": ("small",)}),
    ("tags", "tollgate-tags", b"team=search, env = prod", {"tags": {"team": "search", "env": "prod"}}),
    ("tags as an object", "tollgate-tags", b'{"team": "a=b"}', {"tags": {"team": "a=b"}}),
    ("tags as a list", "tollgate-tags", b'["team=search", "urgent"]', {"tags": {"team": "search", "urgent": ""}}),
    ("no value", "tollgate-id", None, {}),
    ("an empty value", "tollgate-deny", b"", {}),
    ("blanks", "tollgate-tags", b"  ", {}),
    ("another's header", "traceparent", b"\xff", {}),
]


@pytest.mark.parametrize(("name", "value", "wanted"), [c[1:] for c in HEADERS], ids=[c[0] for c in HEADERS])
def test_a_header_adds_to_a_request(name: str, value: bytes | None, wanted: dict[str, Any]) -> None:
    """Each header is a field of the query."""
    assert read(ASKED, (name, value)) == Query(body=ASKED, **wanted)


METADATA: list[tuple[str, object, dict[str, Any]]] = [
    ("as in a header", {"tollgate-id": "q-1", "tollgate-tags": "a=b"}, {"id": "q-1", "tags": {"a": "b"}}),
    (
        "lists and objects",
        {"tollgate-allow": ["x"], "tollgate-tags": {"a": "b"}},
        {"allow": ("x",), "tags": {"a": "b"}},
    ),
    ("a number", {"tollgate-deadline-ms": LATER_MS}, {"deadline_ms": LATER_MS}),
    ("somebody else's", {"id": "q-1", "tags": 7, "user_id": "u"}, {}),
    ("null", {"tollgate-id": None}, {}),
    ("no object", "tollgate-id", {}),
    ("a list", ["tollgate-id"], {}),
    ("nothing", None, {}),
]


@pytest.mark.parametrize(("metadata", "wanted"), [c[1:] for c in METADATA], ids=[c[0] for c in METADATA])
def test_metadata_adds_to_a_request(metadata: object, wanted: dict[str, Any]) -> None:
    """Metadata holds the same under the same names; what is not Tollgate's is left alone, and all of it passed on."""
    body = ASKED | {"metadata": metadata}
    assert read(body) == Query(body=body, **wanted)


def test_the_header_wins() -> None:
    """A header wins over a field of the query, and the field wins over metadata."""
    body = ASKED | {"metadata": {"tollgate-id": "of metadata"}}
    assert read({"body": body, "id": "of the query"}) == Query(id="of the query", body=body)
    assert read({"body": body, "id": "of the query"}, ("tollgate-id", b"of a header")) == Query(
        "of a header", body=body
    )
    assert read(body, ("tollgate-id", b"")) == Query(id="of metadata", body=body)


def test_the_last_of_two_headers_counts() -> None:
    """As with a field of JSON that comes twice."""
    assert read(ASKED, ("tollgate-id", b"a"), ("tollgate-id", b"b")) == Query(id="b", body=ASKED)


def test_tags_of_a_query() -> None:
    """A query's own tags can be a list; they are names with values from then on."""
    assert read({"text": "x", "tags": ["team=search", "urgent"]}) == Query(
        text="x", tags={"team": "search", "urgent": ""}
    )


SIXTEEN = {f"t{number}": "v" for number in range(16)}
REFUSED: list[tuple[str, dict[str, Any], tuple[str, bytes] | None, Rejection]] = [
    ("bad UTF-8", ASKED, ("tollgate-id", b"\xff"), Rejection("header_value", detail="tollgate-id")),
    ("a long id", ASKED, ("tollgate-id", b"x" * 257), Rejection("header_value", detail="tollgate-id")),
    ("seconds", ASKED, ("tollgate-deadline", b"1795564896"), Rejection("deadline_in_seconds", detail="1795564896")),
    ("a date", ASKED, ("tollgate-deadline", b"2030-01-01"), Rejection("header_value", detail="tollgate-deadline")),
    (
        "a huge number",
        ASKED,
        ("tollgate-deadline", b"9" * 5_000),
        Rejection("header_value", detail="tollgate-deadline"),
    ),
    ("broken JSON", ASKED, ("tollgate-allow", b'["x"'), Rejection("header_value", detail="tollgate-allow")),
    ("a list of numbers", ASKED, ("tollgate-deny", b"[1]"), Rejection("header_value", detail="tollgate-deny")),
    ("an empty name", ASKED, ("tollgate-deny", b'[""]'), Rejection("header_value", detail="tollgate-deny")),
    ("a misspelt header", ASKED, ("tollgate-denny", b"x"), Rejection("unknown_header", detail="tollgate-denny")),
    ("17 tags", {"text": "x", "tags": SIXTEEN | {"u": "v"}}, None, Rejection("tags", 16, "17")),
    ("a long tag", {"text": "x", "tags": {"a": "v" * 65}}, None, Rejection("tags", 64, "a")),
    ("a tag without a name", {"text": "x", "tags": ["=v"]}, None, Rejection("tags", 64)),
    ("an ambiguous tag", {"text": "x", "tags": {"a=b": "c"}}, None, Rejection("tags", 64, "a=b")),
    ("a number as tag", {"text": "x", "tags": {"a": 1}}, None, Rejection("type", detail="tags")),
    ("tags that are no JSON", ASKED, ("tollgate-tags", b"{"), Rejection("tags", detail="tollgate-tags")),
    (
        "metadata, misspelt",
        ASKED | {"metadata": {"tollgate-denny": "x"}},
        None,
        Rejection("unknown_field", detail="metadata.tollgate-denny"),
    ),
    (
        "metadata, a number as id",
        ASKED | {"metadata": {"tollgate-id": 7}},
        None,
        Rejection("type", detail="metadata.tollgate-id"),
    ),
    (
        "metadata, seconds",
        ASKED | {"metadata": {"tollgate-deadline-ms": 1_795_564_896}},
        None,
        Rejection("deadline_in_seconds", detail="1795564896"),
    ),
]


@pytest.mark.parametrize(("value", "header", "why"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_what_cannot_be_read_is_refused(
    value: dict[str, Any], header: tuple[str, bytes] | None, why: Rejection
) -> None:
    """A rule that cannot be read is never left out in silence."""
    assert read(value, *(() if header is None else (header,))) == why
    assert sentences.reason(why)


def test_sixteen_tags_are_taken() -> None:
    """The limit itself is allowed."""
    assert read({"text": "x", "tags": SIXTEEN}) == Query(text="x", tags=SIXTEEN)
