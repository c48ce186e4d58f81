"""A file of requests is checked whole, line by line: what is sent, what is an error line, and what refuses the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.batch_world import LIMITS
from worker.batch import sentences, source
from worker.batch.faults import LineFault
from worker.batch.lines import BatchLine, read_line
from worker.batch.plan import Plan, Refusal, Repeated, UnknownModel, check
from worker.batch.source import Source
from worker.contract.messages import Query

CASES = Path(__file__).parents[1] / "cases/batches"
TWO = ("big/model-a:1", "small/model-b")
PROVIDER = tuple(f"case-{number:02d}" for number in range(70))

# Of each line with content: its number, and its id if it is sent, or the code of its fault and the id that it keeps.
Right = list[tuple[int, str] | tuple[int, str, str | None]]
FILES: list[tuple[str, Right]] = [
    ("b01-plain", [(1, "a"), (2, "b"), (3, "c")]),
    ("b04-blank-lines", [(2, "a"), (5, "b"), (8, "invalid_body", "c")]),
    ("b05-bom-crlf", [(1, "a"), (2, "b"), (3, "c")]),
    ("b06-broken-lines", [(1, "a"), *((number, "invalid_json_line", None) for number in range(2, 8)), (8, "d")]),
    (
        "b07-urls",
        [
            (1, "chat"),
            (2, "responses"),
            (3, "legacy"),
            (4, "unsupported_url", "embed"),
            (5, "unsupported_url", "moderate"),
            (6, "no-url"),
            (7, "whole-url"),
            (8, "unsupported_method", "get"),
            (9, "mismatch"),
        ],
    ),
    ("b08-stream", [(1, "a"), (2, "b"), (3, "c"), (4, "invalid_body", "d")]),
    (
        "b09-odd-ids",
        [
            (1, "0007"),
            (2, "7"),
            (3, "custom_id", None),
            (4, "custom_id", ""),
            (5, "custom_id", None),
            (6, "x" * 600),
            (7, "HumanEval/0"),
            (8, "zeile 1\nzeile 2"),
            (9, "ключ-9"),
            (10, "custom_id", None),
        ],
    ),
    (
        "b10-failing-lines",
        [
            *((number, name) for number, name in enumerate(["good", "filtered", "too-long", "hidden-error"], 1)),
            *((number, name) for number, name in enumerate(["empty", "no-usage", "no-money"], 5)),
            (8, "refused_request", "no-messages"),
            (9, "cut"),
        ],
    ),
    ("b11-slow-first", [(1, "slow"), *((number + 1, f"fast-{number}") for number in range(1, 6))]),
    ("b12-resume", [(number, f"q-{number}") for number in range(1, 6)]),
    (
        "b13-other-formats",
        [
            (1, "1"),
            (2, "anthropic"),
            (3, "unsupported_format", "gemini"),
            (4, "bedrock"),
            (5, "ours"),
            (6, "unsupported_format", None),
        ],
    ),
    ("b14-same-question", [(number, f"same-{number}") for number in range(1, 5)]),
    ("b15-line-separators", [(1, "u2028"), (2, "u0085"), (3, "vt-ff"), (4, "u001e"), (5, "plain")]),
]


def told(plan: Plan) -> Right:
    """Each line as in FILES."""
    lines = [(number, plan.read(index)) for index, number in enumerate(plan.numbers)]
    return [
        (number, line.code, line.custom_id) if isinstance(line, LineFault) else (number, line.custom_id)
        for number, line in lines
    ]


@pytest.mark.parametrize(("name", "right"), FILES, ids=[name for name, _ in FILES])
def test_a_file(name: str, right: Right) -> None:
    """Each line is sent, or has the fault that it has; blank lines are neither."""
    plan = check(Source(CASES / f"{name}.jsonl"), LIMITS, (*TWO, *PROVIDER))
    assert isinstance(plan, Plan), plan
    assert told(plan) == right


REFUSED: list[tuple[str, Refusal]] = [
    ("b02-duplicate-ids", Refusal(repeated=[Repeated("a", [1, 3]), Repeated("b", [2, 4])])),
    ("b03-mixed-models", Refusal(unknown=[UnknownModel("nobody/knows-it", [6])])),
]


@pytest.mark.parametrize(("name", "right"), REFUSED, ids=[name for name, _ in REFUSED])
def test_a_refused_file(name: str, right: Refusal) -> None:
    """All faulty lines are named by number."""
    assert check(Source(CASES / f"{name}.jsonl"), LIMITS, TWO) == right


def test_every_file_of_the_cases_is_here() -> None:
    """A file without a row would not be tried."""
    assert {path.stem for path in CASES.glob("*.jsonl")} == {
        *(name for name, _ in FILES),
        *(name for name, _ in REFUSED),
        "b12-resume.out",
    }


USER = {"role": "user", "content": "Hello?"}
CHAT: dict[str, Any] = {"messages": [USER]}
FAULTS: list[tuple[str, Any, str, str | None]] = [
    ("no body", {"custom_id": "a", "url": "/v1/responses"}, "invalid_body", "a"),
    ("body is null", {"custom_id": "a", "body": None}, "invalid_body", "a"),
    ("body asks nothing", {"custom_id": "a", "body": {"model": "auto"}}, "invalid_body", "a"),
    ("messages of no user", {"custom_id": "a", "body": {"messages": [{"role": "tool"}]}}, "refused_request", "a"),
    ("a blank question", {"custom_id": "a", "body": {"prompt": " \n"}}, "refused_request", "a"),
    ("model is a number", {"custom_id": "a", "body": {**CHAT, "model": 5}}, "invalid_body", "a"),
    ("model is an empty list", {"custom_id": "a", "body": {**CHAT, "model": []}}, "invalid_body", "a"),
    ("stream is 1", {"custom_id": "a", "body": {**CHAT, "stream": 1}}, "invalid_body", "a"),
    ("images", {"custom_id": "a", "url": "/v1/images/generations", "body": {"prompt": "x"}}, "unsupported_url", "a"),
    ("a url that is none", {"custom_id": "a", "url": "https://[", "body": CHAT}, "unsupported_url", "a"),
    ("url is a number", {"custom_id": "a", "url": 7, "body": CHAT}, "unsupported_url", "a"),
    ("method is a number", {"custom_id": "a", "method": 7, "body": CHAT}, "unsupported_method", "a"),
    ("custom_id is a list", {"custom_id": ["a"], "url": "/v1/responses", "body": CHAT}, "custom_id", None),
    ("recordId is a number", {"recordId": 5, "modelInput": CHAT}, "custom_id", None),
    ("chat to train on", {"messages": [USER, {"role": "assistant", "content": "Hi"}]}, "unsupported_format", None),
    ("a pair to compare", {"prompt": "a", "chosen": "b", "rejected": "c"}, "unsupported_format", None),
    ("an evaluation", {"input": "a", "ideal": "b"}, "unsupported_format", None),
    ("a result", {"id": "x", "custom_id": "a", "response": None, "error": None}, "unsupported_format", "a"),
    ("a row of a table", {"question": "a", "score": 1}, "unsupported_format", None),
    (
        "a wrong word to Tollgate",
        {"custom_id": "a", "body": {**CHAT, "metadata": {"tollgate-alow": "x"}}},
        "invalid_body",
        "a",
    ),
    ("an integer of 65 bits", {"custom_id": "a", "body": {**CHAT, "seed": 2**64}}, "invalid_body", "a"),
]


@pytest.mark.parametrize(("value", "code", "custom_id"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_a_fault(value: Any, code: str, custom_id: str | None) -> None:
    """A line that cannot be sent has a code and the id that it came with, and a sentence that names what is wrong."""
    fault = read_line(json.dumps(value).encode(), 3, LIMITS)
    assert isinstance(fault, LineFault), fault
    assert (fault.code, fault.custom_id) == (code, custom_id)
    assert "{" not in sentences.fault(fault).replace("{custom_id, method, url, body}", "")


RAW = [
    ("NaN", b'{"custom_id": "a", "body": {"prompt": "x", "temperature": NaN}}'),
    ("not UTF-8", b'{"custom_id": "a", "body": {"prompt": "\xff"}}'),
    ("half a surrogate", b'{"custom_id": "a", "body": {"prompt": "\\ud800"}}'),
    ("a NUL", b"\x00" * 10),
    ("two objects", b"{}{}"),
    ("very deep", b"[" * 100_000),
]


@pytest.mark.parametrize("raw", [row[1] for row in RAW], ids=[row[0] for row in RAW])
def test_a_line_that_is_not_json(raw: bytes) -> None:
    """It is a fault, whatever it is."""
    assert read_line(raw, 1, LIMITS) == LineFault("invalid_json_line")


SENT: list[tuple[str, Any, str, Any]] = [
    ("method in small letters", {"custom_id": "a", "method": "post", "body": CHAT}, "a", CHAT),
    ("Azure's url", {"custom_id": "a", "url": "/chat/completions", "body": CHAT}, "a", CHAT),
    ("a slash behind", {"custom_id": "a", "url": "/v1/messages/", "body": CHAT}, "a", CHAT),
    ("Gemini's envelope", {"key": "k", "request": CHAT}, "k", CHAT),
    ("no key", {"request": CHAT}, "12", CHAT),
    ("a request with an id", {"custom_id": "a", **CHAT}, "a", CHAT),
    ("our body", {"id": "a", "body": CHAT}, "a", CHAT),
    ("a limit", {"custom_id": "a", "body": {**CHAT, "max_tokens": 5}}, "a", {**CHAT, "max_tokens": 5}),
    ("stream", {"custom_id": "a", "body": {**CHAT, "stream": True, "stream_options": {}}}, "a", CHAT),
    ("a blank behind", {"custom_id": " a ", "body": CHAT}, " a ", CHAT),
]


@pytest.mark.parametrize(("value", "custom_id", "body"), [row[1:] for row in SENT], ids=[row[0] for row in SENT])
def test_a_line_that_is_sent(value: Any, custom_id: str, body: Any) -> None:
    """Its id is its own, and its request is as it came but for the stream."""
    line = read_line(json.dumps(value).encode(), 12, LIMITS)
    assert isinstance(line, BatchLine), line
    assert (line.custom_id, line.fields["body"]) == (custom_id, body)


def write(path: Path, *lines: bytes) -> Source:
    """A file of these lines."""
    path.write_bytes(b"\n".join(lines))
    return Source(path)


GOOD = b'{"custom_id": "%d", "body": {"prompt": "One?"}}'
PROBLEMS = [
    ("empty", b"", "has no requests"),
    ("blank lines", b"\n  \n\r\n", "has no requests"),
    ("UTF-16", "{}".encode("utf-16"), "is UTF-16; write it as UTF-8"),
    ("gzip", b"\x1f\x8b\x08\x00", "is compressed; unpack it first"),
]


@pytest.mark.parametrize(("content", "problem"), [row[1:] for row in PROBLEMS], ids=[row[0] for row in PROBLEMS])
def test_a_file_of_no_lines(tmp_path: Path, content: bytes, problem: str) -> None:
    """It is refused, and its format is named."""
    assert check(write(tmp_path / "in.jsonl", content), LIMITS, TWO) == Refusal(problem)


def test_a_faulty_line_has_an_id_too(tmp_path: Path) -> None:
    """Two lines with one id are refused, even if one of them could not be sent."""
    plan = check(write(tmp_path / "in.jsonl", GOOD % 1, b'{"custom_id": "1", "body": 5}'), LIMITS, TWO)
    assert plan == Refusal(repeated=[Repeated("1", [1, 2])])


def test_large_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is too large is a fault that names the limit, and its neighbours are sent."""
    monkeypatch.setattr(source, "MOST_LINE_BYTES", 5_000_000)
    large, huge = (
        json.dumps({"custom_id": name, "body": {"prompt": "x" * size}}).encode()
        for name, size in (("large", 2_000_000), ("huge", 9_000_000))
    )
    plan = check(write(tmp_path / "in.jsonl", GOOD % 1, large, GOOD % 2, huge, GOOD % 3), LIMITS, TWO)
    assert isinstance(plan, Plan), plan
    assert told(plan) == [(1, "1"), (2, "request_too_large", "large"), (3, "2"), (4, "line_too_long", None), (5, "3")]
    too_large = plan.read(1)
    assert isinstance(too_large, LineFault)
    assert "limits.max_query_bytes is 1000000" in sentences.fault(too_large)


def test_model_of_the_command_line(tmp_path: Path) -> None:
    """--model replaces the wish of every line, so that an unknown name in the file does not matter."""
    plan = check(Source(CASES / "b03-mixed-models.jsonl"), LIMITS, TWO, ("small/model-b",))
    assert isinstance(plan, Plan), plan
    lines = [plan.read(index) for index in range(len(plan))]
    assert {line.models for line in lines if isinstance(line, BatchLine)} == {("small/model-b",)}
    assert {line.fields["body"]["model"] for line in lines if isinstance(line, BatchLine)} == {"small/model-b"}


DIALECTS = [
    ("/v1/chat/completions", {**CHAT, "max_tokens": 5}, "chat"),
    ("/v1/messages", {**CHAT, "max_tokens": 5}, "messages"),
    ("/v1/chat/completions", CHAT, None),
    ("/v1/chat/completions", {"input": "One?"}, None),
    (None, {**CHAT, "max_tokens": 5}, None),
]


@pytest.mark.parametrize(("url", "body", "dialect"), DIALECTS)
def test_the_url_names_the_format_of_what_could_be_two(url: str | None, body: Any, dialect: str | None) -> None:
    """Where the shape of a request fits one API only, it is of that API."""
    line = read_line(json.dumps({"custom_id": "a", "body": body, **({"url": url} if url else {})}).encode(), 1, LIMITS)
    assert isinstance(line, BatchLine), line
    assert line.fields.get("dialect") == dialect


NAMED: list[tuple[str, Any, tuple[str, ...]]] = [
    ("model", {"custom_id": "a", "body": {**CHAT, "model": "x"}}, ("x",)),
    ("models", {"custom_id": "a", "body": {**CHAT, "model": ["x", "y"]}}, ("x", "y")),
    ("AUTO", {"custom_id": "a", "body": {**CHAT, "model": "AUTO"}}, ()),
    ("auto among others", {"custom_id": "a", "body": {**CHAT, "model": ["x", "auto"]}}, ()),
    ("allow of our query", {"text": "One?", "allow": ["x"]}, ("x",)),
    ("allow in metadata", {"custom_id": "a", "body": {**CHAT, "metadata": {"tollgate-allow": "x"}}}, ("x",)),
]


@pytest.mark.parametrize(("value", "models"), [row[1:] for row in NAMED], ids=[row[0] for row in NAMED])
def test_the_llms_that_a_line_names(value: Any, models: tuple[str, ...]) -> None:
    """All of them are checked before anything is sent."""
    line = read_line(json.dumps(value).encode(), 1, LIMITS)
    assert isinstance(line, BatchLine), line
    assert line.models == models


def test_model_of_the_command_line_holds_for_a_text() -> None:
    """A text has no `model`, so only these LLMs are allowed."""
    line = read_line(b'{"text": "One?"}', 1, LIMITS, ("x",))
    assert isinstance(line, BatchLine), line
    assert (line.fields["allow"], line.models) == (["x"], ("x",))


def test_ids_are_the_same_in_every_run() -> None:
    """A query's id is of the line's id and request: a resumed batch finds its queries. Another request has another."""
    name = CASES / "b14-same-question.jsonl"
    first, second = (check(Source(name), LIMITS, PROVIDER) for _ in range(2))
    assert isinstance(first, Plan)
    assert isinstance(second, Plan)
    ids = [first.digests(index).query_id(1) for index in range(len(first))]
    assert ids == [second.digests(index).query_id(1) for index in range(len(second))]
    assert len(set(ids)) == len(ids), "the same question under another id is another query"
    query = Query(id=ids[0])
    assert len(str(query.id)) <= 256
