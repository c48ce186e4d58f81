"""What `tollgate replay` makes of whole topics: where it begins and ends, its exit code, and its anchor file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tests.drive import PRIOR, config
from tests.topics import NAMES, Log, Recorded, Shelf
from tests.unit.test_verify import story
from worker.audit import run_replay
from worker.audit.chain import Anchor, read_anchors, write_anchors
from worker.audit.mismatch import Mismatch
from worker.audit.run_replay import Limit, Replayed, Task, replay_one
from worker.commands import replay as replay_command
from worker.commands.main import app
from worker.contract import codec
from worker.contract.decisions import Checkpoint
from worker.contract.errors import FixSetting
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.core.journal import record_hash
from worker.kafka.reader import at_once

D, L = NAMES.decisions, NAMES.ledger
Place = tuple[str, int]


class Topics(Shelf):
    """`decisions` and `ledger`, of which `decisions` begins at offset `oldest`; what came in has left its topics."""

    def __init__(self, log: Log, oldest: int = 0) -> None:
        super().__init__()
        self.log = log
        self.records = [stored for records in log.values() for stored in records]
        self._oldest = oldest

    def oldest(self, places: Iterable[Place]) -> dict[Place, int]:
        """The first offset of each partition."""
        oldest = {D: self._oldest, L: 0}
        return {place: oldest.get(place[0], 10**9) for place in places}


@cache
def written(events: int | None) -> Log:
    return Recorded(config()).run(story()[:events]).topics()


def log(events: int | None = None) -> Log:
    """The story's decisions and ledger, or those of its first events."""
    topics = written(events)
    return {D: list(topics[D]), L: list(topics[L])}


def from_record(number: int) -> Log:
    """The story without its first decisions, as retention leaves it."""
    topics = log()
    return {**topics, D: topics[D][number:]}


def renumbered(topics: Log, by: int) -> Log:
    """A topic written anew: the same records at other offsets."""
    return {**topics, D: [stored._replace(offset=stored.offset - by) for stored in topics[D]]}


def anchor_at(decisions: int) -> Anchor:
    value = log()[D][decisions - 1].value or b""
    return Anchor(0, decisions, record_hash(value).hex(), codec.decode_decision(value).at_ms)


CHECKPOINTS = [
    n for n, decision in enumerate(Recorded(config()).run(story()).decisions) if type(decision) is Checkpoint
]
FIRST, MIDDLE, COUNT = CHECKPOINTS[0], CHECKPOINTS[5], len(log()[D])


def rerunning(monkeypatch: pytest.MonkeyPatch, topics: Topics, task: Task) -> Replayed:
    """The result of one partition."""
    monkeypatch.setattr(run_replay, "prior_of", lambda _: PRIOR)
    return replay_one(Settings(), task, None, topics, 0)


REMOVED = "the topic does not begin with the chain: its beginning was removed"
NOWHERE = "there is neither the beginning of the chain nor a whole checkpoint to begin at"
BEGINNINGS = [
    ("all of it", log(), 0, Task(), None, True),
    ("without its beginning, by retention", from_record(3), 3, Task(), None, False),
    ("exactly at a checkpoint, by retention", from_record(FIRST), FIRST, Task(), None, False),
    (
        "beheaded",
        from_record(3),
        0,
        Task(),
        REMOVED,
        False,
    ),
    (
        "written anew from a checkpoint on",
        renumbered(from_record(FIRST), FIRST),
        0,
        Task(),
        REMOVED,
        False,
    ),
    ("from a checkpoint on, as asked", log(), 0, Task(start=Limit(offset=3)), None, False),
    (
        "without any checkpoint",
        {**log(), D: log()[D][1:3]},
        1,
        Task(),
        NOWHERE,
        False,
    ),
    (
        "emptied",
        {**log(), D: []},
        0,
        Task(),
        NOWHERE,
        False,
    ),
    (
        "without a ledger",
        {**log(), L: []},
        0,
        Task(),
        "the ledger has no account row, which the decisions up to here must have",
        True,
    ),
    ("never written", {D: [], L: []}, 0, Task(), None, False),
]


@pytest.mark.parametrize(
    ("topics", "oldest", "task", "gap", "whole"), [c[1:] for c in BEGINNINGS], ids=[c[0] for c in BEGINNINGS]
)
def test_where_a_replay_may_begin(
    monkeypatch: pytest.MonkeyPatch, topics: Log, oldest: int, task: Task, gap: str | None, whole: bool
) -> None:
    """With the chain, or where retention or the operator cut it off; else somebody removed its beginning."""
    result = rerunning(monkeypatch, Topics(topics, oldest), task)
    assert (result.divergence and result.divergence.what, result.whole) == (gap, whole)


SAYS = "the anchor says 73"
ANCHORED = [
    ("passed", Topics(log()), Task(anchors={0: anchor_at(50)}), None, True),
    (
        "of what was cut off, ledger and all",
        Topics(log(20)),
        Task(anchors={0: anchor_at(COUNT)}),
        "the anchor says",
        True,
    ),
    ("of what was emptied, ledger and all", Topics({}), Task(anchors={0: anchor_at(COUNT)}), SAYS, True),
    ("before what retention left", Topics(from_record(40), 40), Task(anchors={0: anchor_at(20)}), "not proven", True),
    ("before where to begin", Topics(log()), Task(start=Limit(offset=40), anchors={0: anchor_at(20)}), None, False),
    ("after where to end", Topics(log()), Task(end=Limit(offset=20), anchors={0: anchor_at(40)}), None, False),
    ("passed before the end", Topics(log()), Task(end=Limit(offset=40), anchors={0: anchor_at(20)}), None, True),
]


@pytest.mark.parametrize(
    ("topics", "task", "wrong", "anchored"), [c[1:] for c in ANCHORED], ids=[c[0] for c in ANCHORED]
)
def test_an_anchor_is_passed_or_it_is_told(
    monkeypatch: pytest.MonkeyPatch, topics: Topics, task: Task, wrong: str | None, anchored: bool
) -> None:
    """What it proves cannot go unseen, unless the operator asked for a part without it."""
    result = rerunning(monkeypatch, topics, task)
    told = result.divergence is None if wrong is None else wrong in str(result.divergence)
    assert (told, result.divergence is not None or result.anchored == anchored) == (True, True), str(result.divergence)


class GrowingTopics(Topics):
    """Topics of a running system: the ledger has five events until a decision is read, and then all of them."""

    def read(self, starts: Mapping[Place, int], done: Callable[[], bool] = at_once) -> Iterator[StoredRecord]:
        if any(topic == D for topic, _ in starts):
            self.records = [stored for records in log().values() for stored in records]
        return super().read(starts, done)


def test_the_ledger_is_read_when_the_start_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that runs on writes checkpoints after its ledger was read: no difference."""
    topics = GrowingTopics({**log(), L: log(5)[L]})
    result = rerunning(monkeypatch, topics, Task(start=Limit(offset=MIDDLE)))
    assert (result.divergence, result.compared) == (None, COUNT - MIDDLE)


@pytest.mark.parametrize("end", [1, 20, 33, 10**6])
def test_a_replay_may_end_early(monkeypatch: pytest.MonkeyPatch, end: int) -> None:
    """Its head is that of the last record compared, whatever the ledger says of later ones."""
    result = rerunning(monkeypatch, Topics(log()), Task(end=Limit(offset=end)))
    assert (result.divergence, result.head) == (None, anchor_at(result.compared))


# The command


ORDINARY = Replayed(
    partition=0,
    compared=100,
    skipped=0,
    first_offset=0,
    whole=True,
    prices_exact=0,
    prices_close=0,
    prices_taken=0,
    estimates_exact=0,
    estimates_close=0,
    estimates_taken=0,
    index_missing=None,
    gone_queries=0,
    gone_completions=0,
    doubts={},
    anchored=None,
    anchor=None,
    head=Anchor(0, 100, "aa"),
    divergence=None,
    accounts_before=[],
    seconds=0.5,
    live_seconds=5.0,
)
GAP = Mismatch("the chain ends here").at(D, 0, None)
OLD = Anchor(0, 50, "bb")
RUNS = [
    ("proven", {"anchored": True}, OLD, (0, Anchor(0, 100, "aa")), "200"),
    ("the first", {"anchored": None}, None, (0, Anchor(0, 100, "aa")), "10.0"),
    ("a gap", {"anchored": False, "divergence": GAP, "head": None}, OLD, (1, OLD), "the chain ends here"),
    ("a part without the anchor", {"anchored": False}, OLD, (0, OLD), "its anchor lies outside of what was replayed"),
    ("nothing to replay", {"first_offset": None, "head": None, "anchored": False}, OLD, (0, OLD), "nothing to replay"),
    ("at a checkpoint", {"whole": False, "first_offset": 7, "skipped": 0}, OLD, (0, Anchor(0, 100, "aa")), "offset 7"),
    (
        "another index",
        {"estimates_taken": 3, "index_missing": "i"},
        OLD,
        (0, Anchor(0, 100, "aa")),
        "index i is not",
    ),
    ("doubts", {"doubts": {"inputs doubted": 3}}, OLD, (0, Anchor(0, 100, "aa")), "3 inputs doubted"),
]


@pytest.mark.parametrize(("changes", "before", "expected", "says"), [c[1:] for c in RUNS], ids=[c[0] for c in RUNS])
def test_the_command_keeps_anchors_and_tells(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    changes: dict[str, object],
    before: Anchor | None,
    expected: tuple[int, Anchor],
    says: str,
) -> None:
    """The exit code, and the heads that the file holds afterwards: only what was proven replaces one."""
    file = tmp_path / "heads.json"
    if before is not None:
        write_anchors(file, [before])
    result = msgspec.structs.replace(ORDINARY, **changes)
    monkeypatch.setattr(replay_command, "replay", lambda *_: iter([result]))
    first = ["--anchor-create"] if before is None else []
    done = CliRunner().invoke(app, ["replay", "--anchor", str(file), *first])
    assert bool(done.exit_code) is bool(expected[0]), done.output
    assert read_anchors(file)[0] == expected[1]
    assert says in f"{done.output} {done.exception}", done.output


AT_MS = 1_760_000_000_000
KEPT = Anchor(0, 50, "bb", AT_MS)
PROOFS: list[tuple[str, dict[str, object], str]] = [
    (
        "from the beginning",
        {"anchored": True, "anchor": KEPT},
        "proven: the first 50 decisions (up to 2025-10-09 08:53:20+00:00) were not changed, removed or moved since "
        "that anchor was kept",
    ),
    (
        "from a checkpoint",
        {"anchored": True, "anchor": KEPT, "whole": False, "first_offset": 7},
        "proven: the decisions from offset 7 to number 50 (up to 2025-10-09 08:53:20+00:00) were not changed, removed "
        "or moved since that anchor was kept",
    ),
    ("of an older file", {"anchored": True, "anchor": OLD}, "proven: the first 50 decisions were not changed"),
    (
        "not passed",
        {"anchored": False, "anchor": KEPT},
        "the anchor at decision 50 (up to 2025-10-09 08:53:20+00:00) was not proven",
    ),
    (
        "none",
        {"anchored": None, "anchor": None},
        "nothing is proven, because the file held no anchor of it; this run keeps one at decision 100",
    ),
]


@pytest.mark.parametrize(("changes", "says"), [c[1:] for c in PROOFS], ids=[c[0] for c in PROOFS])
def test_the_command_says_what_was_proven_and_since_when(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    """One line for each partition: up to which decision and time nothing was changed."""
    file = tmp_path / "heads.json"
    write_anchors(file, [KEPT])
    monkeypatch.setattr(replay_command, "replay", lambda *_: iter([msgspec.structs.replace(ORDINARY, **changes)]))
    done = CliRunner().invoke(app, ["replay", "--anchor", str(file)])
    assert f"anchor partition 0: {says}" in done.output, done.output


WRONG_FILES: list[tuple[str, list[str], bool, str]] = [
    ("a missing file", [], False, "there is no such file; the first time, add --anchor-create"),
    ("a file to create that is there", ["--anchor-create"], True, "exists; without this option it is checked"),
]


@pytest.mark.parametrize(("options", "exists", "says"), [c[1:] for c in WRONG_FILES], ids=[c[0] for c in WRONG_FILES])
def test_a_missing_anchor_file_is_an_error(tmp_path: Path, options: list[str], exists: bool, says: str) -> None:
    """A replay without an anchor proves nothing of the past, and must not look as if it did."""
    file = tmp_path / "heads.json"
    if exists:
        write_anchors(file, [KEPT])
    done = CliRunner().invoke(app, ["replay", "--anchor", str(file), *options])
    assert isinstance(done.exception, FixSetting), done.output
    assert says in str(done.exception)
    assert file.exists() == exists, "the file was changed"


def test_an_anchor_of_another_partition_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where the settings name fewer partitions than there are."""
    file = tmp_path / "heads.json"
    write_anchors(file, [OLD, Anchor(3, 5, "cc")])
    monkeypatch.setattr(replay_command, "replay", lambda *_: iter([ORDINARY]))
    done = CliRunner().invoke(app, ["replay", "--anchor", str(file)])
    assert done.exit_code != 0
    assert "[3]" in str(done.exception)
    assert set(read_anchors(file)) == {0, 3}
