"""Which request format a query's `body` is in. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from worker.contract.codes import Dialect
from worker.contract.messages import Query

# Fields, roles and kinds of content that only one of the two formats with `messages` has. `top_k` and `thinking` are in
# Anthropic's format, and servers such as vLLM take them in Chat Completions too.
ONLY_ANTHROPIC = {"system", "stop_sequences", "anthropic_version"}
ONLY_OPENAI = {
    "response_format",
    "max_completion_tokens",
    "n",
    "seed",
    "stop",
    "logprobs",
    "frequency_penalty",
    "presence_penalty",
    "stream_options",
    "functions",
    "reasoning_effort",
}
ONLY_EMBEDDINGS = {"encoding_format", "dimensions", "input_type"}
BOTH_ROLES = {"user", "assistant"}
ANTHROPIC_CONTENT = {"tool_use", "tool_result", "thinking", "redacted_thinking", "document", "image"}
OPENAI_CONTENT = {"image_url", "input_audio", "file", "refusal"}


def dialects_of(query: Query) -> set[Dialect]:
    """The formats that a query's `body` can be in: as the query says, or by its fields. A plain request with
    `messages` can be in two, and one of Gemini is in none of them."""
    if query.dialect is not None:
        return {query.dialect}
    body = query.body or {}
    if "messages" in body:
        return _of_messages(body)
    if "input" in body:
        return {"responses"}
    return {"completions"} if "prompt" in body else set()


def asks_for_embeddings(body: Mapping[str, Any]) -> bool:
    """Whether a request with `input` is one of the embeddings API, and not of Responses.

    Only that API has the fields ONLY_EMBEDDINGS, and an input of texts or token numbers: the items of Responses are
    objects. Otherwise both look alike, and the name of the model tells: those of OpenAI, Google, Mistral, Nomic and
    Cohere have `embed` in it.
    """
    if "input" not in body or any(name in body for name in ("messages", "prompt", "contents")):
        return False
    asked, model = body["input"], body.get("model")
    if isinstance(asked, list) and asked and not any(isinstance(item, Mapping) for item in asked):
        return True
    return bool(ONLY_EMBEDDINGS & set(body)) or (isinstance(model, str) and "embed" in model.lower())


def _of_messages(body: Mapping[str, Any]) -> set[Dialect]:
    fields, kinds = set(body), set(_kinds(body["messages"]))
    tools = body.get("tools")
    shapes = (
        {name for tool in tools if isinstance(tool, Mapping) for name in tool} if isinstance(tools, list) else set()
    )
    if fields & ONLY_OPENAI or kinds & OPENAI_CONTENT or "function" in shapes or _has_openai_roles(body["messages"]):
        return {"chat"}
    if fields & ONLY_ANTHROPIC or kinds & ANTHROPIC_CONTENT or "input_schema" in shapes:
        return {"messages"}
    # Anthropic takes no request without max_tokens.
    return {"chat", "messages"} if "max_tokens" in body else {"chat"}


def _has_openai_roles(messages: Any) -> bool:
    roles = [one.get("role") for one in messages if isinstance(one, Mapping)] if isinstance(messages, list) else []
    return bool({role for role in roles if isinstance(role, str)} - BOTH_ROLES)


def _kinds(messages: Any) -> Iterator[str]:
    """The kinds of all parts of all messages."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and isinstance(part.get("type"), str):
                yield part["type"]
