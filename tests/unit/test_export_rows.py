"""A row of an export is an answer or has a reason: prompts, costs, times and forms of files."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.exports import USER, call, read, scores, span, table, write
from worker.exports.prices import read_prices
from worker.exports.records import LeftOut

# What stands in a row: the prompt that is embedded.
PROMPTS: dict[str, tuple[Any, str | None]] = {
    "a text": ("Why?", "Why?"),
    "messages": (USER, "Why?"),
    "messages as JSON": (json.dumps(USER), "Why?"),
    "a request as JSON": (json.dumps({"model": "x", "messages": USER}), "Why?"),
    "Responses": ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "Why?"}]}]}, "Why?"),
    "Gemini": ({"contents": [{"role": "user", "parts": [{"text": "Why?"}]}]}, "Why?"),
    "Anthropic's blocks": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]}, "Why?"),
    "the last question of several": ([*USER, {"role": "assistant", "content": "So."}, USER[1]], "Why?"),
    "a tool's answer after the question": ([*USER, {"role": "tool", "content": "22"}], "Why?"),
    "LangChain's classes": ([[{"id": ["x", "HumanMessage"], "kwargs": {"content": "Why?"}}]], "Why?"),
    "LangChain's pairs": ({"messages": [["human", "Why?"]]}, "Why?"),
    "LangChain's text": ({"prompts": ["System: Be brief.\nHuman: Why?\nAnd how?"]}, "Why?\nAnd how?"),
    "an argument of a function": ({"question": "Why?"}, "Why?"),
    "nothing": ({}, None),
    "lists without an end": (json.loads("[" * 900 + "]" * 900), None),
    "blanks": ("  ", None),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_is_the_text_of_the_last_user_message(name: str, tmp_path: Path) -> None:
    """In every shape that tools keep it in."""
    given, expected = PROMPTS[name]
    found = read(write(tmp_path, {"observations.jsonl": [span("1", input=given), span("2", traceId="u")]}))
    assert [one.answer.prompt for one in found.results if one.answer.id == "1"] == ([expected] if expected else [])


# A prompt that is not there, or not whole: the reason.
MARKERS = {
    "redacted-by-litellm": "redacted",
    "__REDACTED__": "redacted",
    "[REDACTED]": "redacted",
    "<masked>": "redacted",
    "Read this: ... (litellm_truncated skipped 2000 chars) ...": "truncated",
    "Read this: rain rain [truncated]": "truncated",
    "": "no_prompt",
}


@pytest.mark.parametrize("text", MARKERS)
def test_a_prompt_that_is_hidden_or_cut_is_left_out(text: str, tmp_path: Path) -> None:
    """Its embedding would be that of a marker."""
    asked = {"messages": [{"role": "user", "content": text}]}
    found = read(write(tmp_path, {"logs.json": [call("1", proxy_server_request=asked), call("2")]}))
    assert found.left == [LeftOut("1", MARKERS[text])]  # type: ignore[arg-type]


# A row of a spend log: the reason why it is left out, or None.
CALLS: dict[str, tuple[dict[str, Any], str | None]] = {
    "an answer": ({}, None),
    "a failure": ({"status": "failure"}, "error"),
    "a hit of the cache, as text": ({"cache_hit": "True"}, "cached"),
    "a hit of the cache, as a boolean": ({"cache_hit": True}, "cached"),
    "an embedding": ({"call_type": "aembedding"}, "not_chat"),
    "a picture": ({"call_type": "image_generation"}, "not_chat"),
    "a Responses call": ({"call_type": "aresponses", "proxy_server_request": {"input": "Why?"}}, None),
    "only `messages` has the prompt": ({"proxy_server_request": {}, "messages": json.dumps(USER)}, None),
    "a request that is JSON in JSON": ({"proxy_server_request": json.dumps(json.dumps({"messages": USER}))}, None),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_row_is_an_answer_or_has_a_reason(name: str, tmp_path: Path) -> None:
    """Rows of one file differ in type from line to line."""
    changed, expected = CALLS[name]
    found = read(write(tmp_path, {"logs.jsonl": [call("1", **changed), call("2")]}))
    assert [one.reason for one in found.left] == ([] if expected is None else [expected])


# What a source says of a cost, and its tokens: the cost with prices of 1 and 2 US dollars per million tokens.
COSTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "stated": ({}, "0.01"),
    "0 with tokens": ({"spend": 0}, "0.00002"),
    "0 without tokens": ({"spend": 0, "prompt_tokens": 0, "completion_tokens": 0}, None),
    "empty": ({"spend": ""}, "0.00002"),
    "with an exponent": ({"spend": "8.7e-06"}, "0.0000087"),
    "of an LLM without a price": ({"spend": 0, "model": "own"}, None),
    "of a free LLM": ({"spend": 0, "model": "free"}, "0"),
    "cached input": (
        {
            "spend": 0,
            "metadata": {
                "usage_object": {
                    "prompt_tokens": 10,
                    "completion_tokens": 5,
                    "prompt_tokens_details": {"cached_tokens": 10},
                }
            },
        },
        "0.000015",
    ),
}
PRICES = "llm,input_usd_per_mtok,cached_input_usd_per_mtok,output_usd_per_mtok\ngpt-4o,1,0.5,2\nfree,0,0,0\n"


@pytest.mark.parametrize("name", COSTS)
def test_a_cost_is_stated_or_priced_or_unknown(name: str, tmp_path: Path) -> None:
    """A 0 is a cost only if the price is 0."""
    changed, expected = COSTS[name]
    prices = read_prices(write(tmp_path / "p", {"prices.csv": PRICES}) / "prices.csv")
    found = read(write(tmp_path / "e", {"logs.json": [call("1", **changed)]}), price_of=prices)
    assert found.results[0].cost_usd == (None if expected is None else Decimal(expected))


# Columns of a team's own table: the cost in US dollars.
UNITS = {"cost_usd": "0.01", "cost_cents": "1", "cost_micros": "10000", "Cost (USD)": "$0.01", "cost": "1e-2"}


@pytest.mark.parametrize("column", UNITS)
def test_costs_are_in_the_unit_of_their_column(column: str, tmp_path: Path) -> None:
    """Cents are not dollars."""
    found = read(write(tmp_path, {"t.jsonl": table([1], **{column: UNITS[column]})}))
    assert found.results[0].cost_usd == Decimal("0.01")


# Times as people write them.
TIMES: dict[str, Any] = {
    "ISO": "2026-10-09T08:04:45.000Z",
    "with an offset": "2026-10-09T10:04:45+02:00",
    "without a zone": "2026-10-09 08:04:45",
    "day first": "09.10.2026 08:04:45",
    "seconds": 1791533085,
    "seconds as text": "1791533085.0",
    "milliseconds": 1791533085000,
    "nanoseconds as text": "1791533085000000000",
}


@pytest.mark.parametrize("name", TIMES)
def test_times_are_read_however_they_are_written(name: str, tmp_path: Path) -> None:
    """A number says by its size which unit it has."""
    found = read(write(tmp_path, {"t.jsonl": table([1], time=TIMES[name])}))
    assert found.results[0].answer.at_ms == 1791533085000


# Files of one table in other forms.
ROWS = table([1, 0])
CSV = "id;prompt;model;score;cost_usd\n0;Why?;gpt-4o;1,0;0,01\n1;Why?;gpt-4o;0,5;0,01\n"
TSV = "id\tprompt\tmodel\tscore\n0\tWhy?\tgpt-4o\t1\n1\tWhy?\tgpt-4o\t0.5\n"


def test_semicolons_and_decimal_commas_are_read(tmp_path: Path) -> None:
    """As a spreadsheet writes them where decimals stand after a comma."""
    found = read(write(tmp_path, {"t.csv": CSV}))
    assert (scores(found), found.results[0].cost_usd) == ([1, 0.5], Decimal("0.01"))


def test_tabs_gzip_and_parquet_are_read(tmp_path: Path) -> None:
    """The same rows in each."""
    write(tmp_path / "tsv", {"t.tsv": TSV})
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz" / "t.tsv.gz").write_bytes(gzip.compress(TSV.encode()))
    (tmp_path / "pq").mkdir()
    parquet.write_table(pa.Table.from_pylist(table([1, 0.5])), tmp_path / "pq" / "t.parquet")
    assert [scores(read(tmp_path / kind)) for kind in ("tsv", "gz", "pq")] == [[1, 0.5]] * 3


def test_a_line_that_is_cut_is_left_out(tmp_path: Path) -> None:
    """The last line of a log is often half written."""
    lines = "\n".join(json.dumps(row) for row in ROWS) + '\n{"id": "2", "prom'
    found = read(write(tmp_path, {"t.jsonl": lines}))
    assert (len(found.results), found.left) == (2, [LeftOut("t.jsonl:3", "unreadable")])


def test_rows_without_ids_meet_by_their_prompt(tmp_path: Path) -> None:
    """Two LLMs that were asked the same stand in one row."""
    rows = [{"prompt": "Why?", "model": name, "score": 1} for name in ("a", "b")]
    found = read(write(tmp_path, {"t.jsonl": [*rows, {"prompt": "How?", "model": "a", "score": 0}]}))
    assert len({one.answer.query_id for one in found.results}) == 2


# A row of a team's own log: its LLM, score and cost.
OWN: dict[str, tuple[dict[str, Any], tuple[str, float | None, str | None]]] = {
    "units in brackets": ({"Query": "Why?", "Model": "a", "Rating": 1, "Cost ($)": "0.01"}, ("a", 1, "0.01")),
    "another currency": ({"query": "Why?", "model": "a", "score": 1, "Cost (EUR)": "1"}, ("a", 1, None)),
    "cents in brackets": ({"query": "Why?", "model": "a", "score": 1, "Cost (cents)": "1"}, ("a", 1, "0.01")),
    "scores in an object": ({"input": USER, "model": "a", "scores": {"ok": 0.5}, "cost": 0.01}, ("a", 0.5, "0.01")),
    "the cost in the usage": ({"messages": USER, "llm": "a", "score": 1, "usage": {"cost": 0.01}}, ("a", 1, "0.01")),
    "requests and responses": (
        {"request": {"model": "a", "messages": USER}, "response": {"model": "a-1"}, "score": 1},
        ("a-1", 1, None),
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_a_log_of_ones_own_is_read_by_its_columns(name: str, tmp_path: Path) -> None:
    """Whatever their names are, and also if the first row lacks some of them."""
    row, expected = OWN[name]
    found = read(write(tmp_path, {"t.jsonl": [{"comment": "begun"}, row]}))
    assert [(one.llm, one.score, one.cost_usd) for one in found.results] == [
        (*expected[:2], None if expected[2] is None else Decimal(expected[2]))
    ]


def test_a_page_of_an_api_holds_rows(tmp_path: Path) -> None:
    """APIs list objects as `data`."""
    found = read(write(tmp_path, {"page.json": {"object": "list", "data": [call("1"), call("2")], "has_more": False}}))
    assert [one.answer.id for one in found.results] == ["1", "2"]
