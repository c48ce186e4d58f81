"""A batch in a system in memory: every line ends once, and nothing is sent twice, wherever the process is killed."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.unit.batch_world import COST_MICROS, Fate, Killed, World, run_batch
from worker.batch import tracker
from worker.batch.state import state_path
from worker.contract.errors import FixSetting


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never comes in memory is not waited for."""
    monkeypatch.setattr(tracker, "PATIENCE_SECONDS", 0.0)


def write(path: Path, texts: list[str]) -> Path:
    """A file with one request for each text; its id is the text."""
    lines = [{"custom_id": text, "body": {"messages": [{"role": "user", "content": text}]}} for text in texts]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path: Path) -> list[Any]:
    """The lines of an output file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ids(path: Path) -> Counter[str]:
    """How often each id is in an output file."""
    return Counter(line["custom_id"] for line in read(path))


TEXTS = [f"question {number}" for number in range(40)]
FATES: dict[str, Fate] = {
    "defer": "defer",
    "reject": "reject",
    "filter": "filter",
    "retry": "retry",
    "expire": "expire",
    "late": "late",
    "hurry": "hurry",
    "lose": "lose",
}
ENDS = [
    ("answer", None, None, COST_MICROS),
    ("retry", None, None, COST_MICROS),
    ("defer", "priced_out", None, 0),
    ("reject", "dead_letter", None, 0),
    ("filter", "content_filter", 400, 99),
    ("expire", "unanswered", None, 0),
    ("late", "batch_expired", None, 0),
    ("hurry", "batch_expired", None, 0),
    ("lose", "answer_lost", None, COST_MICROS),
]


@pytest.mark.parametrize(("text", "code", "status", "spent"), ENDS, ids=[end[0] for end in ENDS])
def test_an_end_becomes_a_line(tmp_path: Path, text: str, code: str | None, status: int | None, spent: int) -> None:
    """A result has the provider's answer. A refusal of the provider has a response, another failure has an error."""
    requests, results = write(tmp_path / "in.jsonl", [text]), tmp_path / "out.jsonl"
    summary = run_batch(requests, results, World(FATES))
    assert summary.spent_micros == spent
    assert summary.failed == ({} if code is None else {code: 1})
    if code is None:
        [line] = read(results)
        assert line["response"]["status_code"] == 200
        assert line["response"]["body"]["choices"][0]["message"]["content"] == "four"
        assert line["error"] is None
        return
    assert read(results) == []
    [line] = read(tmp_path / "errors.jsonl")
    told = line["response"]["body"]["error"] if status else line["error"]
    assert told["code"] == code
    assert len(told["message"]) > 20, "it says what to do"
    assert told["cost_micros"] == spent
    assert (line["response"] or {}).get("status_code") == status


# After how many steps the process is killed, run after run.
CRASHES = [*([steps] for steps in range(25)), [3, 5, 7, 9, 2, 4, 4, 4]]


@pytest.mark.parametrize("kills", CRASHES, ids=str)
def test_killed_anywhere(tmp_path: Path, kills: list[int]) -> None:
    """Each line ends once, each query is sent once, and the summary has the bill of all runs."""
    texts = [*TEXTS, *FATES]
    requests, results, world = write(tmp_path / "in.jsonl", texts), tmp_path / "out.jsonl", World(FATES)
    for kill in kills:
        with suppress(Killed):
            run_batch(requests, results, world, kill_after=kill)
        # What the process wrote last may be half a line.
        if results.exists() and results.stat().st_size:
            results.write_bytes(results.read_bytes()[:-5])
    summary = run_batch(requests, results, world)
    assert ids(results) + ids(tmp_path / "errors.jsonl") == Counter(texts)
    assert set(world.sent.values()) == {1}, "a query was sent twice"
    assert summary.spent_micros == world.billed.total() + 99 + COST_MICROS, "filter and lose cost too"
    assert summary.answered == len(TEXTS) + 1


def test_everything_but_the_topics_is_lost(tmp_path: Path) -> None:
    """Without its files, a batch takes the answers of its earlier run, and asks again what had none."""
    requests, results, world = (
        write(tmp_path / "in.jsonl", ["one", "two", "defer"]),
        tmp_path / "out.jsonl",
        World(FATES),
    )
    run_batch(requests, results, world)
    for path in (results, tmp_path / "errors.jsonl", state_path(results)):
        path.unlink()
    world.fates = {}
    summary = run_batch(requests, results, world)
    assert summary.answered == 3
    assert sorted(world.billed.values()) == [COST_MICROS] * 3


def test_another_result_file_without_a_state(tmp_path: Path) -> None:
    """Lines that are in the file are not asked, whoever wrote them."""
    requests, results, world = write(tmp_path / "in.jsonl", ["one", "two"]), tmp_path / "out.jsonl", World()
    line = {"id": "batch_req_1", "custom_id": "one", "response": {"status_code": 200, "body": {}}, "error": None}
    results.write_text(json.dumps(line) + "\n" + '{"id": "batch_req_2", "custom_id": "two", "respon')
    summary = run_batch(requests, results, world)
    assert (summary.answered, summary.earlier, len(world.sent)) == (2, 1, 1)
    assert ids(results) == Counter(["one", "two"])
    assert (tmp_path / "out.jsonl.unreadable").read_text().startswith('{"id": "batch_req_2"')


def test_retry_asks_failed_lines_again(tmp_path: Path) -> None:
    """With --retry they are asked once more under another id; the lines that have a result are not."""
    requests, results, world = write(tmp_path / "in.jsonl", [*TEXTS, *FATES]), tmp_path / "out.jsonl", World(FATES)
    assert run_batch(requests, results, world).answered == len(TEXTS) + 1
    world.fates = {}
    again = run_batch(requests, results, world, retry=True)
    assert again.failed == {}
    assert ids(results) == Counter([*TEXTS, *FATES])
    assert not (tmp_path / "errors.jsonl").exists()
    assert set(world.sent.values()) == {1}
    assert not state_path(results).exists(), "a batch that is done leaves nothing behind"


def test_open_lines_are_limited(tmp_path: Path) -> None:
    """No more lines than `most_open` are sent before others end."""
    world = World({"question": "silent"})
    requests, results = write(tmp_path / "in.jsonl", TEXTS), tmp_path / "out.jsonl"
    with suppress(Killed):
        run_batch(requests, results, world, kill_after=30, most_open=10)
    assert len(world.sent) == 10


def test_a_changed_file(tmp_path: Path) -> None:
    """New lines may be added. A line that has a result and asks another thing now stops the batch, and is named."""
    requests, results, world = write(tmp_path / "in.jsonl", ["one", "two"]), tmp_path / "out.jsonl", World()
    run_batch(requests, results, world)
    write(requests, ["zero", "one", "two"])
    assert run_batch(requests, results, world).answered == 3
    requests.write_text(requests.read_text().replace('"content": "two"', '"content": "three"'))
    with pytest.raises(FixSetting, match="'two' is of another request than line 3"):
        run_batch(requests, results, world)
    assert len(world.sent) == 3
