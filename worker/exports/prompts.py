"""Finds the text that Tollgate would embed of a query, in every shape that exports keep a prompt in. Pure.

The text is that of the last user message: `contract.requests.question` chooses it here as it does of a live query. This
module only brings the shapes of other tools into that of a chat request:

| shape | from |
|---|---|
| a request, or its `messages`, `input`, `prompt`, `contents` | providers, proxies |
| `[[{"kwargs": {"content": ..., "type": "human"}}]]`, `[["human", "..."]]`, `["Human: ..."]` | LangChain |
| `{"message.role": ..., "message.content": ..., "message.contents": [...]}` | OpenInference |
| `{"role": ..., "parts": [{"type": "text", "content": ...}]}` | OpenTelemetry |
| `["...", "..."]`, also as the text of a Python list | benchmarks |
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from worker.contract.messages import Query
from worker.contract.requests import is_blank, question
from worker.exports.files import decoded

MAX_PYTHON_LIST = 1_000_000
REQUEST_FIELDS = ("messages", "input", "prompt", "contents")
# Fields of a function's arguments that hold the question, where a tool records those instead of messages.
ASKED_FIELDS = ("question", "query", "input", "text", "prompt", "user_input", "content")
ROLES = {"human": "user", "ai": "assistant", "model": "assistant", "generic": "user", "chat": "user"}
LANGCHAIN_CLASS = re.compile(r"^(Human|AI|System|Tool|Function|Chat)Message(Chunk)?$")
LANGCHAIN_TURN = re.compile(r"^(Human|AI|System|Tool|Function): ?", re.MULTILINE)
TEXT_PARTS = {"text", "input_text", None}

REDACTED = {
    "redacted-by-litellm",
    "__redacted__",
    "[redacted]",
    "<redacted>",
    "redacted",
    "<masked>",
    "[masked]",
    "[hidden]",
    "<hidden>",
    "***",
    "[filtered]",
}
TRUNCATED = re.compile(r"litellm_truncated|[\[<]truncated[\]>]|\.\.\. ?\(truncated\)|\[truncated \d+ ch", re.IGNORECASE)


def text_of(prompt: Any) -> str | None:
    """The text to embed of a prompt in any shape; None where it has none."""
    value = decoded(prompt)
    if isinstance(value, str):
        return None if is_blank(value) else value
    try:
        messages = list(_messages(value))
    except RecursionError:
        # Lists inside lists, deeper than any conversation.
        return None
    if messages:
        return question(Query("", body={"messages": messages}))
    if isinstance(value, Mapping):
        for name in ASKED_FIELDS:
            if isinstance(asked := value.get(name), str) and not is_blank(asked):
                return asked
    return None


def turns_of(prompt: str) -> str | None:
    """All turns of a prompt that stands in a cell as the text of a Python list, a line each; other texts as they are.

    Such a list is read as a literal: nothing in it is run.
    """
    if not prompt.lstrip().startswith(("['", '["', "[ ")) or len(prompt) > MAX_PYTHON_LIST:
        return None if is_blank(prompt) else prompt
    try:
        turns = ast.literal_eval(prompt.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return prompt
    texts = [turn for turn in turns if isinstance(turn, str)] if isinstance(turns, list) else []
    return "\n".join(texts) if texts else prompt


def problem_of(prompt: str | None) -> Literal["no_prompt", "redacted", "truncated"] | None:
    """Why a prompt cannot be embedded; None for one that can."""
    if prompt is None or is_blank(prompt):
        return "no_prompt"
    if prompt.strip().lower() in REDACTED:
        return "redacted"
    return "truncated" if TRUNCATED.search(prompt) else None


def _messages(value: Any) -> Iterator[dict[str, Any]]:
    """The messages of a prompt as those of a chat request."""
    if isinstance(value, Mapping):
        if _is_message(value):
            yield from _message(value)
            return
        for name in REQUEST_FIELDS:
            asked = decoded(value.get(name))
            if asked:
                yield from _messages([asked] if isinstance(asked, str) else asked)
                return
        if isinstance(prompts := value.get("prompts"), list):
            yield from _messages(prompts)
    elif isinstance(value, list):
        for item in value:
            yield from _item(item, alone=len(value) == 1)


def _item(item: Any, alone: bool) -> Iterator[dict[str, Any]]:
    if isinstance(item, str):
        yield from _turns(item)
    elif isinstance(item, Mapping):
        yield from _message(item)
    elif isinstance(item, list | tuple):
        if len(item) == 2 and all(isinstance(part, str) for part in item) and item[0].lower() in {*ROLES, *ROLE_NAMES}:
            yield {"role": ROLES.get(item[0].lower(), item[0].lower()), "content": item[1]}
        elif alone:
            # LangChain asks several conversations at once: a list of lists, of which a run has one.
            yield from _messages(list(item))


ROLE_NAMES = ("system", "user", "assistant", "developer", "tool")


def _turns(text: str) -> Iterator[dict[str, Any]]:
    """The turns of LangChain's text of a conversation (`System: ...`, `Human: ...`); other texts are the user's."""
    starts = list(LANGCHAIN_TURN.finditer(text))
    if not starts or starts[0].start() != 0:
        yield {"role": "user", "content": text}
        return
    ends = [start.start() for start in starts[1:]] + [len(text)]
    for start, end in zip(starts, ends, strict=True):
        role = start.group(1).lower()
        yield {"role": ROLES.get(role, role), "content": text[start.end() : end].rstrip("\n")}


def _is_message(value: Mapping[str, Any]) -> bool:
    return "role" in value or "message.role" in value or "kwargs" in value or _class_of(value) is not None


def _message(value: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if isinstance(inner := value.get("message"), Mapping):
        value = inner
    kwargs = value.get("kwargs", value.get("data"))
    if isinstance(kwargs, Mapping):
        value = {"type": value.get("type"), "id": value.get("id")} | dict(kwargs)
    role = value.get("role") or value.get("message.role") or _class_of(value) or _type_of(value)
    content = next(
        (value[name] for name in CONTENTS if value.get(name) not in (None, "", [])),
        None,
    )
    if isinstance(role, str):
        yield {"role": ROLES.get(role.lower(), role.lower()), "content": _content(content)}
    elif content is not None and "type" not in value:
        yield {"role": "user", "content": _content(content)}


CONTENTS = ("content", "message.content", "contents", "message.contents", "parts", "text")


def _class_of(value: Mapping[str, Any]) -> str | None:
    """The role of a LangChain message by its class: `["langchain", "schema", "messages", "HumanMessage"]`."""
    path = value.get("id")
    last = path[-1] if isinstance(path, list) and path else None
    found = LANGCHAIN_CLASS.match(last) if isinstance(last, str) else None
    return found.group(1).lower() if found else None


def _type_of(value: Mapping[str, Any]) -> str | None:
    """The role of a LangChain message by its type (`human`); the type of a content part is no role."""
    kind = value.get("type")
    return kind if isinstance(kind, str) and kind.lower() in {*ROLES, *ROLE_NAMES} else None


def _content(content: Any) -> str | None:
    if isinstance(content, str) or content is None:
        return content
    parts = [content] if isinstance(content, Mapping) else content if isinstance(content, list) else []
    texts = [part if isinstance(part, str) else _part(part) for part in parts]
    return "\n".join(text for text in texts if text) or None


def _part(part: Any) -> str | None:
    if not isinstance(part, Mapping):
        return None
    if isinstance(inner := part.get("message_content"), Mapping):
        part = inner
    if part.get("type", part.get("message_content.type")) not in TEXT_PARTS:
        return None
    found = next((part[name] for name in ("text", "content", "message_content.text") if name in part), None)
    return found if isinstance(found, str) else None
