"""Bytes to messages and back. Pure; everything from outside is measured, then decoded into types, and never trusted.

`msgpack.unpackb` preallocates by the lengths that a message claims, at every level; msgspec decodes into types and does
not. A record that cannot be used raises RejectRecord, whose text never holds a query's text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.contract.errors import RejectRecord
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
from worker.contract.record import UNREADABLE_HEADERS, Headers, Record
from worker.contract.tokens import approximate_tokens

# The two formats of a dispatch. Every other record that Tollgate writes is MessagePack.
Format = Literal["msgpack", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
CONTENT_TYPES: dict[Format, bytes] = {"msgpack": b"application/vnd.msgpack", "json": b"application/json"}
CONTENT_TYPE: list[tuple[str, bytes | None]] = [("content-type", CONTENT_TYPES["msgpack"])]

# The lengths of a header's name and value, as Kafka writes them.
HEADER_LENGTHS_BYTES = 10

# A Confluent frame: a zero byte and a four-byte schema id.
FRAME_BYTES = 5
JSON_OBJECT = 0x7B
SMALL_MAPS = range(0x80, 0x90)
MAP_16, MAP_32 = 0xDE, 0xDF
PACKED_INTEGERS = range(-(2**63), 2**64)

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder()
_query_msgpack = msgspec.msgpack.Decoder(Query)
_query_json = msgspec.json.Decoder(Query)
_completion_msgpack = msgspec.msgpack.Decoder(Completion)
_completion_json = msgspec.json.Decoder(Completion)

# What our own decoders raise for bytes that are none of ours.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError, MemoryError)

_dispatch_msgpack = msgspec.msgpack.Decoder(Dispatch)
_dispatch_json = msgspec.json.Decoder(Dispatch)
_plain = msgspec.msgpack.Decoder()

decode_deferred = msgspec.msgpack.Decoder(Deferred).decode
decode_decision = msgspec.msgpack.Decoder(Decision).decode
decode_account = msgspec.msgpack.Decoder(AccountRow).decode
decode_reservation = msgspec.msgpack.Decoder(Reservation).decode
decode_configuration = msgspec.msgpack.Decoder(Configuration).decode


def encode(message: msgspec.Struct) -> bytes:
    """One of our messages as MessagePack."""
    return _encode.encode(message)


# Queries


def decode_query(value: bytes | None, max_bytes: int, max_nesting: int) -> Query:
    """A record's value as a Query. Raises RejectRecord."""
    query = _decoded(value, max_bytes, _query_msgpack, _query_json)
    for name, inside in (("body", query.body), ("parameters", query.parameters)):
        _check_inside(name, inside, max_nesting)
    return query


def check_headers(record: Record, max_bytes: int) -> None:
    """Raise RejectRecord for headers that cannot be passed on, or a key that is too large beside them."""
    if record.headers == UNREADABLE_HEADERS:
        raise RejectRecord("headers", "the name of a header is not UTF-8")
    if (size := _headers_bytes(record)) > max_bytes:
        raise RejectRecord("headers", f"{size} bytes of key and headers, but {max_bytes} is the limit")


def _headers_bytes(record: Record) -> int:
    return len(record.key or b"") + sum(map(_header_bytes, record.headers))


def _header_bytes(header: tuple[str, bytes | None]) -> int:
    return HEADER_LENGTHS_BYTES + len(header[0].encode()) + len(header[1] or b"")


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


def embedding_rows(queries: Sequence[Query], dimension: int) -> tuple[NDArray[np.float32], list[RejectRecord | None]]:
    """The embeddings that queries bring, float32 [n, dimension], L2-normalised, and what is wrong with each.

    A query without an embedding has a row of zeros and no problem.
    """
    rows = np.zeros((len(queries), dimension), dtype=np.float32)
    problems: list[RejectRecord | None] = [None] * len(queries)
    for row, query in enumerate(queries):
        if query.embedding is not None:
            problems[row] = _read_embedding(query.embedding, rows[row])
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    usable = np.isfinite(lengths) & (lengths > 0)
    for row in np.flatnonzero(~usable).tolist():
        if queries[row].embedding is not None and problems[row] is None:
            problems[row] = _bad_numbers(lengths[row])
    # In float64: the length of a row of large float32 numbers need not be a float32.
    rows[usable] = rows[usable] / lengths[usable, None]
    rows[~usable] = 0.0
    return rows, problems


def _read_embedding(embedding: bytes | list[float], row: NDArray[np.float32]) -> RejectRecord | None:
    """Write an embedding into `row`; returns what is wrong with its length."""
    if isinstance(embedding, bytes):
        if len(embedding) == 2 * len(row):
            row[:] = np.frombuffer(embedding, "<f2")
        elif len(embedding) == 4 * len(row):
            row[:] = np.frombuffer(embedding, "<f4")
        else:
            return _bad_length(f"{len(embedding)} bytes", len(row))
    elif len(embedding) == len(row):
        with np.errstate(over="ignore"):
            row[:] = embedding
    else:
        return _bad_length(f"{len(embedding)} numbers", len(row))
    return None


def _bad_length(given: str, dimension: int) -> RejectRecord:
    wanted = f"{dimension} numbers, as float16 ({2 * dimension} bytes) or float32 ({4 * dimension} bytes)"
    return RejectRecord("embedding_dimension", f"embedding: {given}, but the index has {wanted}")


def _bad_numbers(length: float) -> RejectRecord:
    if length == 0:
        return RejectRecord("embedding_zero", "embedding: all zeros point nowhere")
    return RejectRecord("embedding_nan", "embedding: holds NaN or infinity")


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


def decode_completion(value: bytes | None, max_bytes: int, max_nesting: int, max_cost_micros: int) -> Completion:
    """A record's value as a Completion of a cost that can be. Raises RejectRecord."""
    completion = _decoded(value, max_bytes, _completion_msgpack, _completion_json)
    _check_inside("usage", completion.usage, max_nesting)
    cost_micros = completion.cost_micros
    if cost_micros is not None and not 0 <= cost_micros <= max_cost_micros:
        raise RejectRecord(
            "cost", f"cost_micros: {cost_micros} is not between 0 and {max_cost_micros} (limits.max_cost_usd)"
        )
    return completion


# Both


def _decoded(
    value: bytes | None, max_bytes: int, packed: msgspec.msgpack.Decoder[T], json: msgspec.json.Decoder[T]
) -> T:
    if not value:
        raise RejectRecord("empty", "no value")
    if len(value) > max_bytes:
        raise RejectRecord("too_large", f"{len(value)} bytes, but {max_bytes} is the limit")
    body = _unframed(value)
    decoder = json if body[0] == JSON_OBJECT else packed
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        _refuse_type(error)
    except RecursionError:
        raise RejectRecord("nesting", "nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise RejectRecord("format", f"not readable as {_name(body)}: {_scrubbed(str(error))}") from None


def _unframed(value: bytes) -> bytes:
    body = value[FRAME_BYTES:] if value[0] == 0 and len(value) > FRAME_BYTES else value
    first = body[0]
    if first != JSON_OBJECT and first not in SMALL_MAPS and first not in (MAP_16, MAP_32):
        raise RejectRecord("format", f"the first byte is 0x{first:02x}: neither a MessagePack map nor a JSON object")
    return body


def _name(body: bytes) -> str:
    return "JSON" if body[0] == JSON_OBJECT else "MessagePack"


def _refuse_type(error: msgspec.ValidationError) -> NoReturn:
    text = str(error)
    code = "unknown_field" if "unknown field" in text else "type"
    raise RejectRecord(code, _scrubbed(text)) from None


def _scrubbed(text: str) -> str:
    """An error's text on one line of bounded length; msgspec names fields and types, never values of ours."""
    return re.sub(r"\s+", " ", text)[:200]


def _check_inside(name: str, inside: Any, max_nesting: int) -> None:
    """Raise RejectRecord for what has no type of ours and cannot be passed on."""
    if inside is None:
        return
    level, values = 0, [inside]
    while values := [child for value in values for child in _children(value)]:
        level += 1
        if level > max_nesting:
            raise RejectRecord("nesting", f"{name}: nested deeper than {max_nesting} levels")
        if any(type(value) is int and value not in PACKED_INTEGERS for value in values):
            raise RejectRecord("number", f"{name}: holds an integer beyond 64 bits, which MessagePack has not")


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


# What goes out


def outgoing_headers(headers: Headers, form: Format = "msgpack") -> list[tuple[str, bytes | None]]:
    """A query's headers as its dispatch or deferral carries them: all of them, with the content type of `form`."""
    own = [("content-type", CONTENT_TYPES[form])]
    return [*((name, value) for name, value in headers if name.lower() != "content-type"), *own]


class DeadLetter(NamedTuple):
    """A record as received, with headers that say what was wrong."""

    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: list[tuple[str, bytes | None]]


def dead_letter(record: Record, reason: str, code: str, max_bytes: int, max_header_bytes: int) -> DeadLetter:
    """The record with Kafka Connect's `__connect.errors.*` headers (KIP-298).

    A value beyond `max_bytes`, and a key and headers beyond `max_header_bytes`, are cut; `tollgate.*` headers say so.
    """
    errors = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "stage": "TASK_PUT" if code == "unmatched" else "VALUE_CONVERTER",
        "exception.class.name": f"tollgate.{code}",
        "exception.message": reason,
    }
    key, headers, cut = _cut_headers(record, max_header_bytes)
    value = record.value
    if value is not None and len(value) > max_bytes:
        cut["tollgate.truncated.bytes"] = str(len(value))
        value = value[:max_bytes]
    said = {**{f"__connect.errors.{name}": text for name, text in errors.items()}, **cut}
    headers += [(name, text.encode()) for name, text in said.items()]
    return DeadLetter(key, value, max(record.timestamp, 0), headers)


def _cut_headers(record: Record, max_bytes: int) -> tuple[bytes | None, list[tuple[str, bytes | None]], dict[str, str]]:
    """A key and headers of `max_bytes` at most, and headers that say what is missing."""
    key, headers, cut = record.key, list(record.headers), dict[str, str]()
    if _headers_bytes(record) <= max_bytes:
        return key, headers, cut
    if key is not None and len(key) > max_bytes // 2:
        cut["tollgate.truncated.key.bytes"] = str(len(key))
        key = key[: max_bytes // 2]
    sizes = accumulate(map(_header_bytes, headers), initial=len(key or b""))
    kept = sum(size <= max_bytes for size in sizes) - 1
    if kept < len(headers):
        cut["tollgate.dropped.headers"] = str(len(headers) - kept)
    return key, headers[:kept], cut
