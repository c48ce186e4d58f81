"""Tables that fit a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

WIDTH = 80
PADDING = 2
SHORTEST_NAME = 12


def figures(*headers: str) -> Table:
    """A table of a name and figures: the names flush left, the figures right, nothing wrapped."""
    table = Table(*headers, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in table.columns[1:]:
        column.justify = "right"
    for column in table.columns:
        column.no_wrap = True
    return table


def filled(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of figures with its rows: the figures stay whole, the names give way."""
    table = figures(*headers)
    for row in rows:
        table.add_row(*row)
    left = WIDTH - PADDING
    for header, column in zip(headers[1:], table.columns[1:], strict=True):
        column.min_width = max(cell_len(str(cell)) for cell in (header, *column.cells))
        left -= column.min_width + PADDING
    table.columns[0].max_width = max(SHORTEST_NAME, left)
    return table
