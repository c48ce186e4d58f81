"""A request is read as its provider means it: what it asks, what it pays as input, and the most that it can answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.contract.asks import asks_of
from worker.contract.messages import Query
from worker.contract.requests import answers, input_tokens, most_output_tokens, question

ASK = "Which city is the capital of France?"
USER = {"role": "user", "content": ASK}
LONG = "All of this is in the prompt of the system. " * 200

QUESTIONS: list[tuple[str, Query, str | None]] = [
    ("text", Query(text=ASK), ASK),
    ("text wins over a body", Query(text=ASK, body={"messages": [{"role": "user", "content": "no"}]}), ASK),
    ("chat", Query(body={"messages": [USER]}), ASK),
    ("chat, parts", Query(body={"messages": [{"role": "user", "content": [{"type": "text", "text": ASK}]}]}), ASK),
    ("the last user message", Query(body={"messages": [{"role": "user", "content": "no"}, USER]}), ASK),
    ("an assistant's prefill after it", Query(body={"messages": [USER, {"role": "assistant", "content": "P"}]}), ASK),
    ("a tool's result after it", Query(body={"messages": [USER, {"role": "tool", "content": "42"}]}), ASK),
    ("a developer alone", Query(body={"messages": [{"role": "developer", "content": ASK}]}), ASK),
    ("Responses, text", Query(body={"input": ASK}), ASK),
    ("Responses, list", Query(body={"input": [{"role": "user", "content": ASK}]}), ASK),
    ("Completions", Query(body={"prompt": ASK}), ASK),
    ("Gemini", Query(body={"contents": [{"role": "user", "parts": [{"text": ASK}]}]}), ASK),
    ("Anthropic", Query(body={"system": "Be short.", "messages": [USER]}), ASK),
    ("blank", Query(text=" \n "), None),
    ("NUL", Query(text="\x00\x00"), None),
    ("zero width", Query(text="\u200b\ufeff"), None),
    ("an empty user message", Query(body={"messages": [{"role": "user", "content": ""}]}), None),
    ("no message", Query(body={"messages": []}), None),
    ("an unknown role", Query(body={"messages": [{"role": "human", "content": ASK}]}), None),
]


@pytest.mark.parametrize(("query", "text"), [case[1:] for case in QUESTIONS], ids=[case[0] for case in QUESTIONS])
def test_the_question(query: Query, text: str | None) -> None:
    """The text that is embedded is the last one that a user wrote, in the shape of every provider."""
    assert question(query) == text


MORE_INPUT: list[tuple[str, dict[str, Any]]] = [
    ("a system message", {"messages": [{"role": "system", "content": LONG}, USER]}),
    ("history", {"messages": [{"role": "assistant", "content": LONG}, USER]}),
    ("Anthropic's system", {"system": LONG, "messages": [USER]}),
    ("Anthropic's system in blocks", {"system": [{"type": "text", "text": LONG}], "messages": [USER]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f", "description": LONG}}], "messages": [USER]}),
    ("a tool's result", {"messages": [USER, {"role": "tool", "content": LONG}]}),
    (
        "a tool's arguments",
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": LONG}}]}]},
    ),
    ("Responses' instructions", {"instructions": LONG, "input": ASK}),
    ("Gemini's system", {"systemInstruction": {"parts": [{"text": LONG}]}, "contents": [{"parts": [{"text": ASK}]}]}),
    ("a schema of the answer", {"response_format": {"json_schema": {"description": LONG}}, "messages": [USER]}),
]


@pytest.mark.parametrize("body", [case[1] for case in MORE_INPUT], ids=[case[0] for case in MORE_INPUT])
def test_all_that_is_sent_is_paid(body: dict[str, Any]) -> None:
    """A long text counts wherever it stands in the request."""
    plain = input_tokens(Query(text=ASK))
    long = input_tokens(Query(text=LONG))
    assert long > 1_000
    assert input_tokens(Query(body=body)) >= 0.95 * long + plain


FIGURES: list[tuple[str, dict[str, Any], int]] = [
    ("an image", {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, 1_600),
    ("Anthropic's image", {"type": "image", "source": {"type": "base64", "data": "AAAA"}}, 1_600),
    ("a file", {"type": "file", "file": {"file_id": "file-1"}}, 3_000),
    ("sound", {"type": "input_audio", "input_audio": {"data": "A" * 4_000, "format": "mp3"}}, 12),
]


@pytest.mark.parametrize(("part", "least"), [case[1:] for case in FIGURES], ids=[case[0] for case in FIGURES])
def test_what_is_not_text_has_a_figure(part: dict[str, Any], least: int) -> None:
    """An image, a file and sound are paid too. Their bytes are not text."""
    with_part = input_tokens(
        Query(body={"messages": [{"role": "user", "content": [{"type": "text", "text": ASK}, part]}]})
    )
    plain = input_tokens(Query(text=ASK))
    assert plain + least <= with_part <= plain + least + 10


LIMITS: list[tuple[str, Query, int | None]] = [
    ("no limit", Query(body={"messages": [USER]}), None),
    ("max_tokens", Query(body={"max_tokens": 5}), 5),
    ("max_completion_tokens", Query(body={"max_completion_tokens": 5}), 5),
    ("max_output_tokens", Query(body={"max_output_tokens": 5}), 5),
    ("Gemini", Query(body={"generationConfig": {"maxOutputTokens": 5}}), 5),
    ("beside the body", Query(max_output_tokens=5, body={}), 5),
    ("the smallest wins", Query(max_output_tokens=9, body={"max_tokens": 5, "max_completion_tokens": 7}), 5),
    ("of each of n answers", Query(body={"max_tokens": 5, "n": 3}), 15),
    ("no number", Query(body={"max_tokens": "many"}), None),
]


@pytest.mark.parametrize(("query", "most"), [case[1:] for case in LIMITS], ids=[case[0] for case in LIMITS])
def test_the_most_output(query: Query, most: int | None) -> None:
    """A request's own limit of output tokens holds for each of its answers."""
    assert most_output_tokens(query) == most


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
NAMES = st.sampled_from(
    [
        "role",
        "content",
        "type",
        "parts",
        "text",
        "inlineData",
        "mimeType",
        "input_audio",
        "data",
        "tool_calls",
        "output",
    ]
)
WORDS = st.sampled_from(["user", "tool", "image", "input_image", "file", "input_audio", "tool_result", "json_schema"])
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES, inner, max_size=4)
        | st.dictionaries(st.binary(max_size=2), inner, max_size=2)
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "messages",
        "input",
        "prompt",
        "contents",
        "tools",
        "n",
        "max_tokens",
        "generationConfig",
        "model",
        "text",
        "system",
    ]
)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(FIELDS, VALUES, max_size=5))
def test_nothing_in_a_request_is_an_exception(body: dict[str, Any]) -> None:
    """A producer can put anything that MessagePack holds into a request; an exception would stop its partition."""
    query = Query(body=body)
    assert asks_of(query, input_tokens(query)).context_tokens >= 0
    assert answers(query) >= 1
    question(query)
    most_output_tokens(query)


ANSWERS = [({}, 1), ({"n": 10}, 10), ({"n": 0}, 1), ({"n": "x"}, 1), ({"generationConfig": {"candidateCount": 4}}, 4)]


@pytest.mark.parametrize(("body", "number"), ANSWERS)
def test_the_number_of_answers(body: dict[str, Any], number: int) -> None:
    """Each of n answers is paid. A number that cannot be is 1."""
    assert answers(Query(body=body)) == number
