"""Reads a file of rows and columns as it was meant: Parquet, CSV, TSV, JSON lines or a JSON array, also gzipped.

Text formats do not say which type a column has, and a type guessed from the first rows is wrong for the rest. So CSV
columns are read as text, and whoever wants numbers asks for them (`numbers`). Ids and prompts stay text: an id `007` is
not 7. Nothing is unpickled or evaluated. A file that cannot be read is refused with its row.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from csv import reader as csv_reader
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv, parquet

from worker.contract.errors import FixSetting

CHUNK_ROWS = 20_000
# A row must fit into a block; the largest prompts are some megabytes.
BLOCK_BYTES = 64 * 2**20
TEXT_COLUMNS = {"query_id", "index", "sample_id", "prompt", "source", "category", "eval_name"}
EMPTY_WORDS = {"", "nan", "null", "none", "na", "n/a"}
TRUTH = {"true": 1.0, "false": 0.0}
BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

GZIP = ".gz"
PARQUET, CSV, TSV = ".parquet", ".csv", ".tsv"
JSON_LINES, JSON_ARRAY = (".jsonl", ".ndjson"), ".json"
READ = (PARQUET, CSV, TSV, *JSON_LINES, JSON_ARRAY)


def files_of(path: Path) -> list[Path]:
    """The files of a table: `path` itself, the one `data.*` of a directory, or all parts of one kind in it, by name.

    Raises FixSetting where `path` is neither.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FixSetting(f"{path}: there is no such file or directory")
    found = sorted(file for file in path.iterdir() if file.is_file() and _kind(file) in READ)
    named = [file for file in found if file.name.startswith("data.")]
    parts = named or found
    kinds = sorted({_kind(file) for file in parts})
    if not parts or len(kinds) > 1 or len(named) > 1:
        there = f"files of several kinds: {', '.join(kinds)}" if parts else "no table"
        raise FixSetting(f"{path}: holds {there}; name one file, or a directory whose files are parts of one table")
    return parts


def read(path: Path) -> pa.Table:
    """The table of a file, or of a directory of parts. Column names are trimmed. Raises FixSetting."""
    parts = [_read_file(file) for file in files_of(path)]
    try:
        table = parts[0] if len(parts) == 1 else pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise FixSetting(f"{path}: the parts do not have the same columns: {line_of(error)}") from error
    return table.rename_columns([name.strip() for name in table.column_names])


def numbers(source: Path, table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column as float64, nan for an empty cell; true and false are 1 and 0.

    Raises FixSetting that names the row for a cell that is not a number.
    """
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        return _parsed(source, name, column.cast(pa.string()))
    if pa.types.is_float16(column.type):
        return cast("NDArray[np.float64]", column.to_numpy().astype(np.float64))
    try:
        column = column.cast(pa.float64())
    except pa.ArrowException as error:
        raise FixSetting(f"{source}: column {name!r} holds {column.type}, not numbers: {line_of(error)}") from error
    return cast("NDArray[np.float64]", column.to_numpy(zero_copy_only=False).astype(np.float64))


def texts(table: pa.Table, name: str) -> list[str | None]:
    """A column as text, None for an empty cell. A list of chat messages becomes the text of its messages."""
    return [None if value is None else text_of(value) for value in table.column(name).to_pylist()]


def _parsed(source: Path, name: str, column: pa.ChunkedArray) -> NDArray[np.float64]:
    trimmed = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    known = pc.if_else(pc.is_in(trimmed, pa.array(sorted(EMPTY_WORDS))), pa.scalar(None, pa.string()), trimmed)
    for word, number in TRUTH.items():
        known = pc.if_else(pc.fill_null(pc.equal(known, word), False), str(number), known)
    try:
        parsed = known.cast(pa.float64())
    except pa.ArrowException:
        row, value = _first_wrong(known)
        raise FixSetting(
            f"{source}: row {row}: {name!r} is {value[:60]!r}, which is not a number{_hint(value)}"
        ) from None
    return cast("NDArray[np.float64]", parsed.to_numpy(zero_copy_only=False).astype(np.float64))


def _first_wrong(column: pa.ChunkedArray) -> tuple[int, str]:
    for row, value in enumerate(column.to_pylist(), start=1):
        if value is not None and not _is_number(value):
            return row, value
    raise AssertionError("a column that cannot be cast has a cell that is not a number")


def _is_number(value: str) -> bool:
    try:
        pa.scalar(value).cast(pa.float64())
    except pa.ArrowException:
        return False
    return True


def _hint(value: str) -> str:
    if value.endswith("%"):
        return "; write 0.85 instead of 85%"
    if value.startswith(("$", "€", "£")):
        return "; write the amount in US dollars without a sign"
    if _is_number(value.replace(",", ".")):
        return "; write the decimals after a point, not a comma"
    return ""


def text_of(value: Any) -> str:
    """A value as text: of chat messages or content parts their texts, one a line; of anything else as it is written."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(filter(None, (_message_text(item) for item in value)))
    return str(value)


def _message_text(item: Any) -> str | None:
    content = item.get("content", item.get("text")) if isinstance(item, dict) else item
    return text_of(content) if isinstance(content, str | list) else None


def _kind(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] == GZIP:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _read_file(file: Path) -> pa.Table:
    kind = _kind(file)
    if kind not in READ:
        hint = (
            " A pickle can run any program; load it where you trust it, and save it as Parquet."
            if kind == ".pkl"
            else ""
        )
        raise FixSetting(
            f"{file}: history is read from {', '.join(READ)} (or .gz), not from {file.suffix or 'this'}.{hint}"
        )
    try:
        if kind == PARQUET:
            return parquet.read_table(file)
        _check_encoding(file)
        if kind in (CSV, TSV):
            return _read_csv(file, "," if kind == CSV else "\t")
        return _read_json_lines(file) if kind in JSON_LINES else _read_json_array(file)
    except UnicodeDecodeError:
        raise FixSetting(f"{file}: {_not_utf8(file)}") from None
    except (pa.ArrowException, OSError, EOFError) as error:
        if "UTF8" in str(error):
            raise FixSetting(f"{file}: {_not_utf8(file)}") from error
        raise FixSetting(f"{file}: cannot be read as {kind[1:]}: {line_of(error)}") from error


def _open(file: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(file) if file.suffix.lower() == GZIP else file.open("rb"))


def _check_encoding(file: Path) -> None:
    with _open(file) as stream:
        mark = stream.read(2)
    if (name := BYTE_ORDER_MARKS.get(mark)) is not None:
        raise FixSetting(f"{file}: is {name} text; convert it to UTF-8 first")


def _not_utf8(file: Path) -> str:
    with _open(file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return f"line {number} is not UTF-8 text (byte 0x{byte:02x}); convert the file to UTF-8 first"
    return "is not UTF-8 text; convert the file to UTF-8 first"


def _read_csv(file: Path, delimiter: str) -> pa.Table:
    with _open(file) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
        names = next(csv_reader(text, delimiter=delimiter), [])
    with _open(file) as stream:
        return csv.read_csv(
            stream,
            read_options=csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )


def _read_json_lines(file: Path) -> pa.Table:
    with _open(file) as stream, io.TextIOWrapper(stream, "utf-8-sig") as text:
        return _table(_rows(file, text))


def _rows(file: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FixSetting(f"{file}: line {number} is not JSON: {line_of(error)}") from error
        if not isinstance(row, dict):
            raise FixSetting(f"{file}: line {number} is not a JSON object")
        yield row


def _read_json_array(file: Path) -> pa.Table:
    with _open(file) as stream:
        try:
            rows = json.loads(stream.read().decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise FixSetting(f"{file}: is not JSON: {line_of(error)}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FixSetting(f"{file}: is not a list of JSON objects, one for each past query")
    return _table(iter(rows))


def _table(rows: Iterator[dict[str, Any]]) -> pa.Table:
    """Rows of any keys as a table; a key that a row lacks is an empty cell."""
    chunks: list[pa.Table] = []
    while chunk := [row for _, row in zip(range(CHUNK_ROWS), rows, strict=False)]:
        names = list(dict.fromkeys(name for row in chunk for name in row))
        chunks.append(pa.table({name: _column(name, [row.get(name) for row in chunk]) for name in names}))
    names = list(dict.fromkeys(name for chunk in chunks for name in chunk.column_names))
    return pa.table({name: _joined(name, chunks) for name in names})


def _joined(name: str, chunks: Sequence[pa.Table]) -> pa.ChunkedArray:
    """One column of all chunks: of one type, or as text where the chunks differ."""
    arrays = [
        array
        for chunk in chunks
        for array in (chunk.column(name).chunks if name in chunk.column_names else [pa.nulls(chunk.num_rows)])
    ]
    types = {array.type for array in arrays} - {pa.null()}
    kind = types.pop() if len(types) == 1 else pa.string() if types else pa.null()
    return pa.chunked_array([array.cast(kind) for array in arrays], kind)


def _column(name: str, values: list[Any]) -> pa.Array:
    """Numbers as float64, vectors as lists of float32, all else as text."""
    known = [value for value in values if value is not None]
    if not known:
        return pa.nulls(len(values))
    if name in TEXT_COLUMNS or not all(_is_numeric(value) for value in known):
        if all(isinstance(value, list) and value and all(map(_is_numeric, value)) for value in known):
            return pa.array(values, pa.list_(pa.float32()))
        return pa.array([None if value is None else _cell(name, value) for value in values], pa.string())
    return pa.array([None if value is None else float(value) for value in values], pa.float64())


def _is_numeric(value: Any) -> bool:
    return isinstance(value, int | float)


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return text_of(value) if name == "prompt" else json.dumps(value)


def line_of(error: Exception) -> str:
    """An error's text on one line of bounded length."""
    return " ".join(str(error).split())[:300]
