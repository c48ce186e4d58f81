"""Past queries with what every LLM scored and cost on them, read from a table.

The layout is that of RouterBench and of the PORT reference code: one row per query; optionally ids, each once
(`query_id`, `index` or `sample_id`; else rows are numbered), `prompt` (text), a category (`source`, `category` or
`eval_name`) and `input_tokens`; and for each LLM two columns: `<llm>` (score in [0, 1]) and `<llm>|total_cost` (USD).
An empty cell means that this LLM never saw this query. In a log, `<llm>|probability` may say how likely each LLM was
asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from worker.contract.errors import FixSetting
from worker.contract.tokens import approximate_tokens
from worker.estimation import tables

COST_SUFFIX, PROBABILITY_SUFFIX = "|total_cost", "|probability"
ID_COLUMNS = ("query_id", "index", "sample_id")
CATEGORY_COLUMNS = ("source", "category", "eval_name")
MICROS_PER_USD = 1_000_000
EMBEDDING_COLUMN = "embedding"
RESERVED = {"prompt", "input_tokens", EMBEDDING_COLUMN, *ID_COLUMNS}
# Far above any real one; what lies beyond is a mistake of units.
MOST_USD, MOST_TOKENS, MOST_PERCENT = 1_000.0, 1e9, 100.0
# Half of a company's queries do not cost more than this, each.
TYPICAL_USD = 10.0
ROUNDING = 1e-6
# Probabilities of a row may be rounded to three digits.
PROBABILITY_ROUNDING = 0.02
# So many embeddings are scaled at once: in double precision they take 32 MB.
BLOCK_ROWS = 10_000
JSON_MESSAGES = ('[{"', '[ {"', "[\n")
PYTHON_LISTS = ("[{'",)

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class History:
    """Rows of history: `n` queries, `M` LLMs, embeddings of dimension `d`.

    `embeddings` float32 [n, d], L2-normalised. `quality` float64 [n, M] in [0, 1] and `cost_micros` float64 [n, M],
    both nan where an LLM never saw a query. `input_tokens` float64 [n], nan where unknown. `categories`: one a row.
    `likely` float64 [n, M]: how likely each LLM was asked, None where the table does not say it.
    """

    ids: list[str]
    llms: tuple[str, ...]
    embeddings: NDArray[np.float32]
    quality: NDArray[np.float64]
    cost_micros: NDArray[np.float64]
    input_tokens: NDArray[np.float64]
    categories: list[str] | None = None
    likely: NDArray[np.float64] | None = None

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
            None if self.likely is None else self.likely[which],
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
            None if self.likely is None else self.likely[:, list(which)],
        )


def read_table(path: Path, embeddings: Path | None = None, embed: Embed | None = None) -> History:
    """Read history from a table (`tables.READ` lists the formats), from a directory that holds one as `data.*`, or
    from a directory whose files are its parts.

    `embeddings` is a .npy file, float [n, d]. Without it, the table's column `embedding` or the one `embeddings*.npy`
    in its directory is taken where `embed` is None; else `embed` makes them from the `prompt` column. Raises FixSetting
    for a table that does not have the layout, naming the file, and the column or the row (the first is row 1).
    """
    history = _history(path, tables.read(path), embeddings, embed)
    # Arrow keeps the memory of the table for a next one.
    pa.default_memory_pool().release_unused()
    return history


def _history(path: Path, table: pa.Table, embeddings: Path | None = None, embed: Embed | None = None) -> History:
    table = table.rename_columns([_trimmed(name) for name in table.column_names])
    llms = _llms(path, table)
    quality = np.stack([_scores(path, table, llm) for llm in llms], axis=1)
    cost = np.stack([_costs(path, table, llm) for llm in llms], axis=1) * MICROS_PER_USD
    ids = _ids(path, table)
    prompts = _prompts(table)
    vectors = _vectors(path, table, prompts, embeddings, embed)
    likely, tokens = _likely(path, table, llms), _input_tokens(path, table, prompts)
    return History(ids, llms, vectors, quality, cost, tokens, _categories(table), likely)


@dataclass(frozen=True)
class Prompts:
    """The texts of a table's queries and their ids, one a row."""

    ids: list[str]
    texts: list[str]


def read_queries(path: Path) -> History | Prompts:
    """Read a table whose rows are sent as queries: with its embeddings if it has any, else with the column `prompt`.

    Embeddings are the column `embedding` or the one `embeddings*.npy` in the table's directory. Raises FixSetting as
    `read_table` does.
    """
    table = tables.read(path)
    if EMBEDDING_COLUMN in table.column_names or len(_near(path)) == 1:
        return _history(path, table)
    if "prompt" not in table.column_names:
        raise FixSetting(f"{path}: has neither a column `prompt` nor embeddings; add one of them")
    if table.num_rows == 0:
        raise FixSetting(f"{path}: the table has no rows")
    return Prompts(_ids(path, table), _whole(path, _prompts(table)))


def _near(file: Path) -> list[Path]:
    """The files of embeddings in a table's directory."""
    return sorted((file if file.is_dir() else file.parent).glob("embeddings*.npy"))


def no_embeddings(texts: Sequence[str]) -> NDArray[np.float32]:
    """In place of an embedder, where a table is only looked up by id and its embeddings are never looked at."""
    return np.ones((len(texts), 1), dtype=np.float32)


def _trimmed(name: str) -> str:
    """A column's name without blanks around the LLM's name."""
    if name.endswith(COST_SUFFIX):
        return name.removesuffix(COST_SUFFIX).strip() + COST_SUFFIX
    return name


def _llms(file: Path, table: pa.Table) -> tuple[str, ...]:
    """The LLMs of a table. Raises FixSetting where its columns are not those of history."""
    names = table.column_names
    if len(names) == 1:
        raise FixSetting(f"{file}: has one column, {names[0]!r}; a CSV file's columns are separated by commas")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FixSetting(f"{file}: more than one column {twice[0]!r}")
    llms = tuple(name.removesuffix(COST_SUFFIX).strip() for name in names if name.endswith(COST_SUFFIX))
    if not llms:
        raise FixSetting(
            f"{file}: no column ends in {COST_SUFFIX!r}; history has one row for each query, and for each LLM the "
            f"columns `<llm>` (score in [0, 1]) and `<llm>{COST_SUFFIX}` (US dollars)"
        )
    if missing := [llm for llm in llms if not llm or llm not in names]:
        raise FixSetting(f"{file}: no score column {missing[0]!r} for the column {missing[0] + COST_SUFFIX!r}")
    if taken := [llm for llm in llms if llm in RESERVED]:
        raise FixSetting(f"{file}: an LLM cannot be called {taken[0]!r}: that column holds the {taken[0]} of a query")
    if table.num_rows == 0:
        raise FixSetting(f"{file}: the table has no rows")
    return llms


def _scores(file: Path, table: pa.Table, llm: str) -> NDArray[np.float64]:
    """An LLM's scores in 0..1, nan for an empty cell."""
    scores = tables.numbers(file, table, llm)
    # A mean of scores of 1 may be 1 and a rounding error.
    scores = np.where((scores > 1) & (scores <= 1 + ROUNDING), 1.0, scores)
    highest = np.nanmax(scores, initial=0.0)
    hint = "; divide scores of 0..100 by 100" if 1 < highest <= MOST_PERCENT else ""
    return _within(file, llm, scores, most=1.0, hint=hint)


def _costs(file: Path, table: pa.Table, llm: str) -> NDArray[np.float64]:
    """What each query cost with an LLM, in US dollars, nan for an empty cell."""
    name = llm + COST_SUFFIX
    costs = tables.numbers(file, table, name)
    known = costs[(costs > 0) & np.isfinite(costs)]
    if len(known) and (median := float(np.median(known))) > TYPICAL_USD:
        raise FixSetting(
            f"{file}: half of the queries cost more than {median:.4g} US dollars in {name!r}; costs are in US dollars "
            "a query; divide micro-dollars by 1,000,000"
        )
    return _within(file, name, costs, MOST_USD, "; costs are in US dollars")


def _likely(file: Path, table: pa.Table, llms: Sequence[str]) -> NDArray[np.float64] | None:
    """How likely each LLM was asked, [n, M]; None for a table without such columns."""
    names = [llm + PROBABILITY_SUFFIX for llm in llms]
    present = [name for name in names if name in table.column_names]
    if not present:
        return None
    if missing := [name for name in names if name not in present]:
        raise FixSetting(
            f"{file}: has {present[0]!r} but no {missing[0]!r}; give the probability of each LLM, or of none"
        )
    likely = np.stack([_within(file, name, tables.numbers(file, table, name), 1.0, "") for name in names], axis=1)
    # Also where a cell is empty: nan is no sum near 1.
    wrong = np.flatnonzero(~(np.abs(likely.sum(axis=1) - 1.0) <= PROBABILITY_ROUNDING))
    if len(wrong):
        raise FixSetting(f"{file}: row {wrong[0] + 1}: the probabilities of the LLMs are not 1 in sum")
    return likely


def _within(file: Path, name: str, numbers: NDArray[np.float64], most: float, hint: str) -> NDArray[np.float64]:
    outside = np.flatnonzero((numbers < 0) | (numbers > most))
    if len(outside):
        row = int(outside[0])
        raise FixSetting(f"{file}: row {row + 1}: {name!r} is {numbers[row]}, not in 0..{most:g}{hint}")
    return numbers


def _vectors(
    file: Path, table: pa.Table, prompts: list[str | None] | None, embeddings: Path | None, embed: Embed | None
) -> NDArray[np.float32]:
    own = EMBEDDING_COLUMN in table.column_names
    near = _near(file)
    if embeddings is None and embed is None and not own and len(near) == 1:
        embeddings = near[0]
    if embeddings is not None:
        vectors = _array(embeddings)
    elif embed is not None and prompts is not None:
        vectors = embed(_whole(file, prompts))
    elif own:
        vectors = _column_of_vectors(file, table)
    else:
        raise FixSetting(
            f"{file}: no embeddings; give an embeddings .npy file, a column {EMBEDDING_COLUMN!r}, or a `prompt` column "
            "and an embedder"
        )
    checked = _checked(embeddings or file, vectors, table.num_rows)
    return _normalise(checked if checked.flags.writeable else checked.copy())


def _column_of_vectors(file: Path, table: pa.Table) -> NDArray[Any]:
    """A column of lists of numbers as float32 [n, d]."""
    column = table.column(EMBEDDING_COLUMN)
    if not _are_vectors(column.type):
        raise FixSetting(f"{file}: column {EMBEDDING_COLUMN!r} holds {column.type}, not lists of numbers")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    others = np.flatnonzero(lengths != lengths[0])
    if len(others):
        raise FixSetting(f"{file}: row {others[0] + 1}: {EMBEDDING_COLUMN!r} has another length than in row 1")
    vectors = np.empty((len(column), lengths[0]), dtype=np.float32)
    start = 0
    for chunk in column.chunks:
        stop = start + len(chunk)
        if lengths[0]:
            vectors[start:stop] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), -1)
        start = stop
    return vectors


def _are_vectors(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists of numbers. A list without a number in the whole column is of nulls."""
    is_list = bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
    return is_list and (
        pa.types.is_floating(kind.value_type)
        or pa.types.is_integer(kind.value_type)
        or pa.types.is_null(kind.value_type)
    )


def _array(file: Path) -> NDArray[Any]:
    try:
        with file.open("rb") as stream:
            found: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    except OSError as error:
        raise FixSetting(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, MemoryError) as error:
        raise FixSetting(f"{file}: is no .npy file of numbers: {tables.line_of(error)}") from error
    return found


def _checked(source: Path, vectors: NDArray[Any], rows: int) -> NDArray[np.float32]:
    if vectors.ndim != 2 or vectors.shape[0] != rows or vectors.dtype.kind not in "fiu":
        raise FixSetting(
            f"{source}: embeddings of shape {vectors.shape} and type {vectors.dtype}, where a table of {rows} rows "
            f"needs numbers of shape ({rows}, d)"
        )
    with np.errstate(over="ignore"):
        vectors = np.asarray(vectors, dtype=np.float32)
    lengths = _lengths(vectors)
    unusable = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(unusable):
        raise FixSetting(f"{source}: row {unusable[0] + 1}: the embedding is all zeros or not finite")
    return vectors


def normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [n, d], each row scaled to length 1."""
    return _normalise(np.array(vectors, dtype=np.float32, order="C"))


def _normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row of [n, d] to length 1, in place: a million embeddings are the most memory that a build needs."""
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = vectors[start : start + BLOCK_ROWS]
        # Lengths in double precision: in single precision their last bits differ between processors.
        block[:] = block / np.linalg.norm(block.astype(np.float64), axis=1, keepdims=True)
    return vectors


def _lengths(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The length of each row of [n, d], infinite where it is beyond float32."""
    blocks = [vectors[start : start + BLOCK_ROWS] for start in range(0, len(vectors), BLOCK_ROWS)]
    with np.errstate(over="ignore"):
        return np.concatenate([np.linalg.norm(block, axis=1) for block in blocks] or [np.empty(0, np.float32)])


def _ids(file: Path, table: pa.Table) -> list[str]:
    name = next((column for column in ID_COLUMNS if column in table.column_names), None)
    if name is None:
        return [str(row) for row in range(1, table.num_rows + 1)]
    first: dict[str, int] = {}
    for row, value in enumerate(tables.texts(table, name), start=1):
        if value is None:
            raise FixSetting(f"{file}: row {row}: {name!r} is empty")
        if (same := first.setdefault(value, row)) != row:
            raise FixSetting(f"{file}: row {row}: {name!r} is {value!r}, as in row {same}; an id names one row")
    return list(first)


def _input_tokens(file: Path, table: pa.Table, prompts: list[str | None] | None) -> NDArray[np.float64]:
    if "input_tokens" in table.column_names:
        return _within(file, "input_tokens", tables.numbers(file, table, "input_tokens"), MOST_TOKENS, "")
    if prompts is not None:
        return np.array([np.nan if text is None else approximate_tokens(text) for text in prompts], dtype=np.float64)
    return np.full(table.num_rows, np.nan)


def _prompts(table: pa.Table) -> list[str | None] | None:
    """The text that was asked in each row, None for an empty cell; None for a table without prompts."""
    if "prompt" not in table.column_names:
        return None
    return [None if text is None else _of_messages(text) for text in tables.texts(table, "prompt")]


def _whole(file: Path, prompts: list[str | None] | None) -> list[str]:
    """The prompts, where every row has one that can be embedded. Raises FixSetting."""
    texts = []
    for row, text in enumerate(prompts or (), start=1):
        if text is None:
            raise FixSetting(f"{file}: row {row}: 'prompt' is empty, and there is nothing to embed")
        if text.lstrip().startswith(PYTHON_LISTS):
            raise FixSetting(
                f"{file}: row {row}: 'prompt' is a Python list of messages; write it as JSON, or as its text"
            )
        texts.append(text)
    return texts


def _of_messages(prompt: str) -> str:
    """The text of chat messages that stand in a cell as JSON; other prompts as they are."""
    if not prompt.lstrip().startswith(JSON_MESSAGES):
        return prompt
    try:
        return tables.text_of(json.loads(prompt))
    except (ValueError, RecursionError):
        return prompt


def _categories(table: pa.Table) -> list[str] | None:
    columns = [
        name for name in CATEGORY_COLUMNS if name in table.column_names and name + COST_SUFFIX not in table.column_names
    ]
    return [str(category) for category in tables.texts(table, columns[0])] if columns else None
