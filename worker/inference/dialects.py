"""The four request formats, and the HTTP request that a dispatch makes. Pure.

| dialect | API | path |
|---|---|---|
| chat | OpenAI Chat Completions | /chat/completions |
| responses | OpenAI Responses | /responses |
| messages | Anthropic Messages | /messages |
| completions | OpenAI Completions | /completions |

Nothing is translated. Of a request, only `model` and streaming are replaced: an answer is always whole. What its
`metadata` says to Tollgate stays here: Anthropic refuses a request with metadata that it does not know.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from worker.contract.codes import Dialect
from worker.contract.dialects import dialects_of
from worker.contract.extras import PREFIX
from worker.contract.messages import Query
from worker.contract.settings import LlmSettings

PATHS: dict[Dialect, str] = {
    "chat": "/chat/completions",
    "responses": "/responses",
    "messages": "/messages",
    "completions": "/completions",
}
STREAMING = ("stream", "stream_options")
ANTHROPIC_VERSION = "2023-06-01"
# Anthropic refuses a request without a limit.
ANTHROPIC_MAX_TOKENS = 4_096

_json = msgspec.json.Encoder()


class Request(Struct, frozen=True):
    """One HTTP request. `characters` is the length of the texts that it asks with, blanks left out."""

    dialect: Dialect
    model: str
    body: bytes
    characters: int
    is_json_asked: bool = False
    remarks: tuple[str, ...] = ()


class Unsendable(Struct, frozen=True):
    """A query that this LLM cannot be asked, and why, as a code."""

    reason: str


def request_of(query: Query, name: str, llm: LlmSettings) -> Request | Unsendable:
    """The request of a query to the LLM `name` of the settings."""
    model = llm.model or name
    if query.body is not None:
        spoken = dialects_of(query)
        dialect = next((one for one in llm.dialects if one in spoken), None)
        if dialect is None:
            return Unsendable("dialect")
        body = _without_own({key: value for key, value in query.body.items() if key not in STREAMING})
        remarks = ("not_streamed",) if query.body.get("stream") is True else ()
    elif query.text is not None:
        dialect = llm.dialects[0]
        body, remarks = _plain(query, dialect, llm), ()
    else:
        return Unsendable("no_text")
    body["model"] = model
    try:
        packed = _json.encode(body)
    except (msgspec.EncodeError, ValueError, TypeError, UnicodeEncodeError):
        return Unsendable("not_json")
    characters = sum(len("".join(text.split())) for text in _texts(body))
    is_json_asked = bool(body.get("response_format")) or "json" in str(body.get("text", ""))[:200]
    return Request(dialect, model, packed, characters, is_json_asked, remarks)


def _without_own(body: dict[str, Any]) -> dict[str, Any]:
    """A request without the `metadata` that is for Tollgate, and without `metadata` that is then empty."""
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        return body
    kept = {name: value for name, value in metadata.items() if not name.lower().startswith(PREFIX)}
    if len(kept) == len(metadata):
        return body
    rest = {name: value for name, value in body.items() if name != "metadata"}
    return rest | {"metadata": kept} if kept else rest


def _plain(query: Query, dialect: Dialect, llm: LlmSettings) -> dict[str, Any]:
    """A text as a request; `parameters` of the query are fields of the request."""
    limit, system = query.max_output_tokens, llm.system
    body: dict[str, Any] = dict(query.parameters or {})
    if dialect == "responses":
        body |= {"input": query.text} | ({"instructions": system} if system else {})
        return body | ({"max_output_tokens": limit} if limit else {})
    if dialect == "completions":
        return body | {"prompt": f"{system}\n\n{query.text}" if system else query.text, **_limited(limit)}
    asked = {"role": "user", "content": query.text}
    if dialect == "messages":
        body |= {"messages": [asked]} | ({"system": system} if system else {})
        return {"max_tokens": ANTHROPIC_MAX_TOKENS} | body | _limited(limit)
    body["messages"] = [{"role": "system", "content": system}, asked] if system else [asked]
    # OpenAI's newer models refuse max_tokens; other servers know no other name.
    name = "max_completion_tokens" if is_openai(llm.base_url or "") else "max_tokens"
    return body | _limited(limit, name)


def _limited(limit: int | None, name: str = "max_tokens") -> dict[str, Any]:
    return {name: limit} if limit else {}


def is_azure(url: str) -> bool:
    """Whether an address is Azure's."""
    return (urlsplit(url).hostname or "").endswith((".azure.com", ".azure.us"))


def is_openai(url: str) -> bool:
    """Whether an address serves OpenAI's own models."""
    return (urlsplit(url).hostname or "").endswith("api.openai.com") or is_azure(url)


def url_of(base_url: str, dialect: Dialect) -> str:
    """The address of a dialect under `base_url`, whose query (Azure's api-version) is kept."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    if not path and parts.hostname in ("api.anthropic.com", "api.openai.com"):
        # Both packages' own settings leave it out, or not.
        path = "/v1"
    return parts._replace(path=path + PATHS[dialect], fragment="").geturl()


def headers_of(request: Request, base_url: str, key: str | None, idempotency_key: str) -> dict[str, str]:
    """The headers of a request. The key is not in its body and not in its address."""
    headers = {"content-type": "application/json", "accept": "application/json", "idempotency-key": idempotency_key}
    if request.dialect == "messages":
        headers["anthropic-version"] = ANTHROPIC_VERSION
    if key is None:
        return headers
    if request.dialect == "messages":
        return headers | {"x-api-key": key}
    return headers | ({"api-key": key} if is_azure(base_url) else {"authorization": f"Bearer {key}"})


def _texts(body: dict[str, Any]) -> list[str]:
    """Every text that the request asks with."""
    found: list[str] = []
    pending: list[Any] = [body.get(name) for name in ("messages", "input", "prompt", "system", "instructions")]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += [value.get("content"), value.get("text")]
    return found
