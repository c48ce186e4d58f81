"""What a provider's refusal says, in the shapes that providers and servers send. Pure.

OpenAI, Azure, OpenRouter, Ollama: {"error": {"message", "type", "param", "code"}}. Anthropic: the same beside "type":
"error". Gemini: a list of {"error": {"code", "status", "message", "details"}}. vLLM: {"object": "error", "message",
"type", "code"}. FastAPI, Mistral: {"detail": [{"type", "loc", "msg"}]}. Gateways: a page of HTML or plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

TITLE = re.compile(r"<(title|h1)[^>]*>\s*([^<]{1,120})", re.IGNORECASE)
TAG = re.compile(r"<[^>]{0,500}>")
# Fields whose text is the provider's own. Others may repeat the question.
OWN_FIELDS = {"message", "msg", "code", "type", "status", "reason", "detail", "title", "error", "error_code"}
MOST_CHARACTERS = 2_000
MOST_DEPTH = 6
SIMPLE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
QUOTED = re.compile(r"[`'\"]([A-Za-z_][A-Za-z0-9_.]{0,63})[`'\"]")


class Fault(Struct, frozen=True):
    """`words` are all that the provider says, in lower case. `code` is its own code or type, `parameter` the field of
    the request at fault, `title` that of a page. None where it says none."""

    words: str
    code: str | None = None
    parameter: str | None = None
    title: str | None = None

    def says(self, pattern: re.Pattern[str]) -> bool:
        """Whether the words hold the pattern."""
        return pattern.search(self.words) is not None


def fault_of(body: object, text: str) -> Fault:
    """What a refusal says: `body` is its JSON, None where it is none, and `text` is the text as it came."""
    if body is None:
        title = TITLE.search(text[:MOST_CHARACTERS])
        plain = TAG.sub(" ", text[:MOST_CHARACTERS])
        return Fault(plain.lower(), title=None if title is None else title[2].strip())
    words = " ".join(_own_texts(body, 0))[:MOST_CHARACTERS]
    error = _error(body)
    return Fault(words.lower(), code=_code(error), parameter=_parameter(body, error, words))


def is_error(body: object) -> bool:
    """Whether a body is a refusal, whatever its status was."""
    if isinstance(body, list):
        return bool(body) and is_error(body[0])
    if not isinstance(body, dict):
        return False
    return bool(body.get("error")) or body.get("object") == "error" or body.get("type") == "error"


def status_of(body: object) -> int | None:
    """The HTTP status that a body names as the error's code; None where it names none."""
    error = _error(body)
    for name in ("code", "status", "status_code", "http_status"):
        value = error.get(name)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 300 <= value <= 599:
            return value
    return None


def _error(body: object) -> dict[str, Any]:
    """The part of the body that describes the error."""
    if isinstance(body, list):
        return _error(body[0]) if body else {}
    if not isinstance(body, dict):
        return {}
    inner = body.get("error")
    return inner if isinstance(inner, dict) else body


def _own_texts(value: object, depth: int) -> Iterator[str]:
    if depth > MOST_DEPTH:
        return
    if isinstance(value, list):
        for one in value[:20]:
            yield from _own_texts(one, depth + 1)
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in OWN_FIELDS and isinstance(inner, str | int) and not isinstance(inner, bool):
                yield str(inner)
            elif name not in ("input", "ctx", "body", "request"):
                yield from _own_texts(inner, depth + 1)


def _code(error: dict[str, Any]) -> str | None:
    for name in ("code", "type", "status", "reason"):
        value = error.get(name)
        if isinstance(value, str) and SIMPLE.fullmatch(value) and not value.isdigit():
            return value
    return None


def _parameter(body: object, error: dict[str, Any], words: str) -> str | None:
    stated = error.get("param")
    if isinstance(stated, str) and SIMPLE.fullmatch(stated):
        return stated
    detail = body.get("detail") if isinstance(body, dict) else None
    first = detail[0] if isinstance(detail, list) and detail else None
    place = first.get("loc") if isinstance(first, dict) else None
    if isinstance(place, list):
        names = [one for one in place if isinstance(one, str) and one != "body"]
        return ".".join(names)[:64] or None
    quoted = QUOTED.search(words)
    return None if quoted is None else quoted[1]
