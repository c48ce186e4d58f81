"""Bytes to messages and back. Pure; everything from outside is measured, then decoded into types, and never trusted.

`msgpack.unpackb` preallocates by the lengths that a message claims, at every level; msgspec decodes into types and does
not. A value from outside that cannot be used gives a Rejection.

The code of a Rejection does not come from the wording of msgspec. A value is read in steps: its length, its first byte,
its types. If its types are wrong, its fields are read again one by one, as bytes: the first field that the message does
not have, else the first that is missing, else the first that is not of its type, is the detail of the Rejection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.contract.answers import Answer
from worker.contract.codes import MAX_DETAIL_CHARACTERS, RejectCode, Rejection
from worker.contract.decisions import Decision
from worker.contract.extras import late_seconds
from worker.contract.formats import Body, find_body, named_after_error
from worker.contract.messages import AccountRow, Configuration, Deferred, Dispatch, EmbeddingDtype, Query, Reservation
from worker.contract.record import UNREADABLE_HEADERS, Headers, Record, headers_bytes
from worker.contract.shapes import Wrapped, read_shape

# The two formats of a dispatch. Every other record that Tollgate writes is MessagePack.
Format = Literal["msgpack", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
CONTENT_TYPES: dict[Format, bytes] = {"msgpack": b"application/vnd.msgpack", "json": b"application/json"}
CONTENT_TYPE: list[tuple[str, bytes | None]] = [("content-type", CONTENT_TYPES["msgpack"])]

PACKED_INTEGERS = range(-(2**63), 2**64)
# What a query says of its embedding.
OF_EMBEDDINGS = ("embedding", "embedding_dtype", "embedder")
# The length of an embedding that no model makes. Read in the wrong byte order, numbers are as large as 1e38.
SHORTEST, LONGEST = 1e-6, 1e6

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder()

# The errors that our own decoders raise for bytes that are not one of our messages.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError, MemoryError)

_dispatch_msgpack = msgspec.msgpack.Decoder(Dispatch)
_dispatch_json = msgspec.json.Decoder(Dispatch)
_plain = msgspec.msgpack.Decoder()

decode_answer = msgspec.json.Decoder(Answer).decode
decode_deferred = msgspec.msgpack.Decoder(Deferred).decode
decode_decision = msgspec.msgpack.Decoder(Decision).decode
decode_account = msgspec.msgpack.Decoder(AccountRow).decode
decode_reservation = msgspec.msgpack.Decoder(Reservation).decode
decode_configuration = msgspec.msgpack.Decoder(Configuration).decode


def encode(message: msgspec.Struct) -> bytes:
    """One of our messages as MessagePack."""
    return _encode.encode(message)


class _Reject(Exception):
    """Carries a Rejection out of nested calls; it does not leave this module."""

    def __init__(self, code: RejectCode, detail: object = "", limit: int | None = None) -> None:
        self.rejection = Rejection(code, limit, str(detail)[:MAX_DETAIL_CHARACTERS])


class _QueryReader:
    """Reads queries from both formats."""

    def __init__(self) -> None:
        self._packed = msgspec.msgpack.Decoder(Query)
        self._json = msgspec.json.Decoder(Query)

    def read(self, value: bytes | None, max_bytes: int) -> Query:
        """The query in a record's value, or in the CloudEvent that it is. Raises _Reject."""
        found = _decoded(_body(value, max_bytes), self._typed)
        if isinstance(found, Query):
            return found
        inside = _decoded(_body(found.value, max_bytes), self._typed)
        if isinstance(inside, Wrapped):
            raise _Reject("unknown_field", "specversion")
        return inside if inside.id is not None else msgspec.structs.replace(inside, id=found.id or None)

    def is_as_it_came(self, data: bytes, query: Query) -> bool:
        """Whether MessagePack says the same as a query, so that its bytes can be passed on."""
        try:
            return self._packed.decode(data) == query
        except UNREADABLE:
            return False

    def _typed(self, body: Body) -> Query | Wrapped:
        try:
            return self._json.decode(body.data) if body.is_json else self._packed.decode(body.data)
        except msgspec.ValidationError:
            return self._by_field(body)

    def _by_field(self, body: Body) -> Query | Wrapped:
        """A record in another shape, or the query read field by field, with 12.0 as 12. Raises _Reject for the first
        field at fault."""
        decode: Any = msgspec.json.decode if body.is_json else msgspec.msgpack.decode
        try:
            given: Mapping[str, msgspec.Raw] = decode(body.data, type=dict[str, msgspec.Raw])
        except msgspec.ValidationError:
            raise _Reject("type") from None
        if given.keys() == {"schema", "payload"}:
            raise _Reject("connect_envelope")
        found = read_shape(given, decode)
        if isinstance(found, Rejection):
            raise _Reject(found.code, found.detail, found.limit)
        if found is not None:
            return found
        if unknown := [name for name in given if name not in Query.__struct_fields__]:
            raise _Reject("unknown_field", unknown[0])
        types = get_type_hints(Query, include_extras=True)
        return _mended({name: _field(decode, name, raw, types[name]) for name, raw in given.items()})


def _mended(values: Mapping[str, Any]) -> Query:
    """The query of these values, one of which at least was not as it was given."""
    if not any(isinstance(value, _Whole) for value in values.values()):
        # Every field that is left is right: a field was given twice.
        raise _Reject("type")
    mended: dict[str, Any] = {name: int(v) if isinstance(v, _Whole) else v for name, v in values.items()}
    return Query(**mended)


class _Whole(int):
    """A whole number that was given as a float."""


def _field(decode: Any, name: str, raw: msgspec.Raw, wanted: Any) -> Any:
    try:
        return decode(raw, type=wanted)
    except msgspec.ValidationError:
        pass
    try:
        value = decode(raw)
        if isinstance(value, float) and value.is_integer():
            return _Whole(msgspec.convert(int(value), wanted))
    except UNREADABLE:
        pass
    raise _Reject("type", name)


def _body(value: bytes | None, max_bytes: int) -> Body:
    """The object or map in a record's value. Raises _Reject."""
    if not value:
        raise _Reject("empty")
    if len(value) > max_bytes:
        raise _Reject("too_large", len(value), max_bytes)
    found = find_body(value)
    if isinstance(found, Body):
        return found
    raise _Reject(found, f"0x{value[0]:02x}" if found == "format" else "")


def _decoded(body: Body, decode: Callable[[Body], T]) -> T:
    """What `decode` makes of a body. Raises _Reject."""
    try:
        return decode(body)
    except RecursionError:
        raise _Reject("nesting") from None
    except UNREADABLE:
        named = named_after_error(body)
        raise (_Reject(named) if named else _Reject("format", "json" if body.is_json else "msgpack")) from None


_queries = _QueryReader()
_fields_packed = msgspec.msgpack.Decoder(dict[str, Any])
_fields_json = msgspec.json.Decoder(dict[str, Any])


# Queries


def decode_query(value: bytes | None, max_bytes: int, max_nesting: int) -> Query | Rejection:
    """A record's value as a Query, or why it is not one."""
    try:
        query = _queries.read(value, max_bytes)
        for name, inside in (("body", query.body), ("parameters", query.parameters)):
            _check_inside(name, inside, max_nesting)
    except _Reject as problem:
        return problem.rejection
    return late_seconds(query.deadline_ms) or query


def check_headers(record: Record, max_bytes: int) -> Rejection | None:
    """Why a record's key and headers cannot be passed on; None if they can."""
    if record.headers == UNREADABLE_HEADERS:
        return Rejection("header_name")
    if (size := headers_bytes(record)) > max_bytes:
        return Rejection("headers", max_bytes, str(size))
    return None


def query_payload(value: bytes | None, query: Query) -> msgspec.Raw:
    """The query to pass on, as MessagePack: the bytes of `value` if they say the same as `query`, else `query` anew.

    Inference workers and those who read deferrals so find a query in Tollgate's own shape, whatever came.
    """
    assert value is not None, "`query` was decoded from it"
    body = find_body(value)
    assert isinstance(body, Body), "`query` was decoded from it"
    if not body.is_json and _queries.is_as_it_came(body.data, query):
        return msgspec.Raw(body.data)
    return msgspec.Raw(_encode.encode(query))


def embedding_rows(
    queries: Sequence[Query], dimension: int, dtype: EmbeddingDtype | None = None, embedder: str | None = None
) -> tuple[NDArray[np.float32], list[Rejection | None]]:
    """The embeddings that queries bring, float32 [n, dimension], L2-normalised, and what is wrong with each.

    A query without an embedding has a row of zeros and no problem. Bytes are float32; they are float16 only where the
    query or `dtype` says so, because float16 bytes of one model have the length of float32 bytes of a model with half
    as many numbers. `embedder` is the one that the index was built with; None where it is not known.
    """
    rows = np.zeros((len(queries), dimension), dtype=np.float32)
    problems: list[Rejection | None] = [None] * len(queries)
    for row, query in enumerate(queries):
        if query.embedding is not None:
            problems[row] = _read_embedding(query, rows[row], query.embedding_dtype or dtype, embedder)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    usable = np.isfinite(lengths) & (lengths > 0)
    for row in np.flatnonzero(~usable | (lengths > LONGEST) | (lengths < SHORTEST)).tolist():
        embedding = queries[row].embedding
        if embedding is not None and problems[row] is None:
            problems[row] = _bad_numbers(embedding, lengths[row])
            usable[row] &= problems[row] is None
    # In float64: the length of a row of large float32 numbers need not be a float32.
    rows[usable] = rows[usable] / lengths[usable, None]
    rows[~usable] = 0.0
    return rows, problems


def _read_embedding(
    query: Query, row: NDArray[np.float32], dtype: EmbeddingDtype | None, embedder: str | None
) -> Rejection | None:
    """Write an embedding into `row`. Returns what is wrong with it, other than its numbers."""
    embedding = query.embedding
    assert embedding is not None, "the caller asks for queries with an embedding"
    if query.embedder is not None and embedder is not None and query.embedder != embedder:
        return Rejection("embedding_of_another_model", detail=query.embedder[:MAX_DETAIL_CHARACTERS])
    if isinstance(embedding, list):
        if len(embedding) != len(row):
            return Rejection("embedding_dimension", len(row), str(len(embedding)))
        with np.errstate(over="ignore"):
            row[:] = embedding
        return None
    if len(embedding) == 4 * len(row) and dtype != "float16":
        row[:] = np.frombuffer(embedding, "<f4")
    elif len(embedding) == 2 * len(row) and dtype == "float16":
        row[:] = np.frombuffer(embedding, "<f2")
    elif len(embedding) == 2 * len(row) and dtype is None:
        return Rejection("embedding_ambiguous", len(row), str(len(embedding)))
    else:
        return Rejection("embedding_dimension", len(row), str(len(embedding)))
    return None


def _bad_numbers(embedding: bytes | list[float], length: float) -> Rejection | None:
    """What is wrong with the numbers of an embedding of this length; None for an unusual length alone."""
    if isinstance(embedding, bytes) and len(embedding) % 4 == 0:
        with np.errstate(over="ignore", invalid="ignore"):
            swapped = float(np.linalg.norm(np.frombuffer(embedding, ">f4").astype(np.float64)))
        if not SHORTEST <= length <= LONGEST and SHORTEST <= swapped <= LONGEST:
            return Rejection("embedding_byte_order")
    if length == 0:
        return Rejection("embedding_zero")
    return None if np.isfinite(length) else Rejection("embedding_nan")


# Dispatches


def dispatched_query(payload: msgspec.Raw, form: Format) -> msgspec.Raw:
    """The query of a dispatch, from the MessagePack of `query_payload`: all of it except the embedding.

    An embedding is for the router. An LLM has no use for it, and it is often larger than all the rest.
    """
    query = _plain.decode(payload)
    found = [query.pop(name, None) for name in OF_EMBEDDINGS] if isinstance(query, dict) else []
    has_embedding = any(value is not None for value in found)
    if form == "json":
        return msgspec.Raw(_as_json(query))
    return msgspec.Raw(_encode.encode(query)) if has_embedding else payload


def _as_json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except TypeError:
        return msgspec.json.encode(_without_extensions(value))


def _without_extensions(value: Any) -> Any:
    """The same for JSON, which has no extension types, and names of text only."""
    if isinstance(value, dict):
        return {name if isinstance(name, str) else str(name): _without_extensions(of) for name, of in value.items()}
    if isinstance(value, list | tuple):
        return [_without_extensions(each) for each in value]
    return bytes(value.data) if isinstance(value, msgspec.msgpack.Ext) else value


def encode_dispatch(dispatch: Dispatch, form: Format) -> bytes:
    """A dispatch as it is published. Its `query` is the MessagePack of `query_payload`."""
    sent = msgspec.structs.replace(dispatch, query=dispatched_query(dispatch.query, form))
    return msgspec.json.encode(sent) if form == "json" else _encode.encode(sent)


def format_of(value: bytes) -> Format:
    """The format of a dispatch, from its first byte."""
    return "json" if value[:1] == b"{" else "msgpack"


def decode_dispatch(value: bytes) -> Dispatch:
    """A dispatch in either format; its `query` stays in that format. Raises the errors of UNREADABLE."""
    return (_dispatch_json if format_of(value) == "json" else _dispatch_msgpack).decode(value)


# Completions


def completion_fields(value: bytes | None, max_bytes: int, max_nesting: int) -> dict[str, Any] | Rejection:
    """The fields of a completion's value, or why it has none."""
    return record_fields("completion", value, max_bytes, max_nesting)


def record_fields(name: str, value: bytes | None, max_bytes: int, max_nesting: int) -> dict[str, Any] | Rejection:
    """The fields of a record's value, or why it has none. `name` says what the record is."""
    try:
        fields = _decoded(_body(value, max_bytes), _fields)
        _check_inside(name, fields, max_nesting)
    except _Reject as problem:
        return problem.rejection
    return fields


def _fields(body: Body) -> dict[str, Any]:
    return _fields_json.decode(body.data) if body.is_json else _fields_packed.decode(body.data)


# Both


def _check_inside(name: str, inside: Any, max_nesting: int) -> None:
    """Raise _Reject for a value without a type of ours that cannot be passed on."""
    if inside is None:
        return
    level, values = 0, [inside]
    while values := [child for value in values for child in _children(value)]:
        level += 1
        if level > max_nesting:
            raise _Reject("nesting", name, max_nesting)
        if any(type(value) is int and value not in PACKED_INTEGERS for value in values):
            raise _Reject("number", name)


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


# What goes out


def outgoing_headers(headers: Headers, form: Format = "msgpack") -> list[tuple[str, bytes | None]]:
    """A query's headers as its dispatch or deferral carries them: all of them, with the content type of `form`."""
    own = [("content-type", CONTENT_TYPES[form])]
    return [*((name, value) for name, value in headers if name.lower() != "content-type"), *own]
