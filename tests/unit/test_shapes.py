"""A request of a provider's API is a query as it is, also as a batch line and inside a CloudEvent."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from worker.contract import codec, sentences
from worker.contract.codes import Dialect, Rejection
from worker.contract.dialects import dialects_of
from worker.contract.messages import Query
from worker.contract.requests import question

ASK = "Why is the river?"
USER = {"role": "user", "content": ASK}
CHAT = {"model": "x", "messages": [USER], "temperature": 0.5, "stream": True, "unheard_of": [1, None]}
RESPONSES = {"model": "x", "input": ASK, "text": {"format": {"type": "text"}}, "max_output_tokens": 5}
MESSAGES = {"model": "x", "max_tokens": 100, "system": "be brief", "messages": [USER]}
COMPLETIONS = {"model": "x", "prompt": ASK, "max_tokens": 5}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": ASK}]}]}
REQUESTS = [CHAT, RESPONSES, MESSAGES, COMPLETIONS, GEMINI]
NAMES = ["chat", "responses", "messages", "completions", "gemini"]
EVENT = {"specversion": "1.0", "id": "1", "source": "/a", "type": "q", "datacontenttype": "application/json"}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}


def packed(value: object) -> bytes:
    content: bytes = msgpack.packb(value)
    return content


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


FORMATS = [packed, as_json]


def read(value: bytes) -> Query | Rejection:
    return codec.decode_query(value, 1_000_000, 64)


def line(url: str | None, body: object, **more: object) -> dict[str, object]:
    """A line of a batch file."""
    return {"custom_id": "r-1", "method": "POST", "body": body, **({} if url is None else {"url": url}), **more}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("request_", REQUESTS, ids=NAMES)
def test_a_bare_request_is_a_query(request_: dict[str, Any], form: Callable[[object], bytes]) -> None:
    """The whole request is the body, unchanged, and its question is found."""
    query = read(form(request_))
    assert query == Query(body=request_)
    assert question(query) == ASK


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("request_", REQUESTS, ids=NAMES)
def test_a_cloud_event_carries_a_request(request_: dict[str, Any], form: Callable[[object], bytes]) -> None:
    """Its data is read like a record of its own; the id is of source and id, which name an event together."""
    assert read(form(EVENT | {"data": request_})) == Query(id="/a#1", body=request_)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("inside", FORMATS)
def test_a_cloud_event_carries_base64(inside: Callable[[object], bytes], form: Callable[[object], bytes]) -> None:
    """`data_base64` can be in either format, whatever the format of the event."""
    event = EVENT | {"data_base64": base64.b64encode(inside(CHAT)).decode()}
    assert read(form(event)) == Query(id="/a#1", body=CHAT)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_passed_on_is_a_query(form: Callable[[object], bytes]) -> None:
    """An inference worker finds the request under `body`, whatever shape it came in."""
    for record in (CHAT, line("/v1/chat/completions", CHAT), EVENT | {"data": CHAT}):
        value = form(record)
        query = read(value)
        assert isinstance(query, Query), query
        passed = msgpack.unpackb(bytes(codec.query_payload(value, query)))
        assert passed["body"] == CHAT


READ: list[tuple[str, object, Query]] = [
    ("a batch line", line("/v1/chat/completions", CHAT), Query(id="r-1", body=CHAT, dialect="chat")),
    ("for Responses", line("/v1/responses", RESPONSES), Query(id="r-1", body=RESPONSES, dialect="responses")),
    ("for Messages", line("/v1/messages", MESSAGES), Query(id="r-1", body=MESSAGES, dialect="messages")),
    ("for Completions", line("/v1/completions", COMPLETIONS), Query(id="r-1", body=COMPLETIONS, dialect="completions")),
    (
        "with a whole address",
        line("https://api.openai.com/v1/chat/completions?a=1", CHAT),
        Query("r-1", body=CHAT, dialect="chat"),
    ),
    ("without an address", line(None, CHAT), Query(id="r-1", body=CHAT)),
    ("without an id", {"url": "/v1/responses", "body": RESPONSES}, Query(body=RESPONSES, dialect="responses")),
    ("with an id that is null", line(None, CHAT, custom_id=None), Query(body=CHAT)),
    ("of Anthropic", {"custom_id": "r-1", "params": MESSAGES}, Query(id="r-1", body=MESSAGES, dialect="messages")),
    ("a query in a CloudEvent", EVENT | {"data": {"text": ASK}}, Query(id="/a#1", text=ASK)),
    ("with an id of its own", EVENT | {"data": {"text": ASK, "id": "mine"}}, Query(id="mine", text=ASK)),
    ("without a source", {"specversion": "1.0", "id": "1", "data": {"text": ASK}}, Query(id="1", text=ASK)),
    ("without an id, event", {"specversion": "1.0", "data": {"text": ASK}}, Query(text=ASK)),
    ("a line in a CloudEvent", EVENT | {"data": line(None, CHAT)}, Query(id="r-1", body=CHAT)),
    ("a Responses request of one text", {"model": "m", "input": ASK}, Query(body={"model": "m", "input": ASK})),
    ("a chat of embeddings", CHAT | {"model": "embed-it"}, Query(body=CHAT | {"model": "embed-it"})),
    ("own fields that are null", CHAT | {"id": None, "tags": None}, Query(body=CHAT | {"id": None, "tags": None})),
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("value", "query"), [case[1:] for case in READ], ids=[case[0] for case in READ])
def test_a_shape_is_read(value: object, query: Query, form: Callable[[object], bytes]) -> None:
    """Every shape gives a query with the request under `body`."""
    assert read(form(value)) == query


REFUSED: list[tuple[str, object, Rejection]] = [
    ("an id beside a request", CHAT | {"id": "q"}, Rejection("beside_request", detail="id")),
    ("a deadline beside a request", CHAT | {"deadline_ms": 1}, Rejection("beside_request", detail="deadline_ms")),
    ("tags beside a request", RESPONSES | {"tags": {"a": "b"}}, Rejection("beside_request", detail="tags")),
    ("a text beside a request", CHAT | {"text": ASK}, Rejection("beside_request", detail="text")),
    ("a body beside a request", CHAT | {"body": CHAT}, Rejection("beside_request", detail="body")),
    ("embeddings", line("/v1/embeddings", {"input": ASK}), Rejection("batch_url", detail="/v1/embeddings")),
    ("embeddings of texts", {"model": "m", "input": [ASK, ASK]}, Rejection("embeddings")),
    ("embeddings of tokens", {"model": "m", "input": [9906, 1917]}, Rejection("embeddings")),
    ("embeddings of lists of tokens", {"model": "m", "input": [[9906, 1917], [7]]}, Rejection("embeddings")),
    ("embeddings by a field", {"model": "m", "input": ASK, "encoding_format": "base64"}, Rejection("embeddings")),
    ("embeddings of a size", {"model": "m", "input": ASK, "dimensions": 256}, Rejection("embeddings")),
    ("embeddings by the model", {"model": "text-embedding-3-small", "input": ASK}, Rejection("embeddings")),
    ("embeddings by a path", {"model": "nomic/Nomic-Embed-Text", "input": ASK}, Rejection("embeddings")),
    ("embeddings in an event", EVENT | {"data": {"model": "m", "input": [ASK]}}, Rejection("embeddings")),
    ("moderations", line("/v1/moderations", {"input": ASK}), Rejection("batch_url", detail="/v1/moderations")),
    ("another API's body", line("/v1/responses", CHAT), Rejection("batch_url", detail="/v1/responses")),
    ("no address at all", line("http://[", CHAT), Rejection("batch_url", detail="http://[")),
    ("GET", line("/v1/responses", RESPONSES, method="GET"), Rejection("type", detail="method")),
    ("a number as custom_id", line(None, CHAT, custom_id=7), Rejection("type", detail="custom_id")),
    ("an empty custom_id", line(None, CHAT, custom_id=""), Rejection("type", detail="custom_id")),
    ("a long custom_id", line(None, CHAT, custom_id="x" * 257), Rejection("type", detail="custom_id")),
    ("a text as body", line(None, "{}"), Rejection("type", detail="body")),
    ("no body", {"custom_id": "r-1"}, Rejection("type", detail="body")),
    ("a batch's output line", line(None, CHAT, response={}), Rejection("unknown_field", detail="response")),
    ("an event without data", EVENT, Rejection("empty")),
    (
        "an event in an event",
        EVENT | {"data": EVENT | {"data": CHAT}},
        Rejection("unknown_field", detail="specversion"),
    ),
    ("an event with a list", EVENT | {"data": [CHAT]}, Rejection("array")),
    ("an event with bad base64", EVENT | {"data_base64": "!"}, Rejection("type", detail="data_base64")),
    ("an event with no base64", EVENT | {"data_base64": 7}, Rejection("type", detail="data_base64")),
    ("an event with empty base64", EVENT | {"data_base64": ""}, Rejection("empty")),
    ("an event with gzip", EVENT | {"data_base64": "H4sIAAAA"}, Rejection("compressed")),
    ("an event with a long id", EVENT | {"id": "x" * 255, "data": CHAT}, Rejection("type", detail="id")),
    ("an event with a misspelt query", EVENT | {"data": {"txt": ASK}}, Rejection("unknown_field", detail="txt")),
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("value", "why"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_shape_is_refused(value: object, why: Rejection, form: Callable[[object], bytes]) -> None:
    """What is nearly a request is refused by the field at fault, and a sentence says what to do."""
    assert read(form(value)) == why
    assert sentences.reason(why)


def test_what_is_too_large_for_a_query_is_too_large_inside() -> None:
    """An integer of more than 64 bits is refused where it stands, also in a bare request."""
    assert read(b'{"messages": [], "seed": 18446744073709551616}') == Rejection("number", detail="body")
    assert read(b'{"messages": [], "temperature": 1e400}') == Rejection("type", detail="temperature")
    assert read(b'{"messages": ' + b"[" * 65 + b"]" * 65 + b"}") == Rejection("nesting", 64, "body")


DIALECTS: list[tuple[str, dict[str, Any], set[Dialect]]] = [
    ("a system role", {"messages": [{"role": "system", "content": "x"}]}, {"chat"}),
    ("a developer role", {"messages": [{"role": "developer", "content": "x"}, USER], "max_tokens": 9}, {"chat"}),
    ("no limit", {"messages": [USER]}, {"chat"}),
    ("a limit", {"messages": [USER], "max_tokens": 9}, {"chat", "messages"}),
    ("Anthropic's system", MESSAGES, {"messages"}),
    ("a field of OpenAI", {"messages": [USER], "max_tokens": 9, "n": 2}, {"chat"}),
    ("a field that vLLM takes too", {"messages": [USER], "max_tokens": 9, "top_k": 5}, {"chat", "messages"}),
    ("OpenAI's image", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "max_tokens": 9}, {"chat"}),
    (
        "Anthropic's image",
        {"messages": [{"role": "user", "content": [{"type": "image"}]}], "max_tokens": 9},
        {"messages"},
    ),
    ("a tool's result", {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, {"messages"}),
    (
        "OpenAI's tools",
        {"messages": [USER], "tools": [{"type": "function", "function": {}}], "max_tokens": 9},
        {"chat"},
    ),
    ("Anthropic's tools", {"messages": [USER], "tools": [{"name": "f", "input_schema": {}}]}, {"messages"}),
    ("odd values", {"messages": [{"role": [1], "content": [{"type": {}}, 7]}, 7], "tools": [7]}, {"chat"}),
    ("no list", {"messages": 7, "tools": {}}, {"chat"}),
    ("Responses", {"input": "x"}, {"responses"}),
    ("Completions", {"prompt": "x"}, {"completions"}),
    ("Gemini", {"contents": []}, set()),
]


@pytest.mark.parametrize(("body", "wanted"), [case[1:] for case in DIALECTS], ids=[case[0] for case in DIALECTS])
def test_dialects(body: dict[str, Any], wanted: set[Dialect]) -> None:
    """A request's dialect is known by its fields, roles and content; what the query says wins."""
    assert dialects_of(Query(body=body)) == wanted
    assert dialects_of(Query(body=body, dialect="messages")) == {"messages"}


QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    (
        "an image among Responses' items",
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": ASK}, IMAGE]}]},
    ),
    (
        "a function's output after it",
        {"input": [USER, {"type": "function_call_output", "call_id": "c", "output": "[1]"}]},
    ),
    ("a call after it", {"input": [USER, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]}),
    (
        "Anthropic's tool result after it",
        {"messages": [USER, {"role": "user", "content": [{"type": "tool_result", "content": "42"}]}]},
    ),
    (
        "a text beside a tool result",
        {
            "messages": [
                {"role": "user", "content": [{"type": "tool_result", "content": "42"}, {"type": "text", "text": ASK}]}
            ]
        },
    ),
    ("a role that is no text", {"messages": [USER, {"role": ["user"], "content": "no"}]}),
]


@pytest.mark.parametrize("body", [case[1] for case in QUESTIONS], ids=[case[0] for case in QUESTIONS])
def test_the_question_of_a_conversation(body: dict[str, Any]) -> None:
    """The last text that a user wrote is the question, whatever tools answered after it."""
    assert question(Query(body=body)) == ASK
