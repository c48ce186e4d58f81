"""Tables of names and figures, and money in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from worker.contract.codes import Resource

PADDING = 2
SHORTEST_NAME = 12
USD_PER_MICRO = 1e-6


class Figures:
    """A table of names and figures that never wraps. Figures are right-aligned and whole; on a narrow terminal the
    names in the first column are shortened. The first `texts` columns are left-aligned."""

    def __init__(self, headers: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> None:
        self._headers = headers
        self._texts = texts
        self._rows = [tuple(row) for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(*self._headers, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for row in self._rows:
            table.add_row(*row)
        left = options.max_width - PADDING
        for number, (header, column) in enumerate(zip(self._headers[1:], table.columns[1:], strict=True), start=1):
            column.justify, column.no_wrap = "left" if number < self._texts else "right", True
            column.min_width = max(cell_len(str(cell)) for cell in (header, *column.cells))
            left -= column.min_width + PADDING
        table.columns[0].no_wrap, table.columns[0].max_width = True, max(SHORTEST_NAME, left)
        yield table


def amount(resource: Resource, units: int) -> str:
    """An amount of a budget: US dollars, or a number of tokens, requests or open dispatches."""
    return usd(units) if resource == "usd" else f"{units:,}"


def usd(micros: float) -> str:
    """Micro-dollars as dollars."""
    return f"{micros * USD_PER_MICRO:.4f}"
