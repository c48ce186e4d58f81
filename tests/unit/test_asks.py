"""What a query asks of an LLM is read from its request, in the shape of every provider."""

from __future__ import annotations

import math
from typing import Any

import pytest

from worker.contract.asks import asks_of, wish_of
from worker.contract.codes import Dialect, Feature
from worker.contract.messages import Query

USER = {"role": "user", "content": "x"}
FUNCTION = {"type": "function", "function": {"name": "f"}}


def parts(*content: dict[str, Any]) -> dict[str, Any]:
    """A chat request with these parts in its message."""
    return {"messages": [{"role": "user", "content": list(content)}]}


FEATURES: list[tuple[str, dict[str, Any], tuple[Feature, ...]]] = [
    ("nothing", {"messages": [USER]}, ()),
    ("tools", {"messages": [USER], "tools": [FUNCTION]}, ("tools",)),
    ("no tools", {"messages": [USER], "tools": [], "functions": None}, ()),
    ("functions", {"messages": [USER], "functions": [{"name": "f"}]}, ("tools",)),
    ("a tool's result", {"messages": [USER, {"role": "tool", "content": "1"}]}, ("tools",)),
    ("a function's result", {"messages": [USER, {"role": "function", "name": "f", "content": "1"}]}, ("tools",)),
    ("a call", {"messages": [USER, {"role": "assistant", "tool_calls": [FUNCTION]}]}, ("tools",)),
    ("no call", {"messages": [USER, {"role": "assistant", "content": "y", "tool_calls": None}]}, ()),
    ("Anthropic's result", parts({"type": "tool_result", "content": "1"}), ("tools",)),
    ("Anthropic's call", parts({"type": "tool_use", "input": {"type": "image"}}), ("tools",)),
    ("Responses' output", {"input": [USER, {"type": "function_call_output", "output": "1"}]}, ("tools",)),
    ("Responses' own tool", {"input": "x", "tools": [{"type": "web_search"}]}, ("tools",)),
    ("Gemini's result", {"contents": [{"parts": [{"functionResponse": {"name": "f"}}]}]}, ("tools",)),
    ("an image", parts({"type": "image_url", "image_url": {"url": "https://x/y.png"}}), ("vision",)),
    ("Anthropic's image", parts({"type": "image", "source": {}}), ("vision",)),
    ("an image in a result", parts({"type": "tool_result", "content": [{"type": "image"}]}), ("tools", "vision")),
    ("Responses' image", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, ("vision",)),
    ("an image beside messages", {"input": [{"type": "input_image"}]}, ("vision",)),
    (
        "a screenshot",
        {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot"}}]},
        ("tools", "vision"),
    ),
    ("Gemini's image", {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png"}}]}]}, ("vision",)),
    ("Gemini's sound", {"contents": [{"parts": [{"inlineData": {"mimeType": "audio/mp3"}}]}]}, ()),
    ("a tool's description of images", {"messages": [USER], "metadata": {"type": "image"}}, ()),
    ("JSON", {"messages": [USER], "response_format": {"type": "json_object"}}, ("json",)),
    ("a schema", {"messages": [USER], "response_format": {"type": "json_schema"}}, ("json",)),
    ("text", {"messages": [USER], "response_format": {"type": "text"}}, ()),
    ("Responses' JSON", {"input": "x", "text": {"format": {"type": "json_schema"}}}, ("json",)),
    ("Responses' text", {"input": "x", "text": {"format": {"type": "text"}}}, ()),
    ("Gemini's JSON", {"contents": [], "generationConfig": {"responseMimeType": "application/json"}}, ("json",)),
    ("Anthropic's JSON", {"messages": [USER], "output_config": {"format": {"type": "json_schema"}}}, ("json",)),
    ("odd values", {"messages": [{"type": [], "role": {}, "content": [7]}], "response_format": "x", "text": 1}, ()),
]


@pytest.mark.parametrize(("body", "wanted"), [case[1:] for case in FEATURES], ids=[case[0] for case in FEATURES])
def test_features(body: dict[str, Any], wanted: tuple[Feature, ...]) -> None:
    """Tools, images and JSON are found wherever a provider has them, and nowhere else."""
    assert asks_of(Query(body=body)).features == wanted


WISHES: list[tuple[object, tuple[str, ...]]] = [
    ("gpt-4o", ("gpt-4o",)),
    (["a", " b ", "a"], ("a", "b")),
    ("auto", ()),
    (["a", "Auto"], ()),
    ("", ()),
    ([], ()),
    (None, ()),
    (7, ()),
    ([7, {}, "a"], ("a",)),
    ("x" * 257, ()),
]


@pytest.mark.parametrize(("model", "wanted"), WISHES)
def test_wishes(model: object, wanted: tuple[str, ...]) -> None:
    """A name, a list of names, or `auto`; what is no name is no wish."""
    assert wish_of(Query(body={"model": model, "messages": [USER]})) == wanted
    assert wish_of(Query(text="x")) == ()


CONTEXTS: list[tuple[str, Query, float, int]] = [
    ("input alone", Query(text="x"), 10.2, 11),
    ("with its most output", Query(text="x", max_output_tokens=5), 10, 15),
    ("of one of n answers", Query(body={"max_tokens": 5, "n": 3}), 10, 15),
    ("not known", Query(text="x", max_output_tokens=5), math.nan, 0),
]


@pytest.mark.parametrize(("query", "tokens", "wanted"), [c[1:] for c in CONTEXTS], ids=[c[0] for c in CONTEXTS])
def test_context(query: Query, tokens: float, wanted: int) -> None:
    """Input and output share an LLM's context; each of n answers has one of its own."""
    assert asks_of(query, tokens).context_tokens == wanted


FORMATS: list[tuple[Query, tuple[Dialect, ...] | None]] = [
    (Query(text="x"), None),
    (Query(embedding=[1.0]), None),
    (Query(body={"messages": [USER], "max_tokens": 5}), ("chat", "messages")),
    (Query(body={"contents": []}), ()),
]


@pytest.mark.parametrize(("query", "wanted"), FORMATS)
def test_formats(query: Query, wanted: tuple[Dialect, ...] | None) -> None:
    """A plain text goes out in any LLM's own format; a request only in its own."""
    assert asks_of(query).dialects == wanted
