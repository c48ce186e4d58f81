"""What comes from outside is read in every allowed form, and refused by name in every other."""

from __future__ import annotations

import base64
import json
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.contract import codec, sentences
from worker.contract.answers import Unavailable
from worker.contract.codes import Rejection
from worker.contract.completions import UsableCompletion, read_answer
from worker.contract.messages import Query
from worker.contract.record import StoredRecord
from worker.contract.rejections import Limits, read_completion

MAX_BYTES = 1_000_000
MAX_NESTING = 64
FRAME = b"\x00\x00\x00\x00\x07"
HALF = np.array([3.0, 4.0], "<f2").tobytes()


def packed(**fields: Any) -> bytes:
    content: bytes = msgpack.packb(fields)
    return content


def as_json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def read_query(value: bytes | None) -> Query | Rejection:
    return codec.decode_query(value, MAX_BYTES, MAX_NESTING)


def completion(value: bytes | None) -> UsableCompletion | Rejection:
    stored = StoredRecord("completions", 1, 0, 0, None, value, ())
    read = read_completion(stored, Limits(MAX_BYTES, max_nesting=MAX_NESTING))
    assert not isinstance(read, Unavailable), "a completion names a dispatch"
    return read


# Queries that are read

QUERIES = [
    ("a MessagePack map", packed(text="hello"), Query(text="hello")),
    ("a JSON object", as_json(text="hello"), Query(text="hello")),
    ("MessagePack in a Confluent frame", FRAME + packed(text="hello"), Query(text="hello")),
    ("JSON in a Confluent frame", FRAME + as_json(text="hello"), Query(text="hello")),
    ("bytes as embedding", packed(embedding=HALF), Query(embedding=HALF)),
    ("base64 in JSON", as_json(embedding=base64.b64encode(HALF).decode()), Query(embedding=HALF)),
    ("numbers in MessagePack", packed(embedding=[3, 4.0]), Query(embedding=[3.0, 4.0])),
    ("numbers in JSON", as_json(embedding=[3, 4.0]), Query(embedding=[3.0, 4.0])),
    ("nulls", packed(text="hello", id=None, body=None), Query(text="hello")),
    (
        "every field",
        packed(id="q", text="t", body={}, input_tokens=1, max_output_tokens=2, parameters={"a": [1]}),
        Query("q", "t", body={}, input_tokens=1, max_output_tokens=2, parameters={"a": [1]}),
    ),
    (
        "whole numbers as floats",
        as_json(text="t", input_tokens=12.0, deadline_ms=1.8e12),
        Query(text="t", input_tokens=12, deadline_ms=1_800_000_000_000),
    ),
    ("JSON after a blank", b' {"text": "x"}', Query(text="x")),
    ("JSON after a byte order mark", b'\xef\xbb\xbf{"text": "x"}', Query(text="x")),
    (
        "an embedding with its type",
        packed(embedding=HALF, embedding_dtype="float16", embedder="e5"),
        Query(embedding=HALF, embedding_dtype="float16", embedder="e5"),
    ),
    ("nothing at all, which is refused when it is to be embedded", b"\x80", Query()),
]


@pytest.mark.parametrize(("value", "query"), [c[1:] for c in QUERIES], ids=[c[0] for c in QUERIES])
def test_a_query_is_read(value: bytes, query: Query) -> None:
    """The first byte tells the format; all of them give the same query."""
    assert read_query(value) == query


@pytest.mark.parametrize(("value", "query"), [c[1:] for c in QUERIES], ids=[c[0] for c in QUERIES])
def test_a_query_is_passed_on(value: bytes, query: Query) -> None:
    """What a dispatch carries is MessagePack, whatever came, and says the same."""
    read = read_query(value)
    assert isinstance(read, Query), str(read)
    assert read_query(bytes(codec.query_payload(value, read))) == query


def test_messagepack_is_passed_on_byte_for_byte() -> None:
    """Numbers keep their width, fields their order."""
    value = (
        bytes.fromhex("82") + msgpack.packb("parameters") + b"\x81\xa1n\xcd\x00\x01" + msgpack.packb("text") + b"\xa1x"
    )
    read = read_query(value)
    assert isinstance(read, Query), str(read)
    assert bytes(codec.query_payload(FRAME + value, read)) == value


# Queries that are refused

REFUSED = [
    ("no value", None, Rejection("empty")),
    ("an empty value", b"", Rejection("empty")),
    ("text", b"hello", Rejection("format", detail="0x68")),
    ("a lone zero", b"\x00", Rejection("format", detail="0x00")),
    ("an empty frame", FRAME, Rejection("format", detail="0x00")),
    ("a frame in a frame", FRAME + FRAME + packed(text="x"), Rejection("confluent_frame")),
    ("a MessagePack list", b"\x91\x01", Rejection("array")),
    ("a JSON list", b"[]", Rejection("array")),
    ("JSON in a JSON string", b'"{}"', Rejection("quoted_json")),
    ("a Connect envelope", as_json(schema={}, payload={"text": "x"}), Rejection("connect_envelope")),
    (
        "a deadline in seconds",
        packed(text="x", deadline_ms=1_760_000_000),
        Rejection("deadline_in_seconds", detail="1760000000"),
    ),
    ("truncated", packed(text="hello")[:-1], Rejection("format", detail="msgpack")),
    ("truncated after a wrong type", packed(id=1, text="hello")[:-1], Rejection("format", detail="msgpack")),
    ("truncated JSON", b'{"text": "he', Rejection("format", detail="json")),
    ("bytes after the map", packed(text="x") + b"\x01", Rejection("format", detail="msgpack")),
    ("a claimed map of 2^32 fields", b"\xdf\xff\xff\xff\xff", Rejection("format", detail="msgpack")),
    ("no UTF-8", b"\x81\xa4text\xa2\xff\xfe", Rejection("format", detail="msgpack")),
    ("no UTF-8 in a name", b"\x81\xa2\xff\xfe\x01", Rejection("format", detail="msgpack")),
    ("no UTF-8 in JSON", b'{"text": "\xff"}', Rejection("format", detail="json")),
    ("half a surrogate", b'{"text": "\\ud800"}', Rejection("half_surrogate")),
    ("too large", packed(text="x" * 20_000_000), Rejection("too_large", 1_000_000, "20000011")),
    ("an unknown field", packed(txt="x"), Rejection("unknown_field", detail="txt")),
    ("an unknown field in JSON", as_json(txt="x"), Rejection("unknown_field", detail="txt")),
    ("the first of two unknown fields", packed(text=1, b=2, a=3), Rejection("unknown_field", detail="b")),
    ("a very long unknown field", packed(**{"n" * 500: 1}), Rejection("unknown_field", detail="n" * 100)),
    ("a number as text", packed(text=1), Rejection("type", detail="text")),
    ("the first of two wrong types", packed(id=1, text=1), Rejection("type", detail="id")),
    ("a wrong type behind the same field", b"\x82\xa2id\x01\xa2id\xa1q", Rejection("type")),
    ("bytes as id", packed(id=b"q"), Rejection("type", detail="id")),
    ("an empty id", packed(id=""), Rejection("type", detail="id")),
    ("a long id", packed(id="x" * 257), Rejection("type", detail="id")),
    ("text as embedding", packed(embedding="AAAA"), Rejection("type", detail="embedding")),
    ("no base64", as_json(embedding="!"), Rejection("type", detail="embedding")),
    ("NaN in JSON", b'{"embedding": [NaN]}', Rejection("format", detail="json")),
    ("a number beyond float64", b'{"embedding": [1e999]}', Rejection("type", detail="embedding")),
    ("a list of text", packed(embedding=["1"]), Rejection("type", detail="embedding")),
    ("a list as body", packed(body=[]), Rejection("type", detail="body")),
    ("a field that is a number", b"\x81\x01\x02", Rejection("type")),
    ("negative tokens", packed(input_tokens=-1), Rejection("type", detail="input_tokens")),
    ("absurd tokens", packed(input_tokens=10**9), Rejection("type", detail="input_tokens")),
    ("a fraction of a token", packed(max_output_tokens=0.5), Rejection("type", detail="max_output_tokens")),
    ("a boolean deadline", packed(deadline_ms=True), Rejection("type", detail="deadline_ms")),
    ("an absurd deadline", packed(deadline_ms=2**63), Rejection("type", detail="deadline_ms")),
    (
        "an integer that MessagePack cannot hold",
        b'{"parameters": {"n": [18446744073709551616]}}',
        Rejection("number", detail="parameters"),
    ),
    (
        "nested deeper than the limit",
        b'{"body": {"a": ' + b"[" * 65 + b"]" * 65 + b"}}",
        Rejection("nesting", MAX_NESTING, "body"),
    ),
]


@pytest.mark.parametrize(("value", "why"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_query_is_refused(value: bytes | None, why: Rejection) -> None:
    """Each bad value has a code, with the limit or the field where there is one."""
    assert read_query(value) == why


def test_nesting_up_to_the_limit_is_read() -> None:
    """The limit itself is allowed."""
    value = b'{"body": {"a": ' + b"[" * 64 + b"]" * 64 + b"}}"
    assert isinstance(read_query(value), Query)


BOMBS = [
    ("open lists in JSON", b'{"body": {"a": ' + b"[" * 900_000, "nesting"),
    ("open maps in MessagePack", b"\x81\xa4body" + b"\x81\xa1a" * 300_000, "nesting"),
    ("lists claiming 2^32 entries", b"\x81\xa4body\x81\xa1a" + b"\xdd\xff\xff\xff\xff" * 150_000, "nesting"),
    ("maps claiming 2^32 entries", b"\x81\xa4body" + b"\xdf\xff\xff\xff\xff\xa1a" * 100_000, "nesting"),
    ("an embedding claiming 2^32 numbers", b"\x81\xa9embedding\xdd\xff\xff\xff\xff\x01", "format"),
    ("bytes claiming 4 GB", b"\x81\xa9embedding\xc6\xff\xff\xff\xffxx", "format"),
    ("text claiming 4 GB", b"\x81\xa4text\xdb\xff\xff\xff\xffxx", "format"),
]


@pytest.mark.parametrize(("bomb", "code"), [c[1:] for c in BOMBS], ids=[c[0] for c in BOMBS])
def test_a_bomb_costs_no_memory(bomb: bytes, code: str) -> None:
    """No value takes memory by what it claims, only by what it holds."""
    tracemalloc.start()
    try:
        refused = read_query(bomb)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(refused, Rejection), "a bomb was read"
    assert refused.code == code, f"{refused}"
    assert peak_bytes < 10_000_000, f"{peak_bytes} bytes were taken"


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"\x81\xaaparameters" + tail))
def test_any_bytes_are_read_or_refused(value: bytes) -> None:
    """Any bytes give a Query or a Rejection, and a Query can be passed on."""
    query = read_query(value)
    if isinstance(query, Query):
        assert isinstance(read_query(bytes(codec.query_payload(value, query))), Query), f"{query} cannot be passed on"


SECRET = "the patient's name is Ada"
LEAKS = [
    ("wrong type beside it", packed(text=SECRET, id=3)),
    ("unknown field beside it", packed(text=SECRET, model="x")),
    ("truncated", packed(text=SECRET)[:-1]),
    ("as a wrong type", packed(embedding=SECRET)),
    ("in JSON that is cut", as_json(text=SECRET)[:-2]),
    ("in a number's place", as_json(input_tokens=SECRET)),
]


@pytest.mark.parametrize("value", [c[1] for c in LEAKS], ids=[c[0] for c in LEAKS])
def test_a_refusal_does_not_tell_the_text(value: bytes) -> None:
    """Reasons go to logs and metrics: no text of a query is in them."""
    refused = read_query(value)
    assert isinstance(refused, Rejection), f"{refused} was read"
    assert "Ada" not in f"{refused} {sentences.reason(refused)}"


# The text of a query

USER = {"role": "user", "content": "the question"}
# Embeddings

UNIT = [0.6, 0.8]
ROWS: list[tuple[str, bytes | list[float] | None, list[float], str | None]] = [
    ("float32", np.array([3, 4], "<f4").tobytes(), UNIT, None),
    ("numbers", [3.0, 4.0], UNIT, None),
    ("very large", [3e38, 0.0], [1.0, 0.0], None),
    ("very small", [1e-30, 0.0], [1.0, 0.0], None),
    ("none", None, [0.0, 0.0], None),
    ("too many bytes", bytes(9), [0.0, 0.0], "embedding_dimension"),
    ("empty", b"", [0.0, 0.0], "embedding_dimension"),
    ("too few numbers", [1.0], [0.0, 0.0], "embedding_dimension"),
    ("zeros", bytes(8), [0.0, 0.0], "embedding_zero"),
    ("zeros as numbers", [0.0, -0.0], [0.0, 0.0], "embedding_zero"),
    ("NaN", [float("nan"), 1.0], [0.0, 0.0], "embedding_nan"),
    ("float16 without a word", HALF, [0.0, 0.0], "embedding_ambiguous"),
    ("big-endian", np.array([3, 4], ">f4").tobytes(), [0.0, 0.0], "embedding_byte_order"),
    ("infinity", np.array([np.inf, 1], "<f4").tobytes(), [0.0, 0.0], "embedding_nan"),
    ("beyond float32", [1e39, 1.0], [0.0, 0.0], "embedding_nan"),
]


def test_embeddings_of_a_batch() -> None:
    """Each row is a unit vector or zeros with the reason, and no row depends on the others."""
    rows, problems = codec.embedding_rows([Query(embedding=case[1]) for case in ROWS], 2)
    codes = [problem and problem.code for problem in problems]
    assert codes == [case[3] for case in ROWS]
    assert np.round(rows.astype(np.float64), 6).tolist() == [case[2] for case in ROWS]


def test_float16_is_read_where_somebody_says_so() -> None:
    """The query says it, or the settings do. The query wins."""
    said = Query(embedding=HALF, embedding_dtype="float16")
    other = Query(embedding=HALF, embedding_dtype="float32")
    assert codec.embedding_rows([said], 2)[1] == [None]
    assert codec.embedding_rows([Query(embedding=HALF)], 2, "float16")[1] == [None]
    assert codec.embedding_rows([other], 2, "float16")[1] == [Rejection("embedding_dimension", 2, "4")]


def test_an_embedding_of_another_model_is_refused() -> None:
    """A query that names its embedder is compared with the index. A query that names none is taken."""
    rows = [Query(embedding=[3.0, 4.0], embedder=name) for name in ("e5", "wordllama", None)]
    _, problems = codec.embedding_rows(rows, 2, embedder="wordllama")
    assert problems == [Rejection("embedding_of_another_model", detail="e5"), None, None]


@pytest.mark.parametrize("embedding", [c[1] for c in ROWS], ids=[c[0] for c in ROWS])
def test_an_embedding_alone_is_as_in_a_batch(embedding: bytes | list[float] | None) -> None:
    """Bit for bit."""
    together, _ = codec.embedding_rows([Query(embedding=case[1]) for case in ROWS], 2)
    alone, _ = codec.embedding_rows([Query(embedding=embedding)], 2)
    assert alone.tobytes() == together[[case[1] for case in ROWS].index(embedding)].tobytes()


# Completions

FIELDS = ["status", "cost", "cost_micros", "cost_usd", "usage", "quality", "error", "error_class", "llm"]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_an_answer_is_read_whatever_else_is_wrong(fields: dict[str, Any]) -> None:
    """Only the id of the dispatch has to be right."""
    assert read_answer({"dispatch_id": "0-0-1", **fields}, 0) is not None


DONE = {"dispatch_id": "1-2-1", "origin_partition": 1, "llm": "a", "status": "ok"}
REFUSED_COMPLETIONS = [
    ("no dispatch", packed(status="ok"), Rejection("dispatch_id")),
    ("a dispatch that no lane makes", packed(**{**DONE, "dispatch_id": "1-02-1"}), Rejection("dispatch_id")),
    ("a number for a dispatch", packed(**{**DONE, "dispatch_id": 7}), Rejection("dispatch_id")),
    ("a dispatch of another partition", packed(**{**DONE, "dispatch_id": "5-2-1"}), Rejection("partition", detail="5")),
    (
        "nested usage",
        as_json(**DONE, usage={"a": json.loads("[" * 70 + "]" * 70)}),
        Rejection("nesting", MAX_NESTING, "completion"),
    ),
    ("not a map", b"\x01", Rejection("format", detail="0x01")),
    ("UTF-16", '{"a": 1}'.encode("utf-16"), Rejection("utf16")),
]


@pytest.mark.parametrize(
    ("value", "why"), [c[1:] for c in REFUSED_COMPLETIONS], ids=[c[0] for c in REFUSED_COMPLETIONS]
)
def test_a_completion_is_refused(value: bytes, why: Rejection) -> None:
    """Costs that cannot be never reach the ledger."""
    assert completion(value) == why


# What goes out


def test_headers_are_passed_on() -> None:
    """All headers of a query go on with its dispatch, but the content type is ours."""
    headers = [("traceparent", b"00-1-2-01"), ("Content-Type", b"application/json"), ("tenant", None), ("tenant", b"a")]
    assert codec.outgoing_headers(headers) == [
        ("traceparent", b"00-1-2-01"),
        ("tenant", None),
        ("tenant", b"a"),
        ("content-type", b"application/vnd.msgpack"),
    ]
