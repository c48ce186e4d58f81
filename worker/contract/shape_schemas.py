"""JSON Schemas of the records that are queries in another shape (contract/shapes), with an example of each.

Only the fields that Tollgate reads are described. A request's other fields belong to its provider, and are passed on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

TEXT = {"type": "string"}
ID = {**TEXT, "minLength": 1, "maxLength": 256}
ANYTHING = {"type": "object", "additionalProperties": True}
MODEL = {
    "title": "Model",
    "description": "The model that the provider's API asks for.",
    "anyOf": [TEXT, {"type": "array", "items": TEXT}, {"type": "null"}],
}
METADATA = {
    **ANYTHING,
    "description": "Keys that begin with `tollgate-` are for Tollgate, and mean what the headers of these names mean.",
}
USER = {"role": "user", "content": "What is the capital of France?"}
CHAT: dict[str, Any] = {"model": "auto", "messages": [USER], "max_tokens": 300}


class Shape(NamedTuple):
    """A shape: its title, what it is, the field that it is recognised by, its fields, and an example."""

    title: str
    summary: str
    required: str
    properties: dict[str, Any]
    example: dict[str, Any]


def _request(title: str, api: str, field: str, of: dict[str, Any], example: dict[str, Any]) -> Shape:
    asked = {"description": "What is asked. The last text that a user wrote in it is embedded.", **of}
    return Shape(
        title, f"A request of {api}, as it is", field, {field: asked, "model": MODEL, "metadata": METADATA}, example
    )


MESSAGES: dict[str, Any] = {"type": "array", "items": ANYTHING}
TEXT_OR_LIST: dict[str, Any] = {"title": "TextOrList", "anyOf": [TEXT, {"type": "array", "items": {}}]}
SHAPES = {
    "chat-request": _request("ChatRequest", "OpenAI Chat Completions", "messages", MESSAGES, CHAT),
    "responses-request": _request(
        "ResponsesRequest", "OpenAI Responses", "input", TEXT_OR_LIST, {"model": "auto", "input": USER["content"]}
    ),
    "messages-request": _request(
        "MessagesRequest", "Anthropic Messages", "messages", MESSAGES, {**CHAT, "system": "Answer in one word."}
    ),
    "completions-request": _request(
        "CompletionsRequest", "OpenAI Completions", "prompt", TEXT_OR_LIST, {"model": "auto", "prompt": "1 + 1 ="}
    ),
    "batch-line": Shape(
        "BatchLine",
        "A line of an OpenAI batch file",
        "body",
        {
            "custom_id": {**ID, "description": "The id of the query."},
            "method": {**TEXT, "description": "POST."},
            "url": {
                **TEXT,
                "description": "/v1/chat/completions, /v1/completions, /v1/responses or /v1/messages. It names the "
                "format of `body`; its host is not called.",
            },
            "body": {**ANYTHING, "description": "The request, passed on unchanged."},
        },
        {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT},
    ),
    "cloud-event": Shape(
        "CloudEvent",
        "A CloudEvent in structured mode around a query in any shape",
        "specversion",
        {
            "specversion": TEXT,
            "id": {**TEXT, "description": "With `source`, the id of the query: `<source>#<id>`."},
            "source": TEXT,
            "type": TEXT,
            "data": {**ANYTHING, "description": "A query, a request, or a batch line."},
            "data_base64": {**TEXT, "description": "The bytes of a query in JSON or MessagePack, in base64."},
        },
        {"specversion": "1.0", "id": "1", "source": "/shop", "type": "question", "data": CHAT},
    ),
}


def schema(shape: Shape) -> dict[str, Any]:
    """The JSON Schema of a shape, without its `$schema`."""
    return {
        "title": shape.title,
        "type": "object",
        "description": f"{shape.summary}.",
        "required": [shape.required],
        "properties": shape.properties,
        "additionalProperties": True,
        "examples": [shape.example],
    }
