"""What an answer with status 200 says: its JSON, its text, why it ended, its usage. Pure.

An answer is kept as it came where it is JSON of RFC 8259. What is not (NaN, a byte that is not UTF-8) is replaced, and
that is remarked, so that every record of `answers` can be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from worker.contract.codes import Dialect

BOM = b"\xef\xbb\xbf"
# Ends of answers that reached the limit, and of those that were filtered, in all dialects.
AT_LIMIT = {"length", "max_tokens", "max_output_tokens", "model_length"}
FILTERED = {"content_filter", "refusal", "safety", "content-filter"}
FAILED = {"error", "failed"}

_decode = msgspec.json.Decoder().decode


class Body(Struct, frozen=True):
    """A body as JSON: its value, and bytes of valid JSON. `value` is None for what is no JSON."""

    value: Any
    valid: bytes
    text: str
    remarks: tuple[str, ...] = ()


class Reply(Struct, frozen=True):
    """What an answer says. `end` is why it ended. `is_whole` is False if it lacks the fields of an answer."""

    is_whole: bool
    text: str
    end: Literal["stop", "limit", "filtered", "failed"]
    has_calls: bool = False
    refused: bool = False
    usage: dict[str, Any] | None = None
    model: str | None = None


def read_body(raw: bytes, dialect: Dialect, content_type: str) -> Body:
    """The body of a reply. Events of a stream that nobody asked for are put together."""
    stripped = raw.removeprefix(BOM).strip()
    if "event-stream" in content_type or stripped.startswith((b"data:", b"event:")):
        joined = joined_events(stripped, dialect)
        text = stripped.decode("utf-8", "replace")
        return Body(joined, b"" if joined is None else json.dumps(joined).encode(), text, ("joined_events",))
    try:
        value = _decode(stripped)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, ValueError):
        return _repaired(stripped)
    return Body(value, stripped, stripped.decode("utf-8", "replace"))


def _repaired(raw: bytes) -> Body:
    """JSON with NaN, infinite numbers or bytes that are not UTF-8; what is no JSON at all has no value."""
    remarks: list[str] = []

    def number(text: str) -> float | None:
        value = float(text)
        return value if math.isfinite(value) else None

    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
        remarks.append("not_utf8")
    try:
        value = json.loads(text, parse_constant=lambda _: None, parse_float=number, strict=False)
        valid = json.dumps(value).encode()
    except (ValueError, RecursionError):
        return Body(None, b"", text)
    return Body(value, valid, text, tuple(remarks or ["not_a_number"]))


def joined_events(raw: bytes, dialect: Dialect) -> dict[str, Any] | None:
    """The answer that a stream of events makes; None for a stream that ends early or cannot be put together."""
    events = list(_events(raw))
    if dialect == "responses":
        ended = [one.get("response") for one in events if str(one.get("type")).startswith("response.")]
        last = ended[-1] if ended else None
        return last if isinstance(last, dict) and last.get("status") == "completed" else None
    if any(one.get("type") == "message_start" for one in events):
        return _joined_message(events)
    return _joined_chunks(events)


def _events(raw: bytes) -> Iterator[dict[str, Any]]:
    for line in raw.splitlines():
        if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
            continue
        try:
            value = _decode(line[5:].strip())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _joined_chunks(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    texts: dict[int, str] = {}
    ends: dict[int, str] = {}
    for event in events:
        for choice in _dicts(event.get("choices")):
            index, delta = _integer(choice.get("index")), _dict(choice.get("delta"))
            if delta.get("tool_calls") or delta.get("function_call"):
                return None
            said = delta.get("content", choice.get("text"))
            texts[index] = texts.get(index, "") + (said if isinstance(said, str) else "")
            if isinstance(choice.get("finish_reason"), str):
                ends[index] = choice["finish_reason"]
    if not ends or ends.keys() != texts.keys():
        return None
    choices = [
        {"index": n, "finish_reason": ends[n], "message": {"role": "assistant", "content": texts[n]}} for n in texts
    ]
    kept: dict[str, Any] = {name: events[0][name] for name in ("id", "created", "model") if name in events[0]}
    usage = next((one["usage"] for one in reversed(events) if isinstance(one.get("usage"), dict)), None)
    return {**kept, "object": "chat.completion", "choices": choices, **({"usage": usage} if usage else {})}


def _joined_message(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    start: dict[str, Any] = next((one["message"] for one in events if isinstance(one.get("message"), dict)), {})
    deltas = [one["delta"] for one in events if isinstance(one.get("delta"), dict)]
    stop = next((one["stop_reason"] for one in deltas if isinstance(one.get("stop_reason"), str)), None)
    if stop is None or any("partial_json" in one for one in deltas):
        return None
    text = "".join(one["text"] for one in deltas if isinstance(one.get("text"), str))
    usage = [start.get("usage"), *(one.get("usage") for one in events)]
    told = {name: value for one in usage if isinstance(one, dict) for name, value in one.items() if value is not None}
    return {**start, "content": [{"type": "text", "text": text}], "stop_reason": stop, "usage": told}


def read_reply(value: object, dialect: Dialect) -> Reply:
    """What an answer says, by its own fields; a server may answer in another dialect than it was asked in."""
    if not isinstance(value, dict):
        return Reply(False, "", "stop")
    told = value.get("usage")
    common: dict[str, Any] = {
        "usage": told if isinstance(told, dict) and told else None,
        "model": value["model"] if isinstance(value.get("model"), str) else None,
    }
    if isinstance(value.get("choices"), list):
        return _chat(value["choices"], common)
    if isinstance(value.get("output"), list):
        return _response(value, common)
    if isinstance(value.get("content"), list) and dialect == "messages":
        return _message(value, common)
    return Reply(False, "", "stop", **common)


def answer_text(response: bytes) -> str:
    """The text of an answer as JSON, for a person; the JSON itself where it has no text."""
    text = read_reply(_decode(response), "messages").text.strip()
    return text or bytes(response).decode()


def _chat(choices: list[Any], common: dict[str, Any]) -> Reply:
    found = _dicts(choices)
    messages = [_dict(one.get("message")) or one for one in found]
    said = [_text_of(one.get("content", one.get("text"))) for one in messages]
    ends = [_end(one.get("finish_reason")) for one in found]
    failed = any(one.get("error") for one in found)
    return Reply(
        is_whole=bool(found),
        text="".join(said),
        end="failed" if failed or "failed" in ends else next((one for one in ends if one != "stop"), "stop"),
        has_calls=any(one.get("tool_calls") or one.get("function_call") or one.get("audio") for one in messages),
        refused=any(one.get("refusal") for one in messages),
        **common,
    )


def _response(value: dict[str, Any], common: dict[str, Any]) -> Reply:
    items = _dicts(value["output"])
    parts = [part for item in items for part in _dicts(item.get("content"))]
    details = value.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    return Reply(
        is_whole=True,
        text="".join(_text_of(part.get("text")) for part in parts if part.get("type") != "reasoning_text"),
        end=_end(value.get("status") if reason is None else reason),
        has_calls=any(str(item.get("type")).endswith("_call") for item in items),
        refused=any(part.get("type") == "refusal" for part in parts),
        **common,
    )


def _message(value: dict[str, Any], common: dict[str, Any]) -> Reply:
    parts = _dicts(value["content"])
    return Reply(
        is_whole=True,
        text="".join(_text_of(part.get("text")) for part in parts if part.get("type", "text") == "text"),
        end=_end(value.get("stop_reason")),
        has_calls=any("tool_use" in str(part.get("type")) for part in parts),
        **common,
    )


def _end(reason: object) -> Literal["stop", "limit", "filtered", "failed"]:
    word = reason.lower() if isinstance(reason, str) else ""
    if word in AT_LIMIT:
        return "limit"
    if word in FILTERED:
        return "filtered"
    return "failed" if word in FAILED else "stop"


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    return "".join(_text_of(part.get("text")) for part in _dicts(content) if part.get("type") != "thinking")


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0
