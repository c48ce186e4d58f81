"""Tables that fit a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

WIDTH = 80
PADDING = 2
SHORTEST_NAME = 12


def figures(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of a name and figures: nothing wraps, figures stand right and whole, names give way."""
    table = Table(*headers, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for row in rows:
        table.add_row(*row)
    left = WIDTH - PADDING
    for header, column in zip(headers[1:], table.columns[1:], strict=True):
        column.justify, column.no_wrap = "right", True
        column.min_width = max(cell_len(str(cell)) for cell in (header, *column.cells))
        left -= column.min_width + PADDING
    table.columns[0].no_wrap, table.columns[0].max_width = True, max(SHORTEST_NAME, left)
    return table
