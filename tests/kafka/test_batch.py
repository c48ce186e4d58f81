"""`tollgate batch` against a real Kafka, a real system, and a provider that counts what it bills."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer

from tests.kafka.commands import run_here
from tests.kafka.test_infer import PRICES
from tests.provider import provided
from worker.audit.run_verify import verify
from worker.batch.wire import KafkaWire, Outgoing
from worker.contract.errors import LeaveProcess
from worker.contract.settings import Settings
from worker.estimation import index
from worker.estimation.history import History
from worker.kafka import clients
from worker.local.processes import Child, wait_for
from worker.local.system import System

WAIT_SECONDS = 120.0
COUNT, KILLED_EVERY = 400, 80
CASES = Path(__file__).parents[1] / "cases/batches"


def requests(path: Path, count: int, **fields: Any) -> Path:
    """A file of so many requests."""
    lines = [
        {
            "custom_id": f"q-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": f"What is {number} and {number}?"}], **fields},
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def lines_of(path: Path) -> list[Any]:
    """The lines of an output file."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line] if path.exists() else []


def results_of(path: Path) -> list[bytes]:
    """The whole lines of a file that is being written."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def summary_of(system: System, *arguments: str, code: int = 0) -> Any:
    """Run a batch to its end, and read its summary."""
    ended, said = run_here(system, "batch", *arguments, "--json")
    assert ended == code, said
    return json.loads(said[said.index("{\n") :])


def spent_micros(settings: Settings) -> int:
    """What the books say was spent."""
    report = verify(settings)
    assert report.ok, report
    return sum(llm.spent_micros for llm in report.llms.values())


@pytest.fixture
def start(
    system: System, rows: tuple[History, History], tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[..., Settings]:
    """Starts a system of these LLMs, each with the settings of its calls."""

    def started(calls: Mapping[str, Mapping[str, object]], **sections: Mapping[str, object]) -> Settings:
        past, names = rows[0].rows(np.arange(100)), tuple(calls)
        own = replace(
            past,
            llms=names,
            quality=np.repeat(past.quality[:, :1], len(names), axis=1),
            cost_micros=np.repeat(past.cost_micros[:, :1], len(names), axis=1),
        )
        index.build(own, tmp_path / "own", "wordllama")
        name = re.sub(r"[^a-z0-9]+", "-", request.node.name)
        kafka = {"partitions": 2, "topic_prefix": f"{name}.", "group": name, "session_timeout_ms": 3_000}
        place = {"directory": str(tmp_path / "own")}
        budgets = dict.fromkeys(names, 10.0)
        settings = system.prepare(own, budgets, "wordllama", calls, kafka=kafka, index=place, **sections)
        system.start_workers(1)
        system.start_calling()
        return settings

    return started


def test_killed_and_resumed(system: System, prepare: Callable[..., Settings], tmp_path: Path) -> None:
    """However often a batch is killed, each line is sent, billed and answered once, and the summary is the bill."""
    with provided(slow=10) as provider:
        settings = prepare(calls={"base_url": provider.base_url, "model": "later", "max_open": 10, **PRICES})
        system.start_workers(1)
        system.start_calling()
        place, results = requests(tmp_path / "in.jsonl", COUNT), tmp_path / "out.jsonl"
        arguments = ["batch", str(place), str(results), "--open", "60", "--config", str(system.config)]
        child = Child("batch", arguments, tmp_path / "batch.log")
        for done in range(KILLED_EVERY, COUNT, KILLED_EVERY):
            child.start()
            wait_for("results", lambda done=done: len(results_of(results)) >= done, WAIT_SECONDS, 0.02)  # type: ignore[misc]
            child.kill()
        summary = summary_of(system, str(place), str(results))
        books = spent_micros(settings)
    found = lines_of(results)
    assert sorted(line["custom_id"] for line in found) == sorted(f"q-{number}" for number in range(COUNT))
    assert {line["response"]["body"]["choices"][0]["message"]["content"] for line in found} == {"the answer is four"}
    assert len(provider.asked) == COUNT, "nothing is sent twice"
    assert (summary["answered"], summary["failed"], summary["unbooked"]) == (COUNT, {}, 0)
    assert summary["spent_micros"] == provider.billed.total() == books == COUNT * 486
    assert not (tmp_path / "out.jsonl.state").exists()


QUERY = Outgoing(0, "batch-id", b'{"text": "One?"}')


def test_who_resumes_stops_the_process_before(prepare: Callable[..., Settings]) -> None:
    """A process that was only stopped sends nothing once another process runs its batch."""
    settings = prepare()
    old, new = KafkaWire(settings, "same"), KafkaWire(settings, "same")
    begun = old.begin(None, everything=True)
    assert len(old.send([QUERY])) == 1
    assert new.begin(begun, everything=True) == begun
    assert [key for _, key in new.sent(begun)] == ["batch-id"]
    with pytest.raises(LeaveProcess, match="another process"):
        old.send([QUERY])
    assert len(new.send([QUERY])) == 1


def test_a_transaction_of_another_hides_nothing(prepare: Callable[..., Settings]) -> None:
    """Queries behind another producer's open transaction are there: a batch that begins waits until it sees them."""
    settings = prepare(kafka={"partitions": 1})
    other = Producer(clients.batch_config(settings, "other"))
    other.init_transactions(30)
    other.begin_transaction()
    clients.produce(other, settings.topics.queries, b"{}", "other")
    other.flush(30)
    batch = KafkaWire(settings, "same")
    with ThreadPoolExecutor(1) as beginning:
        # Without this transaction, the query after it would be seen at once.
        written = Producer(clients.producer_config(settings))
        clients.produce(written, settings.topics.queries, QUERY.value, QUERY.query_id)
        written.flush(30)
        begun = beginning.submit(batch.begin, None, True)
        with pytest.raises(TimeoutError):
            begun.result(1.0)
        other.abort_transaction(30)
        assert [key for _, key in batch.sent(begun.result(60))] == ["batch-id"]


# What becomes of each line: its id and its code, None for a result. Lines with the same id have the same code.
Ends = set[tuple[str | None, str | None]]
TWO = ("big/model-a:1", "small/model-b")
SPEAKS = ["chat", "responses", "completions"]
FILES: list[tuple[str, Ends]] = [
    ("b01-plain", {("a", None), ("b", None), ("c", None)}),
    ("b03-mixed-models", {(name, None) for name in "abcde"}),
    ("b04-blank-lines", {("a", None), ("b", None), ("c", "invalid_body")}),
    ("b05-bom-crlf", {("a", None), ("b", None), ("c", None)}),
    ("b06-broken-lines", {("a", None), (None, "invalid_json_line"), ("d", None)}),
    (
        "b07-urls",
        {
            *((name, None) for name in ("chat", "responses", "legacy", "no-url", "whole-url", "mismatch")),
            *((name, "unsupported_url") for name in ("embed", "moderate")),
            ("get", "unsupported_method"),
        },
    ),
    ("b08-stream", {("a", None), ("b", None), ("c", None), ("d", "invalid_body")}),
    (
        "b09-odd-ids",
        {
            *((name, None) for name in ("0007", "7", "x" * 600, "HumanEval/0", "zeile 1\nzeile 2", "ключ-9")),
            ("", "custom_id"),
            (None, "custom_id"),
        },
    ),
    (
        "b13-other-formats",
        {
            *((name, None) for name in ("1", "anthropic", "bedrock", "ours")),
            ("gemini", "unsupported_format"),
            (None, "unsupported_format"),
        },
    ),
    ("b15-line-separators", {(name, None) for name in ("u2028", "u0085", "vt-ff", "u001e", "plain")}),
]


def ends_of(results: Path) -> Ends:
    """What became of each line."""
    told: Ends = {(line["custom_id"], None) for line in lines_of(results)}
    for line in lines_of(results.with_name("out.errors.jsonl")):
        error = line["error"] or line["response"]["body"]["error"]
        told.add((line["custom_id"], error["code"]))
    return told


def test_files_of_two_llms(system: System, start: Callable[..., Settings], tmp_path: Path) -> None:
    """Each file of the cases that names two LLMs, or any, ends as its row says; the exit code too."""
    with provided() as provider:
        call = {"base_url": provider.base_url, "model": "01", "dialects": SPEAKS, **PRICES}
        start(dict.fromkeys(TWO, call))
        for name, right in FILES:
            place = tmp_path / name
            place.mkdir()
            source = (CASES / f"{name}.jsonl").read_bytes()
            if name == "b03-mixed-models":
                source = b"".join(line for line in source.splitlines(True) if b"nobody/knows-it" not in line)
            (place / "in.jsonl").write_bytes(source)
            code = 1 if any(code for _, code in right) else 0
            summary = summary_of(system, str(place / "in.jsonl"), str(place / "out.jsonl"), code=code)
            assert ends_of(place / "out.jsonl") == right, name
            content = [line for line in source.split(b"\n") if line.strip()]
            assert summary["lines"] == summary["answered"] + sum(summary["failed"].values()) == len(content), name
    texts = [one.body["messages"][0]["content"] for one in provider.asked if "messages" in one.body]
    assert {"Two\nlines in the text.", "one\u2028two", "one\x85two", "one\x0b\x0ctwo", "one\x1etwo"} <= set(texts)
    assert not any("stream" in one.body or "stream_options" in one.body for one in provider.asked)
    by_path = {one["custom_id"]: one["response"]["body"] for one in lines_of(tmp_path / "b07-urls/out.jsonl")}
    assert "output" in by_path["responses"]
    assert "text" in by_path["legacy"]["choices"][0]


# Of the lines that fail: what they cost, None for what was reserved.
FAILING: dict[str, tuple[str | None, int | None]] = {
    "good": (None, 486),
    "filtered": ("content_filter", None),
    "too-long": ("context_length", 0),
    "hidden-error": (None, 486),
    "empty": ("bad_answer", 111),
    "no-usage": (None, None),
    "no-money": ("quota", 0),
    "no-messages": ("refused_request", 0),
    "cut": ("bad_answer", None),
}
PLAYED = ("01", "08", "19", "21", "26", "29", "33", "45", "53")


def test_files_of_misbehaving_llms(system: System, start: Callable[..., Settings], tmp_path: Path) -> None:
    """Failed lines have their class and cost, a slow line holds up none, and a resumed file is not asked again.

    The tags of a batch are counted, and a deadline that leaves no time for a call asks nobody. What was answered and
    judged becomes history.
    """
    for name in ("b10", "b11", "b12", "b14", "late", "tagged"):
        (tmp_path / name).mkdir()
    with provided(slow=3) as provider:
        calls = {
            f"case-{one}": {"base_url": provider.base_url, "model": one, "max_open": 8, **PRICES} for one in PLAYED
        }
        settings = start(calls, routing={"max_attempts": 1})

        failing = summary_of(system, str(CASES / "b10-failing-lines.jsonl"), str(tmp_path / "b10/out.jsonl"), code=1)
        assert ends_of(tmp_path / "b10/out.jsonl") == {(name, code) for name, (code, _) in FAILING.items()}
        errors = lines_of(tmp_path / "b10/out.errors.jsonl")
        costs = {
            one["custom_id"]: (one["error"] or one["response"]["body"]["error"]).get("cost_micros", 0) for one in errors
        }
        for name, (code, cost) in FAILING.items():
            if code is not None:
                assert costs[name] == cost if cost is not None else costs[name] > 0, name
        assert failing["spent_micros"] == spent_micros(settings)

        summary_of(system, str(CASES / "b11-slow-first.jsonl"), str(tmp_path / "b11/out.jsonl"))
        assert [one["custom_id"] for one in lines_of(tmp_path / "b11/out.jsonl")][-1] == "slow"

        before = len(provider.asked)
        (tmp_path / "b12/out.jsonl").write_bytes((CASES / "b12-resume.out.jsonl").read_bytes())
        summary_of(system, str(CASES / "b12-resume.jsonl"), str(tmp_path / "b12/out.jsonl"))
        asked = {one.body["messages"][0]["content"] for one in provider.asked[before:]}
        assert asked == {f"What is {number} and {number}?" for number in (2, 4, 5)}
        assert [one["custom_id"] for one in lines_of(tmp_path / "b12/out.jsonl")][:2] == ["q-3", "q-1"]
        assert ends_of(tmp_path / "b12/out.jsonl") == {(f"q-{number}", None) for number in range(1, 6)}

        before = len(provider.asked)
        summary = summary_of(system, str(CASES / "b14-same-question.jsonl"), str(tmp_path / "b14/out.jsonl"))
        assert [one.body.get("n") for one in provider.asked[before:]].count(3) == 1
        assert (len(provider.asked) - before, summary["spent_micros"]) == (4, 4 * 486)

        before, place = len(provider.asked), requests(tmp_path / "in.jsonl", 2, model="case-01")
        summary = summary_of(system, str(place), str(tmp_path / "late/out.jsonl"), "--deadline", "1s", code=1)
        # Who notices first that there is no time for a call: the batch, the inference worker or the lane.
        assert {code for _, code in ends_of(tmp_path / "late/out.jsonl")} <= {"batch_expired", "timeout", "unanswered"}
        assert len(lines_of(tmp_path / "late/out.errors.jsonl")) == 2
        assert (len(provider.asked) - before, summary["spent_micros"]) == (0, 0)

        tags = "--tags", "team=red", "--tags", "stage=test"
        summary_of(system, str(place), str(tmp_path / "tagged/out.jsonl"), "--deadline", "1h", *tags)
        _, said = run_here(system, "status", "--json")
        total = {"queries": 2, "spent_micros": 2 * 486}
        assert json.loads(said)["tags"] == {"team=red": total, "stage=test": total}

        first = lines_of(tmp_path / "b14/out.jsonl")[0]["id"]
        judged = Producer(clients.producer_config(settings))
        clients.produce(judged, settings.topics.judgements, json.dumps({"query_id": first, "quality": 0.5}).encode())
        judged.flush(30)
        ended, said = run_here(system, "history", "from-topics", "--to", str(tmp_path / "history.csv"))
    assert ended == 0, said
    with (tmp_path / "history.csv").open(newline="") as table:
        [row] = [row for row in csv.DictReader(table) if row["query_id"] == first]
    assert (row["prompt"], row["case-01"]) == ("What is two and two?", "0.5")
    assert float(row["case-01|total_cost"]) == 486e-6
