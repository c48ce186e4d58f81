"""Reads what a request asks for: the text to embed, the tokens that are paid as input, and the most output. Pure.

A request is a query's `body` in the shape of a provider's API, recognised by its fields:

| shape | the question | paid as input besides |
|---|---|---|
| OpenAI Chat Completions | `messages` | `tools`, `functions`, `response_format` |
| OpenAI Responses | `input` | `instructions`, `tools`, `text` |
| OpenAI Completions | `prompt` | `suffix` |
| Anthropic Messages | `messages` | `system`, `tools` |
| Gemini | `contents` | `systemInstruction`, `tools` |
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from worker.contract.messages import Query
from worker.contract.tokens import approximate_tokens
from worker.contract.usage import MAX_TOKENS, whole_number

# What an image, a file and a second of sound count as where only the provider could tell. An image is at most some
# 1,600 tokens with Anthropic ("Vision": width x height / 750, at most 1568 pixels a side), 1,445 with OpenAI's gpt-4o
# ("Images and vision", high detail) and 258 a tile with Gemini. A page of a PDF is some 1,500 to 3,000 tokens.
IMAGE_TOKENS = 1_600
FILE_TOKENS = 3_000
# Gemini counts 32 tokens a second; 8,000 bytes are a second of speech as MP3 of 64 kbit/s.
AUDIO_BYTES_PER_TOKEN = 250

ASKED_IN = ("messages", "input", "prompt", "contents")
PAID_BESIDE = (
    "system",
    "instructions",
    "tools",
    "functions",
    "response_format",
    "text",
    "suffix",
    "systemInstruction",
    "system_instruction",
)
TEXT_KEYS = ("text", "content", "input_text", "parts", "output", "arguments", "thinking", "refusal", "input")
IMAGES = {"image_url", "input_image", "image"}
FILES = {"file", "input_file", "document"}
MOST_OUTPUT = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
MOST_ANSWERS = 1_000


def question(query: Query) -> str | None:
    """The text to embed: `text`, or the last user message of the request that has any; None where all are blank.

    A request without a user message asks with its last developer or system message.
    """
    if query.text is not None and not is_blank(query.text):
        return query.text
    body = query.body or {}
    for name in ASKED_IN:
        asked = body.get(name)
        if isinstance(asked, str) and not is_blank(asked):
            return asked
        if isinstance(asked, list) and (text := _asked(asked, needs_roles=name == "messages")):
            return text
    return None


def is_blank(text: str) -> bool:
    """Whether a text has only blanks, control characters (NUL) and characters that are not shown (zero width)."""
    return all(unicodedata.category(character)[0] in "ZC" for character in text.strip())


def _asked(messages: list[Any], needs_roles: bool) -> str | None:
    """The last text with the role `user`; without any user message, the last of a developer or the system.

    An item of Responses or Gemini without a role is the user's; a chat message without a role is nobody's.
    """
    by_role = [(_role(message, None if needs_roles else "user"), _own_text(message)) for message in messages]
    roles = {role for role, _ in by_role}
    wanted = {"user"} if "user" in roles else {"developer", "system"}
    texts = [text for role, text in by_role if role in wanted and text is not None and not is_blank(text)]
    return texts[-1] if texts else None


def _role(message: Any, otherwise: str | None) -> str | None:
    if isinstance(message, str):
        return otherwise
    role = message.get("role", otherwise) if isinstance(message, Mapping) else None
    return role if isinstance(role, str) else None


def _own_text(message: Any) -> str | None:
    if not isinstance(message, Mapping):
        return message if isinstance(message, str) else None
    content = message.get("content", message.get("parts", message.get("text")))
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") for part in content if isinstance(part, Mapping)]
    return "\n".join(part for part in parts if isinstance(part, str)) or None


def input_tokens(query: Query) -> float:
    """The tokens that are paid as input: as the query states, or counted in all that it sends; nan where unknown."""
    if query.input_tokens is not None:
        return float(query.input_tokens)
    if query.body is not None:
        counted = sum(_paid(query.body))
        return float(min(counted, MAX_TOKENS)) if counted else math.nan
    return float(approximate_tokens(query.text)) if query.text else math.nan


def known_tokens(tokens: float) -> int:
    """Input tokens as a whole number; 0 where they are not known (nan)."""
    return 0 if math.isnan(tokens) else math.ceil(tokens)


def _paid(body: Mapping[str, Any]) -> Iterator[int]:
    for name in ASKED_IN:
        yield from _tokens(body.get(name))
    for name in PAID_BESIDE:
        yield from _tokens(body.get(name))


def _tokens(value: Any) -> Iterator[int]:
    """Tokens of every text inside, and of images, files and sound by a figure. Keys of schemas are paid like text."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            if value:
                yield approximate_tokens(value)
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, Mapping):
            if (figure := _figure(value)) is not None:
                yield figure
            elif any(key in value for key in TEXT_KEYS):
                pending += [value[key] for key in TEXT_KEYS if key in value]
                pending += [value[key] for key in ("tool_calls", "function_call", "functionCall") if key in value]
            else:
                yield approximate_tokens(_as_text(value))


def _as_text(value: Mapping[str, Any]) -> str:
    """A value as JSON. MessagePack has bytes, times and keys that JSON has not."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str, skipkeys=True)


def _figure(part: Mapping[str, Any]) -> int | None:
    """What a part that is not text counts as; None for text."""
    kind = part.get("type")
    data = part.get("inlineData", part.get("inline_data"))
    if isinstance(data, Mapping):
        kind = str(data.get("mimeType", data.get("mime_type", "")))
        return _sound(data.get("data")) if kind.startswith("audio") else _image_or_file(kind)
    if "fileData" in part or "file_data" in part:
        return FILE_TOKENS
    if kind == "input_audio":
        sound = part.get("input_audio")
        return _sound(sound.get("data") if isinstance(sound, Mapping) else None)
    if not isinstance(kind, str):
        return None
    return IMAGE_TOKENS if kind in IMAGES else FILE_TOKENS if kind in FILES else None


def _image_or_file(kind: str) -> int:
    return IMAGE_TOKENS if kind.startswith("image") else FILE_TOKENS


def _sound(data: object) -> int:
    # Base64 has four characters for three bytes.
    size = len(data) * 3 // 4 if isinstance(data, str | bytes) else 0
    return max(1, size // AUDIO_BYTES_PER_TOKEN)


def answers(query: Query) -> int:
    """How many answers the request asks for: its `n` (OpenAI) or `candidateCount` (Gemini), at least 1, for each prompt
    of a list of prompts."""
    body = query.body or {}
    config = body.get("generationConfig", body.get("generation_config"))
    asked = body.get("n") if not isinstance(config, Mapping) else config.get("candidateCount", body.get("n"))
    prompts = body.get("prompt")
    # A list of numbers is one prompt, as tokens.
    several = len(prompts) if isinstance(prompts, list) and not all(isinstance(one, int) for one in prompts) else 1
    return max(1, several) * max(1, whole_number(asked, MOST_ANSWERS) or 1)


def most_output_tokens(query: Query) -> int | None:
    """The most output tokens that the request allows, over all its answers; None where it sets no limit."""
    body = query.body or {}
    config = body.get("generationConfig", body.get("generation_config"))
    places = [body, config if isinstance(config, Mapping) else {}]
    limits = [whole_number(place.get(name), MAX_TOKENS) for place in places for name in MOST_OUTPUT]
    stated = [limit for limit in (*limits, query.max_output_tokens) if limit is not None]
    return min(stated) * answers(query) if stated else None
