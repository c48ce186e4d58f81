"""`tollgate batch` against a real Kafka, a real system, and a provider that counts what it bills."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kafka.commands import run
from tests.kafka.test_infer import PRICES
from tests.provider import provided
from worker.audit.run_verify import verify
from worker.contract.settings import Settings
from worker.local.processes import Child, wait_for
from worker.local.system import System

WAIT_SECONDS = 120.0
COUNT, KILLED_EVERY = 400, 80


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
    ended, said = run(system, "batch", *arguments, "--json")
    assert ended == code, said
    return json.loads(said[said.index("{\n") :])


def spent_micros(settings: Settings) -> int:
    """What the books say was spent."""
    report = verify(settings)
    assert report.ok, report
    return sum(llm.spent_micros for llm in report.llms.values())


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
