"""Writes history as a table: one row for each query and two columns for each LLM, or one row for each answer.

The first is what `tollgate index build` and `tollgate evaluate` read. An empty cell is unknown, or never asked.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from worker.contract.errors import FixSetting
from worker.estimation.history import COST_SUFFIX, PROBABILITY_SUFFIX
from worker.exports.convert import Result
from worker.exports.files import PARQUET
from worker.exports.records import LeftOut
from worker.exports.values import plain, utc

CSV = ".csv"
SCORE_DIGITS = 10
# All other columns are numbers.
TEXTS = {"query_id", "prompt", "model", "at"}
Columns = Mapping[str, Sequence[str]]


def write_table(file: Path, results: Sequence[Result], is_long: bool) -> int:
    """Write a table as CSV or Parquet, by the file's name, and return the number of its rows. Raises FixSetting."""
    kind = file.suffix.lower()
    if kind not in (CSV, PARQUET):
        raise FixSetting(f"{file}: a table is written as {CSV} or {PARQUET}")
    columns = _long(results) if is_long else _wide(results)
    part = file.with_name(f".{file.name}.part")
    try:
        if kind == CSV:
            _write_csv(part, columns)
        else:
            parquet.write_table(_typed(columns), part)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return len(columns["query_id"])


def write_left_out(file: Path, left: Sequence[LeftOut]) -> None:
    """Write the rows that are left out as CSV: their ids and the reasons."""
    _write_csv(file, {"id": [one.id for one in left], "reason": [one.reason for one in left]})


def _write_csv(file: Path, columns: Columns) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _typed(columns: Columns) -> pa.Table:
    arrays = {}
    for name, cells in columns.items():
        known = [cell or None for cell in cells]
        text = pa.array(known, pa.string())
        arrays[name] = text if name in TEXTS else text.cast(pa.float64())
    return pa.table(arrays)


def _long(results: Sequence[Result]) -> Columns:
    """One row for each answer."""
    counts = [one.answer.counts for one in results]
    return {
        "query_id": [one.answer.query_id for one in results],
        "prompt": [one.answer.prompt or "" for one in results],
        "model": [one.llm for one in results],
        "score": [plain(one.score, SCORE_DIGITS) for one in results],
        "cost_usd": [plain(one.cost_usd) for one in results],
        "input_tokens": [plain(one.input_tokens) for one in counts],
        "output_tokens": [plain(one.output_tokens) for one in counts],
        "at": ["" if one.answer.at_ms is None else utc(one.answer.at_ms) for one in results],
    }


def _wide(results: Sequence[Result]) -> Columns:
    """One row for each query. An answer with neither a score nor a cost says nothing, and is not written."""
    told = [one for one in results if one.score is not None or one.cost_usd is not None]
    rows: dict[str, dict[str, Result]] = {}
    for one in told:
        rows.setdefault(one.answer.query_id, {})[one.llm] = one
    answers = list(rows.values())
    firsts = [next(iter(row.values())).answer for row in answers]
    columns: dict[str, Sequence[str]] = {
        "query_id": list(rows),
        "prompt": [first.prompt or "" for first in firsts],
        "input_tokens": [plain(_most_input(row)) for row in answers],
    }
    llms = list(dict.fromkeys(one.llm for one in told))
    for llm in llms:
        columns[llm] = [plain(row[llm].score, SCORE_DIGITS) if llm in row else "" for row in answers]
        columns[llm + COST_SUFFIX] = [plain(row[llm].cost_usd) if llm in row else "" for row in answers]
    if any(one.probabilities for one in told):
        likely = [_likely(next(iter(row.values())), llms) for row in answers]
        columns |= {llm + PROBABILITY_SUFFIX: [str(row[llm]) for row in likely] for llm in llms}
    return columns


def _likely(first: Result, llms: Sequence[str]) -> dict[str, float]:
    """How likely each LLM was asked, 1 in sum. Where the answer does not say it, nobody else could be asked.

    An LLM that never answered has no column: its share goes to the others.
    """
    told = {llm: first.probabilities.get(llm, 0.0) for llm in llms}
    if not (sum_of := sum(told.values())):
        return {llm: float(llm == first.llm) for llm in llms}
    return {llm: one / sum_of for llm, one in told.items()}


def _most_input(row: Mapping[str, Result]) -> int | None:
    """The most input tokens that an LLM counted of a query: the dearest reading."""
    return max((tokens for one in row.values() if (tokens := one.answer.counts.input_tokens) is not None), default=None)
