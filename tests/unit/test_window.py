"""The window: the newest estimates in a ring, written in blocks and put back as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.contract.messages import WindowBlock
from worker.core.draws import NO_TAGS
from worker.core.window import BLOCK_ROWS, Sample, Window

LLMS = 2


def filled(size: int, count: int, first: int = 0) -> Window:
    """A window after `count` estimates; number n has the quality n / 1024 and the cost n, for both LLMs."""
    window = Window(size, LLMS)
    for number in range(first, first + count):
        window.put(number, [number / 1024] * LLMS, [number] * LLMS, NO_TAGS, 0)
    return window


def lists(sample: Sample) -> tuple[object, ...]:
    """A sample as what can be compared."""
    return sample.quality.tolist(), sample.cost_micros.tolist(), sample.cells, sample.input_tokens.tolist()


# What is asked of 25 estimates in a window of 20: (count, end, the numbers expected).
NEWEST = [
    ("the newest, oldest first", 3, 25, [22, 23, 24]),
    ("around the end of the ring", 8, 24, [16, 17, 18, 19, 20, 21, 22, 23]),
    ("no more than there is room for", 1_000, 25, [*range(5, 25)]),
    ("none", 0, 25, []),
]


@pytest.mark.parametrize(("count", "end", "expected"), [case[1:] for case in NEWEST], ids=[case[0] for case in NEWEST])
def test_the_newest_are_returned_oldest_first(count: int, end: int, expected: list[int]) -> None:
    """Quality and cost of the `count` queries before `end`."""
    quality, cost_micros, *_ = filled(20, 25).newest(count, end)
    assert (quality[:, 0] * 1024).tolist() == cost_micros[:, 1].tolist() == expected


@pytest.mark.parametrize(("size", "blocks"), [(0, 0), (1, 1), (BLOCK_ROWS, 1), (BLOCK_ROWS + 1, 2), (1_000, 100)])
def test_the_size_is_rounded_up_to_whole_blocks(size: int, blocks: int) -> None:
    """A window holds at least what was asked for."""
    assert Window(size, LLMS).blocks == blocks


def test_only_touched_blocks_are_written() -> None:
    """Each block once after it changed, whatever was put into it, and none when nothing changed."""
    window = filled(4 * BLOCK_ROWS, BLOCK_ROWS + 1)
    first = window.take_touched()
    window.put(3 * BLOCK_ROWS, [0.5] * LLMS, [1] * LLMS, NO_TAGS, 0)
    assert [*first] == [0, 1]
    assert [*window.take_touched()] == [3]
    assert window.take_touched() == {}


@given(size=st.integers(1, 45), counts=st.lists(st.integers(0, 30), max_size=5), keeps_tokens=st.booleans())
def test_written_blocks_give_the_window_back(size: int, counts: list[int], keeps_tokens: bool) -> None:
    """The last value of each block, as a compacted ledger keeps it, restores every estimate bit for bit, with the
    budgets that its query draws on and its input tokens."""
    window, end = Window(size, LLMS, keeps_tokens), 0
    rows: dict[int, WindowBlock] = {}
    for count in counts:
        for number in range(end, end + count):
            cell = (3, 7) if number % 4 == 0 else NO_TAGS
            window.put(number, [0.1 * number] * LLMS, [2**40 + number] * LLMS, cell, number)
        end += count
        rows |= window.take_touched()
    restored = Window(size, LLMS, keeps_tokens)
    for block, row in rows.items():
        restored.restore(block, row)
    assert lists(restored.newest(size, end)) == lists(window.newest(size, end))


def test_an_estimate_is_kept_exactly() -> None:
    """What float32 holds and any cost up to 2^53 come back as they were put."""
    quality, cost_micros = [float(np.float32(0.1)), 1.0], [2**53, 0]
    window = Window(1, LLMS)
    window.put(0, quality, cost_micros, NO_TAGS, 0)
    kept = window.newest(1, 1)
    assert (kept.quality[0].tolist(), kept.cost_micros[0].tolist()) == (quality, cost_micros)
