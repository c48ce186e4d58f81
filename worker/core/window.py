"""The newest estimates of a lane: what the next prices are solved on, kept so that a crash forgets none of them.

A ring of rows, written to the ledger in small blocks: a transaction rewrites only the blocks that it touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.contract.messages import WindowBlock
from worker.core.draws import NO_TAGS, Cell
from worker.estimation.features import Float64

# Ten rows keep the rewrite of a half-full block near 2 kB at 17 LLMs, and 1,000 rows in a hundred ledger rows.
BLOCK_ROWS = 10


class Sample(NamedTuple):
    """Estimates that prices are solved on, oldest first: quality and cost in micro-dollars, float64 [n, LLMs] each.

    `cells` [n] say which budgets with tags each query draws on; `input_tokens` int64 [n], 0 where they are not known.
    `kinds` int64 [n], 0 where nothing is forecast.
    """

    quality: Float64
    cost_micros: Float64
    cells: tuple[Cell, ...]
    input_tokens: NDArray[np.int64]
    kinds: NDArray[np.int64]

    @classmethod
    def untagged(cls, quality: Float64, cost_micros: Float64, kinds: NDArray[np.int64] | None = None) -> Sample:
        """Estimates of queries of which neither tags nor input tokens are known."""
        unknown = np.zeros(len(quality), np.int64)
        return cls(quality, cost_micros, (NO_TAGS,) * len(quality), unknown, unknown if kinds is None else kinds)

    def newest(self, count: int) -> Sample:
        """The last `count` of them."""
        return self.part(slice(max(0, len(self.quality) - count), None))

    def topped_up(self, other: Sample, count: int) -> Sample:
        """These, and the first of `other`, until there are `count`."""
        more = other.part(slice(max(0, count - len(self.quality))))
        return Sample(
            np.vstack([self.quality, more.quality]),
            np.vstack([self.cost_micros, more.cost_micros]),
            self.cells + more.cells,
            np.concatenate([self.input_tokens, more.input_tokens]),
            np.concatenate([self.kinds, more.kinds]),
        )

    def tagged_as(self, other: Sample) -> Sample:
        """The same estimates with the tags and the input tokens of `other`'s queries, in turn: if nobody knows whose
        queries these were, they are taken for the same mixture."""
        if not other.cells:
            return self
        turn = np.arange(len(self.quality)) % len(other.cells)
        cells = tuple(other.cells[row] for row in turn.tolist())
        return self._replace(cells=cells, input_tokens=other.input_tokens[turn])

    def part(self, rows: slice) -> Sample:
        """These rows of them."""
        return Sample(
            self.quality[rows], self.cost_micros[rows], self.cells[rows], self.input_tokens[rows], self.kinds[rows]
        )


class Window:
    """A ring of the newest `size` estimates over `llms` LLMs (`size` is rounded up to whole blocks)."""

    def __init__(self, size: int, llms: int, keeps_tokens: bool = False) -> None:
        self.blocks = -(-size // BLOCK_ROWS)
        rows = self.blocks * BLOCK_ROWS
        self._quality = np.zeros((rows, llms), dtype="<f4")
        self._cost_micros = np.zeros((rows, llms), dtype="<f8")
        self._cells: list[Cell] = [NO_TAGS] * rows
        self._input_tokens = [0] * rows
        self._kinds = [0] * rows
        self._keeps_tokens = keeps_tokens
        self._touched: set[int] = set()

    def put(
        self,
        number: int,
        quality: Sequence[float],
        cost_micros: Sequence[float],
        cell: Cell,
        input_tokens: int,
        kind: int = 0,
    ) -> None:
        """Store the estimate of the lane's `number`-th query, over the oldest."""
        slot = number % len(self._quality)
        self._quality[slot] = quality
        self._cost_micros[slot] = cost_micros
        self._cells[slot] = cell
        self._input_tokens[slot] = input_tokens if self._keeps_tokens else 0
        self._kinds[slot] = kind
        self._touched.add(slot // BLOCK_ROWS)

    def newest(self, count: int, end: int) -> Sample:
        """The `count` queries before number `end`, oldest first."""
        slots = np.arange(end - min(count, len(self._quality)), end) % len(self._quality)
        return Sample(
            self._quality[slots].astype(np.float64),
            self._cost_micros[slots],
            tuple(self._cells[slot] for slot in slots),
            np.array([self._input_tokens[slot] for slot in slots], np.int64),
            np.array([self._kinds[slot] for slot in slots], np.int64),
        )

    def take_touched(self) -> dict[int, WindowBlock]:
        """The blocks changed since the last call, by number."""
        touched, self._touched = self._touched, set()
        return {block: self._block(block) for block in sorted(touched)}

    def all_blocks(self) -> dict[int, WindowBlock]:
        """Every block, by number."""
        return {block: self._block(block) for block in range(self.blocks)}

    def restore(self, block: int, row: WindowBlock) -> None:
        """Put back one block as it was written."""
        rows = slice(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
        shape = self._quality[rows].shape
        self._quality[rows] = np.frombuffer(row.quality, "<f4").reshape(shape)
        self._cost_micros[rows] = np.frombuffer(row.cost_micros, "<f8").reshape(shape)
        self._cells[rows] = row.cells or (NO_TAGS,) * BLOCK_ROWS
        self._input_tokens[rows] = row.input_tokens or (0,) * BLOCK_ROWS
        self._kinds[rows] = row.kinds or (0,) * BLOCK_ROWS

    def _block(self, block: int) -> WindowBlock:
        rows = slice(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
        cells = tuple(self._cells[rows])
        tokens, kinds = tuple(self._input_tokens[rows]), tuple(self._kinds[rows])
        return WindowBlock(
            self._quality[rows].tobytes(),
            self._cost_micros[rows].tobytes(),
            cells if any(cells) else (),
            tokens if any(tokens) else (),
            kinds if any(kinds) else (),
        )
