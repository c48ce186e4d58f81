"""Reads one line of a batch: a request, or why there is none. Pure.

| format | its id | its request |
|---|---|---|
| OpenAI, and all that take its batches | `custom_id` | `body` |
| Anthropic | `custom_id` | `params` |
| Bedrock | `recordId` | `modelInput` |
| Gemini | `key` | `request`, if it has the shape of another API |
| a request without an envelope | `custom_id`, else the line's number | the line |
| Tollgate's own query | `id`, else the line's number | the line |

The shape of a request says which API it is of. Its `url` counts where the shape fits two. Answers are whole: `stream`
is left out.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from worker.batch.faults import LineFault
from worker.contract import codec, extras, sentences
from worker.contract.asks import AUTO, wish_of
from worker.contract.codes import Dialect
from worker.contract.dialects import dialects_of
from worker.contract.messages import Query
from worker.contract.rejections import Limits
from worker.contract.requests import ASKED_IN, is_blank, question
from worker.inference.dialects import PATHS

BOM = b"\xef\xbb\xbf"
BLANKS = b" \t\r\n\x0b\x0c"
DIGEST_BYTES = 8
ID_PREFIX = "batch-"
# Fields of examples to train on or to grade, which nobody is asked.
EXPECTED_IN = ("completion", "output", "ideal", "expected", "expected_output", "target", "chosen", "rejected")
OWN_FIELDS = frozenset(Query.__struct_fields__)
OF_OPENAI = {"body", "url", "method"}
# The fields that hold the request and the id in other formats, and whether a line without an id has its number.
ENVELOPES = (("params", "custom_id", False), ("modelInput", "recordId", True), ("request", "key", True))
MOST_NAMED_CHARACTERS = 60

_decode = msgspec.json.Decoder().decode
_sorted = msgspec.json.Encoder(order="sorted").encode


class BatchLine(Struct, frozen=True):
    """A line that can be sent. `fields` are the fields of its query but for the id: a `body`, or a `text`.

    `models` are the LLMs that it names; none for any. `was_stream`: it asked for a stream.
    """

    custom_id: str
    fields: dict[str, Any]
    models: tuple[str, ...] = ()
    was_stream: bool = False


class Digests(NamedTuple):
    """What a line is known by: hashes of its id and of what it asks, 8 bytes each."""

    custom: int
    request: int

    def query_id(self, turn: int) -> str:
        """The id of its query; `turn` counts from 1 how often the line is asked."""
        return f"{ID_PREFIX}{self.custom:016x}-{self.request:016x}-{turn}"


def parse_query_id(text: str) -> tuple[Digests, int] | None:
    """The digests and the turn of a query id; None for the query of another producer."""
    parts = text.removeprefix(ID_PREFIX).split("-") if text.startswith(ID_PREFIX) else []
    if len(parts) != 3 or [len(part) for part in parts[:2]] != [2 * DIGEST_BYTES] * 2 or not parts[2].isdigit():
        return None
    try:
        return Digests(int(parts[0], 16), int(parts[1], 16)), int(parts[2])
    except ValueError:
        return None


def is_blank_line(raw: bytes) -> bool:
    """Whether a line holds nothing."""
    return not raw.strip(BLANKS)


def custom_digest(custom_id: str) -> int:
    """The hash of an id."""
    return int.from_bytes(blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest())


def digests_of(line: BatchLine) -> Digests:
    """What a line is known by."""
    asked = blake2b(_sorted(line.fields), digest_size=DIGEST_BYTES).digest()
    return Digests(custom_digest(line.custom_id), int.from_bytes(asked))


def query_value(line: BatchLine, query_id: str, deadline_ms: int | None) -> bytes:
    """The query of a line, as JSON. The line's own deadline wins where it is earlier."""
    fields: dict[str, Any] = {"id": query_id, **line.fields}
    if deadline_ms is not None:
        own = fields.get("deadline_ms")
        fields["deadline_ms"] = min(own, deadline_ms) if isinstance(own, int) else deadline_ms
    return msgspec.json.encode(fields)


def read_line(raw: bytes, number: int, limits: Limits, model: tuple[str, ...] = ()) -> BatchLine | LineFault:
    """The request of line `number`. `model` replaces the LLMs that the line wishes."""
    try:
        value = _decode(raw)
    except codec.UNREADABLE:
        return LineFault("invalid_json_line")
    if not isinstance(value, dict):
        return LineFault("invalid_json_line")
    read = _enveloped(value, number)
    if isinstance(read, LineFault):
        custom_id = value.get("custom_id")
        return msgspec.structs.replace(read, custom_id=custom_id if isinstance(custom_id, str) else None)
    line = _asked(read, model)
    if isinstance(line, BatchLine):
        line = _taken(line, limits)
    return msgspec.structs.replace(line, custom_id=read.custom_id) if isinstance(line, LineFault) else line


class _Found(NamedTuple):
    """The id and the request in a line. `is_query`: the request is Tollgate's own query, and not a body.

    `dialect` is the format that its address names.
    """

    custom_id: str
    request: dict[str, Any]
    is_query: bool = False
    dialect: Dialect | None = None


def _enveloped(value: dict[str, Any], number: int) -> _Found | LineFault:
    """The id and the request of a line in any of the formats."""
    if "response" in value or "result" in value:
        return LineFault("unsupported_format", "a result of a batch")
    if value.keys() & OF_OPENAI and not (value.keys() <= OWN_FIELDS and "custom_id" not in value):
        return _of_openai(value)
    for name, id_name, is_numbered in ENVELOPES:
        if name in value:
            return _found(value, id_name, value[name], number if is_numbered else None)
    return _bare(value, number)


def _bare(value: dict[str, Any], number: int) -> _Found | LineFault:
    """A request without an envelope, or a query of our own."""
    if any(name in value for name in EXPECTED_IN) or _is_example(value):
        return LineFault("unsupported_format", "an example of fine-tuning or of an evaluation")
    if any(name in value for name in ASKED_IN):
        request = {name: inner for name, inner in value.items() if name != "custom_id"}
        return _found(value, "custom_id", request, number)
    if value.keys() <= OWN_FIELDS and value.keys() & {"text", "body", "embedding"}:
        found = _found(value, "id", {name: inner for name, inner in value.items() if name != "id"}, number)
        return found if isinstance(found, LineFault) else found._replace(is_query=True)
    named = ", ".join(sorted(value)) or "none"
    return LineFault("unsupported_format", f"of no known format; its fields are {named[:MOST_NAMED_CHARACTERS]}")


def _is_example(value: dict[str, Any]) -> bool:
    """Whether messages without a model end with the answer: then they are to train on."""
    messages = value.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return "model" not in value and isinstance(last, dict) and last.get("role") == "assistant"


def _of_openai(value: dict[str, Any]) -> _Found | LineFault:
    found = _found(value, "custom_id", value.get("body"))
    if isinstance(found, LineFault):
        return found
    method, url = value.get("method"), value.get("url")
    if method is not None and (not isinstance(method, str) or method.upper() != "POST"):
        return LineFault("unsupported_method", _named(method), param="method")
    if url is None:
        return found
    dialect = _dialect(url) if isinstance(url, str) else None
    if dialect is None:
        return LineFault("unsupported_url", _named(url), param="url")
    return found._replace(dialect=dialect)


def _dialect(url: str) -> Dialect | None:
    """The format that the end of an address names; its host does not matter."""
    try:
        path = urlsplit(url).path.rstrip("/")
    except ValueError:
        return None
    # The path of chat completions ends as that of completions does, and comes first.
    return next((dialect for dialect, end in PATHS.items() if path.endswith(end)), None)


def _found(value: dict[str, Any], name: str, request: Any, number: int | None = None) -> _Found | LineFault:
    """The id under `name` and the request. Where `number` is given, it is the id of a line that has none."""
    custom_id = value.get(name)
    if custom_id is None and number is not None and name not in value:
        custom_id = str(number)
    if not isinstance(custom_id, str) or not custom_id:
        what = "missing" if name not in value else _named(custom_id) or "empty"
        return LineFault("custom_id", what if name == "custom_id" else f"{what} ({name})", param=name)
    if not isinstance(request, dict):
        what = "it is missing" if request is None else "it is not an object"
        return LineFault("invalid_body", what, param="body")
    return _Found(custom_id, request)


def _named(value: Any) -> str:
    """A value of an envelope in words, never long."""
    if isinstance(value, str):
        return value[:MOST_NAMED_CHARACTERS] or "empty"
    return "null" if value is None else f"{str(value)[:MOST_NAMED_CHARACTERS]}, not a text"


def _asked(found: _Found, model: tuple[str, ...]) -> BatchLine | LineFault:
    """The request as it is sent: without a stream, with the models that are wished."""
    body = found.request.get("body") if found.is_query else found.request
    if body is None:
        allowed = {} if AUTO in model or not model else {"allow": list(model)}
        return BatchLine(found.custom_id, found.request | allowed)
    if not isinstance(body, dict):
        return LineFault("invalid_body", "it is not an object", param="body")
    dialects = dialects_of(Query(body=body))
    if not dialects:
        return _shapeless(body)
    if not isinstance(body.get("stream"), bool | None):
        return LineFault("invalid_body", "stream is neither true nor false", param="stream")
    if not _is_wish(body.get("model")):
        return LineFault("invalid_body", "model is neither the name of an LLM nor a list of names", param="model")
    sent = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    if model:
        sent["model"] = model[0] if len(model) == 1 else list(model)
    fields: dict[str, Any] = {**found.request, "body": sent} if found.is_query else {"body": sent}
    if found.dialect in dialects and len(dialects) > 1:
        fields["dialect"] = found.dialect
    return BatchLine(found.custom_id, fields, was_stream=body.get("stream") is True)


def _shapeless(body: dict[str, Any]) -> LineFault:
    if "contents" in body:
        return LineFault("unsupported_format", "a request of Gemini's own API, which no LLM of `tollgate infer` takes")
    return LineFault("invalid_body", "it has neither messages nor input nor prompt", param="body")


def _is_wish(given: Any) -> bool:
    """Whether a `model` can be understood: the name of an LLM, a list of names, or none."""
    names = given if isinstance(given, list) and given else [given]
    return given is None or all(isinstance(one, str) and one.strip() for one in names)


def _taken(line: BatchLine, limits: Limits) -> BatchLine | LineFault:
    """The line with the LLMs that it names, if the router will take its query."""
    try:
        value = query_value(line, Digests(0, 0).query_id(1), None)
    except (ValueError, TypeError, RecursionError, OverflowError, UnicodeEncodeError):
        return LineFault("invalid_body", "it cannot be written as JSON", param="body")
    query = codec.decode_query(value, limits.max_bytes, limits.max_nesting)
    if isinstance(query, Query):
        query = extras.completed(query, ())
    if not isinstance(query, Query):
        size = f"it has {query.detail} bytes, and limits.max_query_bytes is {query.limit}"
        is_large = query.code == "too_large"
        return LineFault("request_too_large", size) if is_large else LineFault("invalid_body", sentences.reason(query))
    asked = question(query)
    if query.embedding is None and (asked is None or is_blank(asked)):
        return LineFault("refused_request", "no message of a user has a text", param="body")
    return msgspec.structs.replace(line, models=(*wish_of(query), *(query.allow or ())))
