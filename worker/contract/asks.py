"""What a query asks of an LLM: which LLMs may answer, and what an LLM must be able to do. Pure.

| need | a request has it if |
|---|---|
| `tools` | it offers tools, or its messages hold a call of a tool or the result of one |
| `vision` | its messages hold an image |
| `json` | it asks for an answer in JSON |
| the format | it has a `body`: a plain text goes out in any LLM's own format |
| context length | always, where its tokens are known: the input, and the most output of one answer |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from worker.contract.codes import Dialect, Feature
from worker.contract.dialects import dialects_of
from worker.contract.messages import Query
from worker.contract.requests import IMAGES, answers, most_output_tokens

AUTO = "auto"
MOST_WISHES, MOST_CHARACTERS = 100, 256

TOOL_FIELDS = ("tools", "functions")
TOOL_ROLES = ("tool", "function")
TOOL_KEYS = ("tool_calls", "function_call", "functionCall", "functionResponse", "function_response")
TOOL_KINDS = ("tool_use", "tool_result", "_call", "_call_output")
# Where messages hold further messages or parts; other fields hold what tools and users make up.
INSIDE = ("content", "parts", "output")


class Asks(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a query asks of an LLM.

    `wish` are the models that the request names; none: any LLM. Only the LLMs in `allow` may answer (null: all), and
    none of `deny`. `features` are what an LLM must be able to do. `dialects` are the formats that the request can be
    in (null: any). `context_tokens` is the number of tokens of input and output together; 0 if it is not known.
    """

    wish: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    features: tuple[Feature, ...] = ()
    dialects: tuple[Dialect, ...] | None = None
    context_tokens: int = 0


NOTHING = Asks()


def asks_of(query: Query, input_tokens: float = math.nan) -> Asks:
    """What a query asks of an LLM. `input_tokens` is nan where it is not known."""
    return Asks(
        wish=wish_of(query),
        allow=query.allow,
        deny=query.deny,
        features=tuple(_features(query.body)) if query.body is not None else (),
        dialects=None if query.body is None else tuple(sorted(dialects_of(query))),
        context_tokens=_context_tokens(query, input_tokens),
    )


def wish_of(query: Query) -> tuple[str, ...]:
    """The models that a request names in `model`: one, or a list. None for `auto`, and for what is no name."""
    named = (query.body or {}).get("model")
    names = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    wished = dict.fromkeys(name.strip() for name in names if isinstance(name, str))
    if any(name.lower() == AUTO for name in wished):
        return ()
    return tuple(name for name in wished if 0 < len(name) <= MOST_CHARACTERS)[:MOST_WISHES]


def _context_tokens(query: Query, input_tokens: float) -> int:
    if math.isnan(input_tokens):
        return 0
    most = most_output_tokens(query)
    return math.ceil(input_tokens) + (0 if most is None else most // answers(query))


def _features(body: Mapping[str, Any]) -> Iterator[Feature]:
    parts = list(_parts(body))
    if any(body.get(name) for name in TOOL_FIELDS) or any(map(_is_of_a_tool, parts)):
        yield "tools"
    if any(map(_is_image, parts)):
        yield "vision"
    if _asks_json(body):
        yield "json"


def _parts(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every message and every part of one."""
    pending = [body.get(name) for name in ("messages", "input", "contents")]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, Mapping):
            yield value
            pending += [value[name] for name in INSIDE if name in value]


def _is_of_a_tool(part: Mapping[str, Any]) -> bool:
    kind = part.get("type")
    return (
        part.get("role") in TOOL_ROLES
        or any(part.get(name) for name in TOOL_KEYS)
        or (isinstance(kind, str) and kind.endswith(TOOL_KINDS))
    )


def _is_image(part: Mapping[str, Any]) -> bool:
    shape = part.get("type")
    if isinstance(shape, str) and shape in (*IMAGES, "computer_screenshot"):
        return True
    data = part.get("inlineData", part.get("inline_data", part.get("fileData", part.get("file_data"))))
    kind = data.get("mimeType", data.get("mime_type")) if isinstance(data, Mapping) else None
    return isinstance(kind, str) and kind.startswith("image/")


def _asks_json(body: Mapping[str, Any]) -> bool:
    config = _inside(body, "generationConfig") or _inside(body, "generation_config")
    if config.get("responseMimeType", config.get("response_mime_type")) == "application/json":
        return True
    formats = [
        _inside(body, "response_format"),
        _inside(_inside(body, "text"), "format"),
        _inside(body, "output_format"),
        _inside(_inside(body, "output_config"), "format"),
    ]
    kinds = [form.get("type") for form in formats]
    return any(isinstance(kind, str) and kind.startswith("json") for kind in kinds)


def _inside(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}
