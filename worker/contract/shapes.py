"""Makes a query of a record that is not in Tollgate's own shape, recognised by its fields. Pure.

| shape | recognised by | becomes |
|---|---|---|
| a request of a provider's API | `messages`, `input`, `prompt` or `contents` | its `body`, unchanged |
| a line of a batch file | `custom_id` or `url` | its `body` (Anthropic: `params`); the id is `custom_id` |
| a CloudEvent in structured mode | `specversion` | what its `data` or `data_base64` is; the id is `<source>#<id>` |

A CloudEvent can hold every other shape. Its id is of source and id, because only both together name an event
(CloudEvents 1.0, section "id").
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from worker.contract.codes import MAX_DETAIL_CHARACTERS, Dialect, Rejection
from worker.contract.dialects import asks_for_embeddings
from worker.contract.messages import Identity, Query
from worker.contract.requests import ASKED_IN

Given = Mapping[str, msgspec.Raw]
Decode = Callable[..., Any]

# Fields of a query that no request has. `text` and `max_output_tokens` are fields of Responses too.
ONLY_QUERY = tuple(name for name in Query.__struct_fields__ if name not in ("text", "max_output_tokens"))
LINE = ("custom_id", "method", "url", "body", "params")
# The end of a batch line's address, and the field that every request of that API has.
APIS: tuple[tuple[str, Dialect, str], ...] = (
    ("/chat/completions", "chat", "messages"),
    ("/completions", "completions", "prompt"),
    ("/responses", "responses", "input"),
    ("/messages", "messages", "messages"),
)


class Wrapped(NamedTuple):
    """A value inside a CloudEvent, to be read like a record's value, and its id if it has none of its own."""

    value: bytes
    id: str


class _Refuse(Exception):
    """Carries a Rejection out of nested calls; it does not leave this module."""

    def __init__(self, rejection: Rejection) -> None:
        self.rejection = rejection


def read_shape(given: Given, decode: Decode) -> Query | Wrapped | Rejection | None:
    """What the fields of a record are in another shape than a query's; None for fields in no known shape.

    `decode` decodes the bytes of one field. Raises its errors other than ValidationError.
    """
    try:
        if "specversion" in given:
            return _event(given, decode)
        if "custom_id" in given or "url" in given:
            return _line(given, decode)
        if any(name in given and _field(given, name, decode) is not None for name in ASKED_IN):
            return _request(given, decode)
    except _Refuse as refused:
        return refused.rejection
    return None


def _field(given: Given, name: str, decode: Decode, wanted: Any = Any) -> Any:
    """One field, None where it is absent."""
    if name not in given:
        return None
    try:
        return decode(given[name], type=wanted)
    except msgspec.ValidationError:
        raise _Refuse(Rejection("type", detail=name[:MAX_DETAIL_CHARACTERS])) from None


def _request(given: Given, decode: Decode) -> Query:
    body = {name: _field(given, name, decode) for name in given}
    own = [name for name in ONLY_QUERY if body.get(name) is not None]
    if isinstance(body.get("text"), str):
        own.append("text")
    if own:
        raise _Refuse(Rejection("beside_request", detail=own[0]))
    if asks_for_embeddings(body):
        raise _Refuse(Rejection("embeddings"))
    return Query(body=body)


def _line(given: Given, decode: Decode) -> Query:
    if unknown := [name for name in given if name not in LINE]:
        raise _Refuse(Rejection("unknown_field", detail=unknown[0][:MAX_DETAIL_CHARACTERS]))
    body_name = "params" if "params" in given else "body"
    body = _field(given, body_name, decode, dict[str, Any])
    if body is None:
        raise _Refuse(Rejection("type", detail=body_name))
    method, url = _field(given, "method", decode, str | None), _field(given, "url", decode, str | None)
    if method is not None and method.upper() != "POST":
        raise _Refuse(Rejection("type", detail="method"))
    dialect: Dialect | None = "messages" if body_name == "params" else None
    if url is not None:
        dialect = _dialect(url, body)
    return Query(id=_field(given, "custom_id", decode, Identity | None), body=body, dialect=dialect)


def _dialect(url: str, body: Mapping[str, Any]) -> Dialect:
    """The format that an address names. The host is not called: only the end of the path counts."""
    try:
        path = urlsplit(url).path.rstrip("/")
    except ValueError:
        path = ""
    for end, dialect, field in APIS:
        if path.endswith(end) and field in body:
            return dialect
        if path.endswith(end):
            break
    raise _Refuse(Rejection("batch_url", detail=url[:MAX_DETAIL_CHARACTERS]))


def _event(given: Given, decode: Decode) -> Wrapped:
    source, own = _field(given, "source", decode, str | None), _field(given, "id", decode, str | None)
    name = f"{source}#{own}" if source and own else own or ""
    if len(name) > 256:
        raise _Refuse(Rejection("type", detail="id"))
    if "data_base64" in given:
        text = _field(given, "data_base64", decode, str)
        try:
            return Wrapped(base64.b64decode(text, validate=True), name)
        except (binascii.Error, ValueError):
            raise _Refuse(Rejection("type", detail="data_base64")) from None
    if "data" not in given:
        raise _Refuse(Rejection("empty"))
    data = _field(given, "data", decode)
    return Wrapped(data if isinstance(data, bytes) else bytes(given["data"]), name)
