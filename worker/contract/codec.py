"""Bytes to messages and back. Pure; everything from outside is measured, then decoded into types, and never trusted.

`msgpack.unpackb` preallocates by the lengths that a message claims, at every level; msgspec decodes into types and does
not. A value from outside that cannot be used gives a Rejection.

The code of a Rejection does not come from the wording of msgspec. A value is read in steps: its length, its first byte,
its types. If its types are wrong, its fields are read again one by one, as bytes: the first field that the message does
not have, else the first that is missing, else the first that is not of its type, is the detail of the Rejection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar, get_args, get_type_hints

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.contract.answers import Answer
from worker.contract.codes import MAX_DETAIL_CHARACTERS, RejectCode, Rejection
from worker.contract.messages import (
    AccountRow,
    Completion,
    Configuration,
    Decision,
    Deferred,
    Dispatch,
    Query,
    Reservation,
)
from worker.contract.record import UNREADABLE_HEADERS, Headers, Record, headers_bytes
from worker.contract.tokens import approximate_tokens

# The two formats of a dispatch. Every other record that Tollgate writes is MessagePack.
Format = Literal["msgpack", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
CONTENT_TYPES: dict[Format, bytes] = {"msgpack": b"application/vnd.msgpack", "json": b"application/json"}
CONTENT_TYPE: list[tuple[str, bytes | None]] = [("content-type", CONTENT_TYPES["msgpack"])]

# A Confluent frame: a zero byte and a four-byte schema id.
FRAME_BYTES = 5
JSON_OBJECT = 0x7B
SMALL_MAPS = range(0x80, 0x90)
MAP_16, MAP_32 = 0xDE, 0xDF
PACKED_INTEGERS = range(-(2**63), 2**64)

M = TypeVar("M", bound=msgspec.Struct)

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


class _Reader(Generic[M]):
    """Reads one type of message from both formats."""

    def __init__(self, message: type[M]) -> None:
        self._message = message
        self._packed = msgspec.msgpack.Decoder(message)
        self._json = msgspec.json.Decoder(message)

    def read(self, value: bytes | None, max_bytes: int) -> M:
        """The message in a record's value. Raises _Reject."""
        if not value:
            raise _Reject("empty")
        if len(value) > max_bytes:
            raise _Reject("too_large", len(value), max_bytes)
        body = _unframed(value)
        is_json = body[0] == JSON_OBJECT
        try:
            return self._typed(body, is_json)
        except RecursionError:
            raise _Reject("nesting") from None
        except UNREADABLE:
            raise _Reject("format", "json" if is_json else "msgpack") from None

    def _typed(self, body: bytes, is_json: bool) -> M:
        try:
            return self._json.decode(body) if is_json else self._packed.decode(body)
        except msgspec.ValidationError:
            raise self._wrong_field(body, is_json) from None

    def _wrong_field(self, body: bytes, is_json: bool) -> _Reject:
        decode: Any = msgspec.json.decode if is_json else msgspec.msgpack.decode
        try:
            given: Mapping[str, msgspec.Raw] = decode(body, type=dict[str, msgspec.Raw])
        except msgspec.ValidationError:
            return _Reject("type")
        fields = msgspec.structs.fields(self._message)
        if unknown := [name for name in given if name not in {field.name for field in fields}]:
            return _Reject("unknown_field", unknown[0])
        if missing := [field.name for field in fields if field.required and field.name not in given]:
            return _Reject("missing_field", missing[0])
        types = get_type_hints(self._message, include_extras=True)
        for name, raw in given.items():
            try:
                decode(raw, type=types[name])
            except msgspec.ValidationError:
                return _Reject("type", name)
        return _Reject("type")


_queries = _Reader(Query)
_completions = _Reader(Completion)


# Queries


def decode_query(value: bytes | None, max_bytes: int, max_nesting: int) -> Query | Rejection:
    """A record's value as a Query, or why it is not one."""
    try:
        query = _queries.read(value, max_bytes)
        for name, inside in (("body", query.body), ("parameters", query.parameters)):
            _check_inside(name, inside, max_nesting)
    except _Reject as problem:
        return problem.rejection
    return query


def check_headers(record: Record, max_bytes: int) -> Rejection | None:
    """Why a record's key and headers cannot be passed on; None if they can."""
    if record.headers == UNREADABLE_HEADERS:
        return Rejection("header_name")
    if (size := headers_bytes(record)) > max_bytes:
        return Rejection("headers", max_bytes, str(size))
    return None


def query_payload(value: bytes | None, query: Query) -> msgspec.Raw:
    """The query to pass on, as MessagePack: the bytes of `value` as they came, or, if they are JSON, `query` anew."""
    assert value is not None, "`query` was decoded from it"
    body = _unframed(value)
    return msgspec.Raw(_encode.encode(query) if body[0] == JSON_OBJECT else body)


def query_text(query: Query) -> str | None:
    """The text to embed: `text`, or the last user message of `body` that has any; None where all are blank."""
    if query.text is not None and query.text.strip():
        return query.text
    messages = query.body.get("messages") if query.body is not None else None
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            text = _content_text(message.get("content"))
            if text is not None and text.strip():
                return text
    return None


def _content_text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "\n".join(part for part in parts if isinstance(part, str)) or None


def input_tokens(query: Query, text: str | None) -> float:
    """The query's input tokens: as given, or from the length of its text; nan where both are unknown."""
    if query.input_tokens is not None:
        return float(query.input_tokens)
    return float(approximate_tokens(text)) if text else float("nan")


def embedding_rows(queries: Sequence[Query], dimension: int) -> tuple[NDArray[np.float32], list[Rejection | None]]:
    """The embeddings that queries bring, float32 [n, dimension], L2-normalised, and what is wrong with each.

    A query without an embedding has a row of zeros and no problem.
    """
    rows = np.zeros((len(queries), dimension), dtype=np.float32)
    problems: list[Rejection | None] = [None] * len(queries)
    for row, query in enumerate(queries):
        if query.embedding is not None:
            problems[row] = _read_embedding(query.embedding, rows[row])
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    usable = np.isfinite(lengths) & (lengths > 0)
    for row in np.flatnonzero(~usable).tolist():
        if queries[row].embedding is not None and problems[row] is None:
            problems[row] = Rejection("embedding_zero" if lengths[row] == 0 else "embedding_nan")
    # In float64: the length of a row of large float32 numbers need not be a float32.
    rows[usable] = rows[usable] / lengths[usable, None]
    rows[~usable] = 0.0
    return rows, problems


def _read_embedding(embedding: bytes | list[float], row: NDArray[np.float32]) -> Rejection | None:
    """Write an embedding into `row`. Returns what is wrong with its length."""
    if isinstance(embedding, bytes):
        if len(embedding) == 2 * len(row):
            row[:] = np.frombuffer(embedding, "<f2")
        elif len(embedding) == 4 * len(row):
            row[:] = np.frombuffer(embedding, "<f4")
        else:
            return Rejection("embedding_dimension", len(row), str(len(embedding)))
    elif len(embedding) == len(row):
        with np.errstate(over="ignore"):
            row[:] = embedding
    else:
        return Rejection("embedding_dimension", len(row), str(len(embedding)))
    return None


# Dispatches


def dispatched_query(payload: msgspec.Raw, form: Format) -> msgspec.Raw:
    """The query of a dispatch, from the MessagePack of `query_payload`: all of it except the embedding.

    An embedding is for the router. An LLM has no use for it, and it is often larger than all the rest.
    """
    query = _plain.decode(payload)
    has_embedding = isinstance(query, dict) and query.pop("embedding", None) is not None
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


def decode_completion(
    value: bytes | None, max_bytes: int, max_nesting: int, max_cost_micros: int
) -> Completion | Rejection:
    """A record's value as a Completion with a possible cost, or why it is not one."""
    try:
        completion = _completions.read(value, max_bytes)
        _check_inside("usage", completion.usage, max_nesting)
        cost_micros = completion.cost_micros
        if cost_micros is not None and not 0 <= cost_micros <= max_cost_micros:
            raise _Reject("cost", cost_micros, max_cost_micros)
    except _Reject as problem:
        return problem.rejection
    return completion


# Both


def _unframed(value: bytes) -> bytes:
    body = value[FRAME_BYTES:] if value[0] == 0 and len(value) > FRAME_BYTES else value
    first = body[0]
    if first != JSON_OBJECT and first not in SMALL_MAPS and first not in (MAP_16, MAP_32):
        raise _Reject("format", f"0x{first:02x}")
    return body


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
