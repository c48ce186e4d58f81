"""What `tollgate batch` says, and with what it ends."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from worker.batch.outputs import OutputFile
from worker.batch.plan import Refusal, Repeated, UnknownModel
from worker.batch.run import Summary
from worker.batch.state import locked
from worker.batch.tracker import Spent
from worker.commands import batch
from worker.contract.errors import FixSetting

CASES = Path(__file__).parents[1] / "cases/batches"

RANGES = [([1], "1"), ([1, 2, 3], "1-3"), ([1, 3, 4, 9], "1, 3-4, 9")]


@pytest.mark.parametrize(("numbers", "text"), RANGES)
def test_numbers_of_lines(numbers: list[int], text: str) -> None:
    """Runs are ranges."""
    assert batch.ranges(numbers) == text


REFUSALS = [
    (
        Refusal("is compressed; unpack it first"),
        ["in.jsonl: the file is compressed; unpack it first. Nothing was sent."],
    ),
    (
        Refusal(repeated=[Repeated("a", [1, 3])]),
        [
            "in.jsonl: lines 1, 3 have the same custom_id 'a'",
            "Give each line its own custom_id.",
            "Nothing was sent.",
        ],
    ),
    (
        Refusal(unknown=[UnknownModel("gpt", [2, 3, 4])]),
        [
            "in.jsonl: lines 2-4: there is no LLM 'gpt'",
            "The LLMs are big, small. --model LLM, or --model auto, overrides `model`.",
            "Nothing was sent.",
        ],
    ),
]


@pytest.mark.parametrize(("refusal", "lines"), REFUSALS)
def test_a_refusal_in_words(refusal: Refusal, lines: list[str]) -> None:
    """It names every faulty line by number, and says what to do."""
    assert batch.refused(Path("in.jsonl"), refusal, ["big", "small"]) == lines


def test_a_long_refusal() -> None:
    """A screen of faults is enough; the other lines are numbers."""
    many = Refusal(repeated=[Repeated(str(number), [number, number + 1_000]) for number in range(1, 1_001)])
    said = batch.refused(Path("in.jsonl"), many, [])
    assert len(said) < 110
    assert "in.jsonl: the same is wrong with the lines 101-1000, 1101-2000" in said


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of two LLMs, and of a broker that nobody has to reach."""
    path = tmp_path / "tollgate.toml"
    path.write_text('[llms."big/model-a:1"]\nbudget_usd = 1\n[llms."small/model-b"]\nbudget_usd = 1\n')
    return path


@pytest.mark.parametrize("name", ["b02-duplicate-ids", "b03-mixed-models"])
def test_a_refused_file_ends_with_2(tmp_path: Path, config: Path, name: str) -> None:
    """Nothing is written, and no broker is asked."""
    arguments = [str(CASES / f"{name}.jsonl"), str(tmp_path / "out.jsonl"), "--config", str(config), "--json"]
    ended = CliRunner().invoke(batch.app, arguments)
    assert ended.exit_code == 2, ended.output
    assert "Nothing was sent." in ended.stderr
    assert json.loads(ended.stdout)["problem"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tollgate.toml"]


MISTAKES = [
    (["in.jsonl", "in.jsonl"], "must be three files"),
    (["in.jsonl", "out.jsonl", "--errors", "out.jsonl"], "must be three files"),
    (["in.jsonl", "out.jsonl", "--deadline", "tomorrow"], "30m"),
    (["in.jsonl", "out.jsonl", "--tags", "=x"], "the tags cannot be used"),
    (["in.jsonl", "out.jsonl", "--config", "tollgate.toml", "--model", "gpt"], "there is no LLM 'gpt'"),
    (["none.jsonl", "out.jsonl"], "does not exist"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_wrong_usage(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """It ends with 2, and says what is wrong."""
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"custom_id": "a", "body": {"prompt": "One?"}}')
    ended = CliRunner().invoke(batch.app, arguments)
    assert (ended.exit_code, said in ended.stderr) == (2, True), ended.output


def test_a_deadline() -> None:
    """A number with a unit."""
    assert [batch._seconds(text) for text in ("90s", "30m", "24h", "7d")] == [90, 1_800, 86_400, 604_800]
    with pytest.raises(typer.BadParameter):
        batch._seconds("0h")


def test_the_summary() -> None:
    """Where the lines are, why some failed, and the dollars of each LLM."""
    spent = {"small": Spent(2, 100, 0), "big": Spent(5, 2_430, 486)}
    summary = Summary(9, 7, {"content_filter": 1, "custom_id": 1}, 3, 2_530, spent, 0, 1.5, "out.jsonl", "errors.jsonl")
    written = io.StringIO()
    batch.show(Console(file=written, width=200, markup=False), summary)
    said = written.getvalue()
    for line in (
        "answered  7 of 9 lines, in out.jsonl",
        "failed    2 lines (1 content_filter, 1 custom_id), in errors.jsonl",
        "earlier   3 of these lines had ended before this run",
        "spent     0.0025 USD in 1.5 s",
    ):
        assert line in said, said
    assert said.index("big") < said.index("small"), "the dearest first"


def test_one_process_runs_a_batch(tmp_path: Path) -> None:
    """A second process is refused while the first runs."""
    place = tmp_path / "out.jsonl.state"
    second = locked(place)
    with locked(place), pytest.raises(FixSetting, match="another process runs this batch"):
        second.__enter__()
    with locked(place):
        pass
    assert list(tmp_path.iterdir()) == []


RESULT = b'{"id": "x", "custom_id": "a", "response": {"status_code": 200, "body": {}}, "error": null}\n'
CUT = [
    ("the last line is cut", RESULT + RESULT[:40], RESULT, 1),
    ("a line is joined with the next", RESULT + RESULT[:40] + RESULT + RESULT, RESULT * 2, 1),
    ("only half a line", RESULT[:40], b"", 1),
    ("zeros of a lost block", RESULT + b"\x00" * 500, RESULT, 1),
    ("whole", RESULT * 2, RESULT * 2, 0),
    ("blank lines", RESULT + b"\n\n" + RESULT, RESULT + b"\n\n" + RESULT, 0),
]


@pytest.mark.parametrize(("content", "kept", "unreadable"), [row[1:] for row in CUT], ids=[row[0] for row in CUT])
def test_what_is_cut_is_set_aside(tmp_path: Path, content: bytes, kept: bytes, unreadable: int) -> None:
    """A whole line stays. What is not whole goes to a file of its own, and is never joined with the next line."""
    file = OutputFile(tmp_path / "out.jsonl")
    file.path.write_bytes(content)
    file.load(lambda _: True)
    file.append(RESULT)
    file.close()
    assert file.path.read_bytes() == kept + RESULT
    assert file.unreadable == unreadable
    assert file.aside.exists() == bool(unreadable)


OTHERS = [b"precious,table\n1,2\n", b'{"custom_id": "a", "body": {}}\n', b"[1]\n"]


@pytest.mark.parametrize("content", OTHERS)
def test_another_file_is_not_touched(tmp_path: Path, content: bytes) -> None:
    """A file that begins with something else is somebody's, and stays as it is."""
    file = OutputFile(tmp_path / "out.jsonl")
    file.path.write_bytes(content)
    with pytest.raises(FixSetting, match="the first line is not a line of a batch"):
        file.load(lambda _: True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert file.path.read_bytes() == content
