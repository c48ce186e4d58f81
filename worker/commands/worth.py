"""What `tollgate evaluate` says of a log in which one LLM answered each row."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from worker.commands.tables import Figures
from worker.contract import sentences
from worker.contract.codes import Untold
from worker.evaluation.off_policy import Interval
from worker.evaluation.worth import Report, Worth

COLUMNS = ("policy", "answers", "effective", "unsupported", "quality", "cost USD", "gained quality", "saved USD")


def show(console: Console, report: Report) -> None:
    """A table of policies, and the reasons of those whose figures are not told."""
    console.print(
        f"{report.rows:,} rows that one LLM answered; ± is half of a 95 % interval; how likely each LLM was asked is "
        f"{'guessed from the log' if report.guessed else 'recorded in the table'}"
    )
    console.print(Figures(COLUMNS, [_cells(worth) for worth in report.policies]))
    for worth in report.policies:
        if worth.policy == "priced_at_equal_quality" and worth.saved_usd is not None:
            console.print(f"{worth.title}: would have saved {_cell(worth.saved_usd, ',.2f')} USD")
        if worth.policy == "priced_at_equal_cost" and worth.gained_quality is not None:
            console.print(f"{worth.title}: would have gained {_cell(worth.gained_quality, '.3f')} of quality a row")
    untold: Sequence[Untold] = sorted({worth.support.untold for worth in report.policies if worth.support.untold})
    for code in untold:
        console.print(f"{code}: {sentences.untold(code)}")


def _cells(worth: Worth) -> tuple[str, ...]:
    support = worth.support
    counts = (worth.title, f"{support.answers:,}", f"{support.effective:,.0f}", f"{support.unsupported:.1%}")
    if support.untold is not None:
        return (*counts, support.untold, "", "", "")
    return (
        *counts,
        _cell(worth.quality, ".3f"),
        _cell(worth.cost_usd, ",.2f"),
        _cell(worth.gained_quality, "+.3f"),
        _cell(worth.saved_usd, "+,.2f"),
    )


def _cell(interval: Interval | None, form: str) -> str:
    return "" if interval is None else f"{interval.value:{form}} ± {interval.half_width:{form.replace('+', '')}}"
