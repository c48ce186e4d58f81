"""A dispatch carries its query without the embedding, as MessagePack or as JSON."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import msgspec
import pytest

from worker.contract import codec, examples
from worker.contract.codec import Format
from worker.contract.messages import Dispatch, Query

HALF = b"\x00\x38" * 8
PLAIN: list[tuple[str, dict[str, Any]]] = [
    ("a text", {"id": "q", "text": "naïve 質問 🙂"}),
    ("a body", {"body": {"messages": [{"role": "user", "content": "x"}], "n": [1, -5, 0.1, None, True]}}),
    ("parameters", {"text": "x", "parameters": {"temperature": 0.2, "nested": {"a": [{}]}}}),
]
WITHOUT_JSON: list[tuple[str, Any, Any]] = [
    ("bytes", b"\x00\xff", "AP8="),
    ("NaN", float("nan"), None),
    ("an extension", msgpack.ExtType(5, b"ab"), "YWI="),
    ("names that are numbers", {1: 2, 1.5: 3}, {"1": 2, "1.5": 3}),
    ("names that are null or true", {None: 1, True: 2}, {"None": 1, "True": 2}),
    ("an extension in a list in a map", {"a": [msgpack.ExtType(5, b"ab")]}, {"a": ["YWI="]}),
]


def raw(**fields: Any) -> msgspec.Raw:
    """A query as it is passed on."""
    return msgspec.Raw(msgpack.packb(fields))


def sent(query: msgspec.Raw, form: Format) -> bytes:
    """A dispatch of this query, as it is published."""
    example = examples.outputs()["dispatch"]
    assert isinstance(example, Dispatch), "the example of a dispatch"
    return codec.encode_dispatch(msgspec.structs.replace(example, query=query), form)


@pytest.mark.parametrize("fields", [c[1] for c in PLAIN], ids=[c[0] for c in PLAIN])
def test_a_query_without_an_embedding(fields: dict[str, Any]) -> None:
    """MessagePack passes it on byte for byte; JSON says the same."""
    query = raw(**fields)
    assert bytes(codec.dispatched_query(query, "msgpack")) == bytes(query)
    assert json.loads(bytes(codec.dispatched_query(query, "json"))) == fields


@pytest.mark.parametrize("form", codec.FORMATS)
@pytest.mark.parametrize("embedding", [HALF, [0.5] * 8], ids=["bytes", "numbers"])
def test_the_embedding_is_left_out(embedding: Any, form: Format) -> None:
    """Everything else stays, in its order."""
    query = raw(id="q", embedding=embedding, text="x", parameters={"embedding": 1})
    passed = bytes(codec.dispatched_query(query, form))
    plain = json.loads(passed) if form == "json" else msgpack.unpackb(passed)
    assert list(plain.items()) == [("id", "q"), ("text", "x"), ("parameters", {"embedding": 1})]


@pytest.mark.parametrize(("value", "wanted"), [c[1:] for c in WITHOUT_JSON], ids=[c[0] for c in WITHOUT_JSON])
def test_what_json_has_not(value: Any, wanted: Any) -> None:
    """Bytes and extensions become base64, a name that is not text becomes text, NaN becomes null."""
    query = raw(text="x", parameters={"value": value})
    assert json.loads(bytes(codec.dispatched_query(query, "json")))["parameters"]["value"] == wanted


@pytest.mark.parametrize("form", codec.FORMATS)
def test_a_dispatch_is_read_back(form: Format) -> None:
    """The first byte tells the format."""
    value = sent(raw(text="x"), form)
    read = codec.decode_dispatch(value)
    assert codec.format_of(value) == form
    assert msgspec.structs.replace(read, query=msgspec.Raw(b"")) == msgspec.structs.replace(
        codec.decode_dispatch(sent(raw(text="y"), "msgpack")), query=msgspec.Raw(b"")
    )
    decode = msgspec.json.decode if form == "json" else msgspec.msgpack.decode
    assert decode(read.query, type=Query) == Query(text="x")


@pytest.mark.parametrize("form", codec.FORMATS)
def test_the_headers_say_the_format(form: Format) -> None:
    """The content type of the query is replaced."""
    headers = codec.outgoing_headers([("tenant", b"a"), ("Content-Type", b"text/plain")], form)
    assert headers == [("tenant", b"a"), ("content-type", codec.CONTENT_TYPES[form])]


@pytest.mark.parametrize("value", [b"", b"{", b'{"id": 1}', b"\x80", b"\xc1", b"[]"])
def test_bytes_that_are_not_a_dispatch(value: bytes) -> None:
    """They raise an error that readers expect."""
    with pytest.raises(codec.UNREADABLE):
        codec.decode_dispatch(value)
