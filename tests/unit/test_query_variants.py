"""More queries of the kinds of tests/cases: shapes, items, headers, metadata, and what an LLM must be able to do."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.query_cases import (
    ASK,
    FILE_TOKENS,
    IMAGE_TOKENS,
    INPUT,
    LLM,
    LONG,
    MADE,
    Send,
    of,
    reserved,
)
from worker.contract.codes import Rejection
from worker.contract.messages import Dispatch
from worker.contract.record import Headers

USER = of("user", ASK)
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "42"}]}
CALL = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
OUTPUT_ITEM = {"type": "function_call_output", "call_id": "c", "output": "[1, 2]"}
CALL_ITEM = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
EVENT = {"specversion": "1.0", "id": "1", "source": "/a", "type": "q"}
BARE = {"model": "x", "messages": [USER]}
IN_BASE64 = base64.b64encode(json.dumps(BARE).encode()).decode()


def line(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """A line of a batch file."""
    return {"custom_id": "r-1", "method": "POST", "url": url, "body": body}


VARIANTS: list[tuple[str, dict[str, Any], int]] = [
    (
        "Responses, an image",
        {"input": [of("user", [{"type": "input_text", "text": ASK}, {"type": "input_image"}])]},
        IMAGE_TOKENS,
    ),
    (
        "Responses, an image by itself",
        {"input": [USER, {"type": "input_image", "image_url": "https://x/y.png"}]},
        IMAGE_TOKENS,
    ),
    (
        "Responses, a file",
        {"input": [of("user", [{"type": "input_text", "text": ASK}, {"type": "input_file"}])]},
        FILE_TOKENS,
    ),
    ("Responses, a function's output", {"input": [USER, CALL_ITEM, OUTPUT_ITEM]}, 0),
    ("Responses, reasoning", {"input": [USER, {"type": "reasoning", "summary": []}, of("assistant", "It is")]}, 0),
    ("Responses, instructions", {"input": ASK, "instructions": LONG}, 38_000),
    ("Responses, developer", {"input": [of("developer", "be brief"), USER]}, 0),
    (
        "Anthropic, a tool's result",
        {"messages": [USER, of("assistant", [CALL]), of("user", [RESULT])], "tools": [TOOL]},
        0,
    ),
    (
        "Anthropic, a result with an image",
        {"messages": [USER, of("user", [RESULT | {"content": [{"type": "image"}]}])]},
        IMAGE_TOKENS,
    ),
    (
        "Anthropic, a document",
        {"messages": [of("user", [{"type": "document"}, {"type": "text", "text": ASK}])]},
        FILE_TOKENS,
    ),
    ("Anthropic, thinking", {"messages": [USER, of("assistant", [{"type": "thinking", "thinking": "It"}]), USER]}, 0),
    ("chat, developer", {"messages": [of("developer", "be brief"), USER]}, 0),
    ("chat, the developer alone", {"messages": [of("developer", ASK)]}, 0),
    (
        "chat, odd roles beside it",
        {"messages": [of("user", ASK), {"role": ["user"], "content": {}}, {"role": None}]},
        0,
    ),
    ("Completions, two prompts", {"prompt": ["Hello", ASK]}, 0),
    ("metadata that is a text", BARE | {"metadata": "team"}, 0),
    ("metadata that is a list", BARE | {"metadata": [1]}, 0),
    ("metadata of somebody else", BARE | {"metadata": {"id": 7, "tags": "x"}}, 0),
    ("a batch line for Responses", line("/v1/responses", {"input": ASK}), 0),
    ("a batch line for Messages", line("/v1/messages", {"messages": [USER]}), 0),
    ("a batch line for Completions", line("/v1/completions", {"prompt": ASK}), 0),
    ("Anthropic's batch line", {"custom_id": "r-1", "params": {"messages": [USER]}}, 0),
    ("a CloudEvent with a request", EVENT | {"data": BARE}, 0),
    ("a CloudEvent with a batch line", EVENT | {"data": line("/v1/chat/completions", BARE)}, 0),
    ("a CloudEvent with base64", EVENT | {"data_base64": IN_BASE64}, 0),
]


@pytest.mark.parametrize(("value", "tokens"), [c[1:] for c in VARIANTS], ids=[c[0] for c in VARIANTS])
def test_a_variant_is_dispatched(send: Send, value: dict[str, Any], tokens: int) -> None:
    """It reserves at least what the question alone does, and what is sent besides."""
    outcome = send(value)
    assert isinstance(outcome, Dispatch), outcome
    assert outcome.reserved_micros >= reserved(send, "00") + tokens * INPUT


def test_every_answer_of_every_prompt_is_reserved(send: Send) -> None:
    """A list of prompts has as many answers, `n` times each."""
    one, four = send({"prompt": ASK}), send({"prompt": [ASK, ASK], "n": 2})
    assert isinstance(one, Dispatch)
    assert isinstance(four, Dispatch)
    assert four.reserved_micros >= 3.9 * (one.reserved_micros - 10 * INPUT)


REFUSED_VARIANTS: list[tuple[str, dict[str, Any], tuple[tuple[str, bytes], ...], Rejection]] = [
    ("an image alone", {"input": [of("user", [{"type": "input_image"}])]}, (), Rejection("no_text")),
    ("a tool's result alone", {"messages": [of("user", [RESULT])]}, (), Rejection("no_text")),
    ("a prompt of tokens", {"prompt": [[1, 2]]}, (), Rejection("no_text")),
    ("a stored prompt", {"prompt": {"id": "pmpt_1"}}, (), Rejection("no_text")),
    ("embeddings", line("/v1/embeddings", {"input": ASK}), (), Rejection("batch_url", detail="/v1/embeddings")),
    ("a CloudEvent with a text", EVENT | {"data": ASK}, (), Rejection("quoted_json")),
    (
        "a header in seconds",
        BARE,
        (("tollgate-deadline-ms", b"1795564896"),),
        Rejection("deadline_in_seconds", detail="1795564896"),
    ),
    ("a header of bad UTF-8", BARE, (("tollgate-id", b"\xff"),), Rejection("header_value", detail="tollgate-id")),
    ("17 tags", BARE, (("tollgate-tags", b",".join(b"t%d=v" % n for n in range(17))),), Rejection("tags", 16, "17")),
]


@pytest.mark.parametrize(
    ("value", "headers", "why"), [c[1:] for c in REFUSED_VARIANTS], ids=[c[0] for c in REFUSED_VARIANTS]
)
def test_a_variant_is_refused(send: Send, value: dict[str, Any], headers: Headers, why: Rejection) -> None:
    """By the name of what is wrong."""
    assert send(value, headers) == why


NEEDS: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    ("tools that it has", BARE | {"tools": [TOOL]}, {"features": ("tools",)}, True),
    ("tools that it has not", BARE | {"tools": [TOOL]}, {"features": ("json",)}, False),
    ("tools, of which nothing is known", BARE | {"tools": [TOOL]}, {}, True),
    ("an image", MADE["02"], {"features": ()}, False),
    ("a long prompt", MADE["14"], {"context_tokens": 30_000}, False),
    ("a long prompt that fits", MADE["14"], {"context_tokens": 60_000}, True),
    ("a limit of output beyond the context", BARE | {"max_tokens": 900}, {"context_tokens": 800}, False),
    ("another format", {"input": ASK}, {"dialects": ("chat",)}, False),
    ("another format, of an LLM with an address", {"input": ASK}, {"base_url": "http://h/v1"}, False),
    ("the format that it takes", {"input": ASK}, {"dialects": ("responses",)}, True),
    ("a plain text", {"text": ASK}, {"base_url": "http://h/v1", "features": (), "dialects": ("messages",)}, True),
    ("a denied LLM", {"text": ASK, "deny": [LLM]}, {}, False),
    ("a wish for it", BARE | {"model": ["y", LLM]}, {}, True),
]


@pytest.mark.parametrize(("value", "llm", "is_able"), [c[1:] for c in NEEDS], ids=[c[0] for c in NEEDS])
def test_needs(send: Send, value: dict[str, Any], llm: dict[str, Any], is_able: bool) -> None:
    """An LLM that cannot do it is no candidate."""
    outcome = send(value, **llm)
    assert isinstance(outcome, Dispatch) if is_able else outcome == "no_candidate"
