"""Past queries with what every LLM scored and cost on them, read from a table.

The layout is that of RouterBench and of the PORT reference code: one row per query; optionally ids, each once
(`query_id`, `index` or `sample_id`; else rows are numbered), `prompt` (text), a category (`source`, `category` or
`eval_name`) and `input_tokens`; and for each LLM two columns: `<llm>` (score in [0, 1]) and `<llm>|total_cost` (USD).
An empty cell means that this LLM never saw this query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, json, parquet

from worker.contract.errors import FixSetting
from worker.contract.tokens import approximate_tokens

COST_SUFFIX = "|total_cost"
ID_COLUMNS = ("query_id", "index", "sample_id")
CATEGORY_COLUMNS = ("source", "category", "eval_name")
MICROS_PER_USD = 1_000_000
# Far above any real one; what lies beyond is a mistake of units.
MOST_USD, MOST_TOKENS = 1e6, 1e9

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class History:
    """Rows of history: `n` queries, `M` LLMs, embeddings of dimension `d`.

    `embeddings` float32 [n, d], L2-normalised. `quality` float64 [n, M] in [0, 1] and `cost_micros` float64 [n, M],
    both nan where an LLM never saw a query. `input_tokens` float64 [n], nan where unknown. `categories`: one a row.
    """

    ids: list[str]
    llms: tuple[str, ...]
    embeddings: NDArray[np.float32]
    quality: NDArray[np.float64]
    cost_micros: NDArray[np.float64]
    input_tokens: NDArray[np.float64]
    categories: list[str] | None = None

    def rows(self, which: NDArray[np.int64]) -> History:
        """The same history with only these rows, in this order."""
        categories = None if self.categories is None else [self.categories[row] for row in which]
        return History(
            [self.ids[row] for row in which],
            self.llms,
            self.embeddings[which],
            self.quality[which],
            self.cost_micros[which],
            self.input_tokens[which],
            categories,
        )

    def columns(self, which: Sequence[int]) -> History:
        """The same history with only these LLMs."""
        return History(
            self.ids,
            tuple(self.llms[llm] for llm in which),
            self.embeddings,
            self.quality[:, list(which)],
            self.cost_micros[:, list(which)],
            self.input_tokens,
            self.categories,
        )


def read_table(path: Path, embeddings: Path | None = None, embed: Embed | None = None) -> History:
    """Read history from a parquet, CSV or JSONL file, or from a directory that holds one as `data.*`.

    `embeddings` is a .npy file, float [n, d]; without it, the one `embeddings*.npy` beside the table is taken; without
    that, `embed` makes them from the `prompt` column. Raises FixSetting for a table that does not have the layout,
    naming the file, and the column or the row (the first is row 1).
    """
    file = _table_file(path)
    table = _read(file)
    llms = tuple(name.removesuffix(COST_SUFFIX) for name in table.column_names if name.endswith(COST_SUFFIX))
    _check_columns(file, table, llms)
    quality = np.stack([_numbers(file, table, llm, most=1.0) for llm in llms], axis=1)
    cost = np.stack([_numbers(file, table, llm + COST_SUFFIX, MOST_USD) for llm in llms], axis=1) * MICROS_PER_USD
    ids = _ids(file, table)
    vectors = _vectors(file, table, embeddings, embed)
    return History(ids, llms, vectors, quality, cost, _input_tokens(file, table), _categories(table))


def no_embeddings(texts: Sequence[str]) -> NDArray[np.float32]:
    """In place of an embedder, where a table is only looked up by id and its embeddings are never looked at."""
    return np.ones((len(texts), 1), dtype=np.float32)


def _table_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("data.*")) if path.is_dir() else []
    if len(found) != 1:
        raise FixSetting(f"{path}: no table here; name a parquet, CSV or JSONL file, or a directory with one data.*")
    return found[0]


def _read(file: Path) -> pa.Table:
    readers = {".parquet": parquet.read_table, ".csv": csv.read_csv, ".jsonl": json.read_json}
    if file.suffix not in readers:
        raise FixSetting(f"{file}: history is read from {', '.join(readers)}, not from {file.suffix or 'this'}")
    try:
        table: pa.Table = readers[file.suffix](file)
    except (pa.ArrowException, OSError) as error:
        raise FixSetting(f"{file}: cannot be read as {file.suffix[1:]}: {_line(error)}") from error
    return table


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_columns(file: Path, table: pa.Table, llms: tuple[str, ...]) -> None:
    names = table.column_names
    if len(names) == 1:
        raise FixSetting(f"{file}: has one column, {names[0]!r}; a CSV file's columns are separated by commas")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FixSetting(f"{file}: more than one column {twice[0]!r}")
    if not llms:
        raise FixSetting(f"{file}: no column ends in {COST_SUFFIX!r}; each LLM needs `<llm>` and `<llm>{COST_SUFFIX}`")
    if missing := [llm for llm in llms if not llm or llm not in names]:
        raise FixSetting(f"{file}: no score column {missing[0]!r} for the column {missing[0] + COST_SUFFIX!r}")
    if table.num_rows == 0:
        raise FixSetting(f"{file}: the table has no rows")


def _numbers(file: Path, table: pa.Table, name: str, most: float) -> NDArray[np.float64]:
    """A column's numbers in 0..most, nan for an empty cell."""
    try:
        column = table.column(name).cast(pa.float64())
    except pa.ArrowException as error:
        raise FixSetting(f"{file}: column {name!r} holds something that is no number: {_line(error)}") from error
    numbers: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
    outside = np.flatnonzero((numbers < 0) | (numbers > most))
    if len(outside):
        row = int(outside[0])
        raise FixSetting(f"{file}: row {row + 1}: {name!r} is {numbers[row]}, not in 0..{most:g}")
    return numbers


def _vectors(file: Path, table: pa.Table, embeddings: Path | None, embed: Embed | None) -> NDArray[np.float32]:
    beside = sorted(file.parent.glob("embeddings*.npy"))
    if embeddings is None and embed is None and len(beside) == 1:
        embeddings = beside[0]
    if embeddings is not None:
        vectors = _array(embeddings)
    elif embed is not None and "prompt" in table.column_names:
        vectors = embed(_prompts(file, table))
    else:
        raise FixSetting(f"{file}: no embeddings; give an embeddings .npy file, or a `prompt` column and an embedder")
    return normalised(_checked(embeddings or file, vectors, table.num_rows))


def _array(file: Path) -> NDArray[Any]:
    try:
        with file.open("rb") as stream:
            found: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    except OSError as error:
        raise FixSetting(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, MemoryError) as error:
        raise FixSetting(f"{file}: is no .npy file of numbers: {_line(error)}") from error
    return found


def _checked(source: Path, vectors: NDArray[Any], rows: int) -> NDArray[np.float32]:
    if vectors.ndim != 2 or vectors.shape[0] != rows or vectors.dtype.kind not in "fiu":
        raise FixSetting(
            f"{source}: embeddings of shape {vectors.shape} and type {vectors.dtype}, where a table of {rows} rows "
            f"needs numbers of shape ({rows}, d)"
        )
    with np.errstate(over="ignore"):
        vectors = np.asarray(vectors, dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1)
    unusable = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(unusable):
        raise FixSetting(f"{source}: row {unusable[0] + 1}: the embedding is all zeros or not finite")
    return vectors


def normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [n, d], each row scaled to length 1."""
    scaled: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(scaled, dtype=np.float32)


def _ids(file: Path, table: pa.Table) -> list[str]:
    name = next((column for column in ID_COLUMNS if column in table.column_names), None)
    if name is None:
        return [str(row) for row in range(1, table.num_rows + 1)]
    first: dict[str, int] = {}
    for row, value in enumerate(table.column(name).to_pylist(), start=1):
        if value is None:
            raise FixSetting(f"{file}: row {row}: {name!r} is empty")
        if (same := first.setdefault(str(value), row)) != row:
            raise FixSetting(f"{file}: row {row}: {name!r} is {str(value)!r}, as in row {same}; an id names one row")
    return list(first)


def _input_tokens(file: Path, table: pa.Table) -> NDArray[np.float64]:
    if "input_tokens" in table.column_names:
        return _numbers(file, table, "input_tokens", MOST_TOKENS)
    if "prompt" in table.column_names:
        texts = table.column("prompt").to_pylist()
        return np.array([np.nan if text is None else approximate_tokens(str(text)) for text in texts], dtype=np.float64)
    return np.full(table.num_rows, np.nan)


def _prompts(file: Path, table: pa.Table) -> list[str]:
    texts = table.column("prompt").to_pylist()
    if None in texts:
        raise FixSetting(f"{file}: row {texts.index(None) + 1}: 'prompt' is empty, and there is nothing to embed")
    return [str(text) for text in texts]


def _categories(table: pa.Table) -> list[str] | None:
    name = next((column for column in CATEGORY_COLUMNS if column in table.column_names), None)
    return None if name is None else [str(row) for row in table.column(name).to_pylist()]
