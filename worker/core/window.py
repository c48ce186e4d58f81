"""The newest estimates of a lane: what the next prices are solved on, kept so that a crash forgets none of them.

A ring of rows, written to the ledger in small blocks: a transaction rewrites only the blocks that it touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.contract.messages import WindowBlock

# Ten rows keep the rewrite of a half-full block near 2 kB at 17 LLMs, and 1,000 rows in a hundred ledger rows.
BLOCK_ROWS = 10


class Window:
    """A ring of the newest `size` estimates over `llms` LLMs (`size` is rounded up to whole blocks)."""

    def __init__(self, size: int, llms: int) -> None:
        self.blocks = -(-size // BLOCK_ROWS)
        self._quality = np.zeros((self.blocks * BLOCK_ROWS, llms), dtype="<f4")
        self._cost_micros = np.zeros((self.blocks * BLOCK_ROWS, llms), dtype="<f8")
        self._touched: set[int] = set()

    def put(self, number: int, quality: Sequence[float], cost_micros: Sequence[float]) -> None:
        """Store the estimate of the lane's `number`-th query, over the oldest."""
        slot = number % len(self._quality)
        self._quality[slot] = quality
        self._cost_micros[slot] = cost_micros
        self._touched.add(slot // BLOCK_ROWS)

    def newest(self, count: int, end: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Quality and cost, [n, LLMs] each, of the `count` queries before number `end`, oldest first."""
        slots = np.arange(end - min(count, len(self._quality)), end) % len(self._quality)
        return self._quality[slots].astype(np.float64), self._cost_micros[slots]

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

    def _block(self, block: int) -> WindowBlock:
        rows = slice(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
        return WindowBlock(self._quality[rows].tobytes(), self._cost_micros[rows].tobytes())
