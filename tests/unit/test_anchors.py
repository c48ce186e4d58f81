"""Anchor files: written, read again, and refused when they are something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.audit.chain import Anchor, read_anchors, write_anchors
from worker.contract.errors import FixSetting


def test_anchors_are_read_as_they_were_written(tmp_path: Path) -> None:
    """By partition; a file that is not there holds none."""
    file, anchors = tmp_path / "heads.json", {0: Anchor(0, 7, "ab"), 1: Anchor(1, 9, "cd")}
    write_anchors(file, reversed(anchors.values()))
    assert (read_anchors(file), read_anchors(tmp_path / "none.json")) == (anchors, {})


@pytest.mark.parametrize("content", ["", "{}", '[{"partition": 0}]', "[1]"])
def test_a_file_that_holds_no_anchors_is_refused(tmp_path: Path, content: str) -> None:
    """With its name, so that nobody takes a wrong file for a proof."""
    file = tmp_path / "heads.json"
    file.write_text(content)
    with pytest.raises(FixSetting, match=r"heads\.json: is not an anchor file"):
        read_anchors(file)
