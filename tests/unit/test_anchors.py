"""Anchors: their files, and what a replay proves with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.topics import value as value_of
from tests.unit.test_replay import FIRST, D, diverging, driven, replayed
from worker.audit.chain import Anchor, read_anchors, write_anchors
from worker.contract.errors import FixSetting
from worker.core.journal import record_hash


def test_anchors_are_read_as_they_were_written(tmp_path: Path) -> None:
    """By partition; also those of an older version, without a time."""
    file, anchors = tmp_path / "heads.json", {0: Anchor(0, 7, "ab", 1_000), 1: Anchor(1, 9, "cd")}
    write_anchors(file, reversed(anchors.values()))
    assert read_anchors(file) == anchors


def test_a_file_that_is_not_there_is_created_or_refused(tmp_path: Path) -> None:
    """To create one is asked for: a lost file would else be replaced by one that proves nothing."""
    file = tmp_path / "heads.json"
    with pytest.raises(FixSetting, match="there is no such file"):
        read_anchors(file)
    assert read_anchors(file, create=True) == {}
    write_anchors(file, [])
    with pytest.raises(FixSetting, match="exists"):
        read_anchors(file, create=True)


@pytest.mark.parametrize("content", ["", "{}", '[{"partition": 0}]', "[1]"])
def test_a_file_that_holds_no_anchors_is_refused(tmp_path: Path, content: str) -> None:
    """With its name, so that nobody takes a wrong file for a proof."""
    file = tmp_path / "heads.json"
    file.write_text(content)
    with pytest.raises(FixSetting, match=r"heads\.json: is not an anchor file"):
        read_anchors(file)


ANCHORS = [("the head that was", 30, None, None), ("another head", 30, "abcd", (30, "anchor"))]


@pytest.mark.parametrize(
    ("decisions", "head", "expected"), [case[1:] for case in ANCHORS], ids=[case[0] for case in ANCHORS]
)
def test_an_anchor_must_be_passed(decisions: int, head: str | None, expected: tuple[int, str] | None) -> None:
    """A head kept elsewhere proves that nothing before it was changed, not even all of it consistently."""
    records = driven("priced", 1).topics()[D]
    anchor = Anchor(0, decisions, head or record_hash(value_of(records[decisions - 1])).hex())
    result = replayed(records, anchor=anchor)
    found = None if result.mismatch is None else ((result.mismatch.offset or 0) + 1, result.mismatch.field)
    assert found == expected
    assert result.anchored


UNPASSED = [
    ("past the end", 0, 99, "the chain ends here, at 73 decisions, but the anchor says 99"),
    ("past the end, from a checkpoint", FIRST, 99, "the chain ends here, at 73 decisions, but the anchor says 99"),
    ("of an emptied log", 73, 73, "the chain ends here, at 0 decisions, but the anchor says 73"),
]


@pytest.mark.parametrize(("start", "decisions", "expected"), [c[1:] for c in UNPASSED], ids=[c[0] for c in UNPASSED])
def test_a_chain_that_ends_before_its_anchor_was_cut_off(start: int, decisions: int, expected: str) -> None:
    """Also where the ledger was rewound with it, or nothing is left at all."""
    records = driven("priced", 1).topics()[D][start:]
    divergence = diverging(records, anchor=Anchor(0, decisions, "ab"))
    assert divergence.what == expected
    assert divergence.offset == (72 if records else None)


@pytest.mark.parametrize("right", [True, False])
def test_an_anchor_may_stand_where_the_replay_begins(right: bool) -> None:
    """A checkpoint carries the head of the record before it."""
    records = driven("priced", 1).topics()[D]
    head = record_hash(value_of(records[FIRST - 1])).hex() if right else "abcd"
    result = replayed(records[FIRST:], anchor=Anchor(0, FIRST, head))
    found = None if result.mismatch is None else result.mismatch.field
    assert found == (None if right else "anchor")
    assert result.anchored
