"""Reads the files of an export row by row: JSON lines, JSON, CSV, TSV and Parquet, also gzipped. Nothing is unpickled.

Types may change from line to line, so each row is read by itself. Sizes are limited: a file, a line and a document.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
from pyarrow import parquet

from worker.contract.errors import FixSetting
from worker.exports.records import LeftOut, Row

MEBIBYTE = 2**20
MAX_FILE_BYTES = 8_192 * MEBIBYTE
# A document is parsed as a whole and takes some ten times its size in memory.
MAX_DOCUMENT_BYTES = 512 * MEBIBYTE
MAX_LINE_BYTES = 64 * MEBIBYTE
BATCH_ROWS = 1_000
SAMPLE_ROWS = 20
DECIMAL_COMMA = re.compile(r"^[-$]?\d+,\d+%?$")

GZIP = ".gz"
JSON_LINES, TEXT_TABLES = (".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
JSON, PARQUET = ".json", ".parquet"
READ = (*JSON_LINES, JSON, *TEXT_TABLES, PARQUET)
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".dill")


@dataclass(frozen=True)
class File:
    """A file of an export. `name` is its path from the directory that the user named, or its own name."""

    path: Path
    name: str

    @property
    def kind(self) -> str:
        """Its suffix in lower case, without that of gzip."""
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        if suffixes and suffixes[-1] == GZIP:
            suffixes.pop()
        return suffixes[-1] if suffixes else ""

    @property
    def is_pickle(self) -> bool:
        """Whether it is a pickle, which could run any program."""
        return self.kind in PICKLES

    def sample(self) -> Row | None:
        """The fields of its first rows, each with the first value; None for a file without rows, or of another kind."""
        if self.kind not in READ:
            return None
        return sample_of(row for row in self.rows() if not isinstance(row, LeftOut))

    def rows(self) -> Iterator[Row | LeftOut]:
        """Its rows; a line that cannot be read is left out. Raises FixSetting where the file cannot be read."""
        try:
            if self.kind == PARQUET:
                yield from _parquet_rows(self.path)
            elif self.kind in TEXT_TABLES:
                yield from self._table_rows(TEXT_TABLES[self.kind])
            elif self.kind in JSON_LINES:
                yield from self._lines()
            else:
                yield from self._document()
        except UnicodeDecodeError:
            raise FixSetting(f"{self.path}: is not UTF-8 text; convert the file to UTF-8 first") from None
        except (pa.ArrowException, EOFError, csv.Error, gzip.BadGzipFile) as error:
            raise FixSetting(f"{self.path}: cannot be read as {self.kind[1:]}: {_one_line(error)}") from error

    def _stream(self) -> BinaryIO:
        if self.path.suffix.lower() == GZIP:
            return cast("BinaryIO", gzip.open(self.path))
        return self.path.open("rb")

    def _table_rows(self, delimiter: str) -> Iterator[Row]:
        csv.field_size_limit(MAX_LINE_BYTES)
        if delimiter == "," and "," not in (header := self._header()) and ";" in header:
            delimiter = ";"
        with self._stream() as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
            for row in csv.DictReader(text, delimiter=delimiter):
                # A row that is longer than the header has a column None.
                cells = {name.strip(): cell for name, cell in row.items() if name is not None and cell is not None}
                yield {name: _with_point(cell) for name, cell in cells.items()} if delimiter == ";" else cells
                if stream.tell() > MAX_FILE_BYTES:
                    raise FixSetting(f"{self.path}: has more than {MAX_FILE_BYTES:,} bytes; cut it into parts")

    def _header(self) -> str:
        with self._stream() as stream:
            return stream.readline(MAX_LINE_BYTES).decode("utf-8-sig", errors="replace")

    def _lines(self) -> Iterator[Row | LeftOut]:
        read = 0
        with self._stream() as stream:
            for number in range(1, MAX_FILE_BYTES):
                line = stream.readline(MAX_LINE_BYTES + 1)
                read += len(line)
                if not line:
                    return
                if len(line) > MAX_LINE_BYTES or read > MAX_FILE_BYTES:
                    raise FixSetting(f"{self.path}: line {number} is beyond the limit of size; cut the file into parts")
                if line.strip():
                    yield from self._line(line, number)

    def _line(self, line: bytes, number: int) -> Iterator[Row | LeftOut]:
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            row = None
        yield from self._of(row, number)

    def _of(self, row: Any, number: int) -> Iterator[Row | LeftOut]:
        """The rows of a value: an object is a row, and a page of an API holds rows."""
        if not isinstance(row, dict):
            yield LeftOut(f"{self.name}:{number}", "unreadable")
        elif isinstance(page := row.get("data"), list) and page and all(isinstance(inner, dict) for inner in page):
            yield from page
        else:
            yield row

    def _document(self) -> Iterator[Row | LeftOut]:
        with self._stream() as stream:
            data = stream.read(MAX_DOCUMENT_BYTES + 1)
        if len(data) > MAX_DOCUMENT_BYTES:
            raise FixSetting(
                f"{self.path}: a JSON document has at most {MAX_DOCUMENT_BYTES:,} bytes; write it as JSON lines"
            )
        try:
            document = json.loads(data.decode("utf-8-sig"))
        except RecursionError:
            raise FixSetting(f"{self.path}: is nested too deeply") from None
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise FixSetting(f"{self.path}: is not JSON: {_one_line(error)}") from error
            yield from self._lines()
            return
        for number, row in enumerate(document if isinstance(document, list) else [document], start=1):
            yield from self._of(row, number)


def _with_point(cell: str) -> str:
    """A number with its decimals after a point. A spreadsheet that separates cells by `;` writes a comma."""
    return cell.replace(",", ".") if DECIMAL_COMMA.match(cell.strip()) else cell


def _parquet_rows(path: Path) -> Iterator[Row]:
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield from batch.to_pylist()


def files_of(paths: list[Path]) -> list[File]:
    """All files that were named, and those of the directories that were named, by name. Raises FixSetting."""
    found: list[File] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
            found += [File(file, file.relative_to(path).as_posix()) for file in inside]
        elif path.is_file():
            found.append(File(path, path.name))
        else:
            raise FixSetting(f"{path}: there is no such file or directory")
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def sample_of(rows: Iterable[Row]) -> Row | None:
    """The fields of the first rows, each with the first value that is not empty: rows may differ from line to line."""
    fields: dict[str, Any] = {}
    for row in islice(rows, SAMPLE_ROWS):
        for name, value in row.items():
            if fields.get(name) in (None, ""):
                fields[name] = value
    return fields or None


def field(row: Any, *paths: str) -> Any:
    """The first of these fields that a row has and that is not empty; None without any.

    A path is a field's name, or names with points between them. A cell that holds JSON is read where a path goes on
    into it, where a path ends in it, and where a cell is a quoted text.
    """
    for path in paths:
        found = _at(row, path)
        if found is not None and found != "":
            return found
    return None


def mapping(row: Any, *paths: str) -> dict[str, Any]:
    """A field that holds an object; an empty one where it holds anything else."""
    found = field(row, *paths)
    return found if isinstance(found, dict) else {}


def mappings(row: Any, *paths: str) -> list[dict[str, Any]]:
    """The objects in a field that holds a list of them; what is not an object is not among them."""
    found = field(row, *paths)
    items = [decoded(item) for item in found] if isinstance(found, list | tuple) else []
    return [item for item in items if isinstance(item, dict)]


def _at(row: Any, path: str) -> Any:
    row = decoded(row)
    if not isinstance(row, dict):
        return None
    if path in row:
        return decoded(unquoted(row[path]))
    # Names of fields may hold points themselves: `attributes.llm.model_name`.
    for name in row:
        if path.startswith(f"{name}."):
            found = _at(row[name], path[len(name) + 1 :])
            if found is not None:
                return found
    return None


def decoded(value: Any) -> Any:
    """A cell as JSON, if it holds an object or a list; else as it is."""
    if not isinstance(value, str) or len(value) > MAX_LINE_BYTES or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def unquoted(value: Any) -> Any:
    """A text without the quotes of JSON around it: a cell `"2026-10-05"` with its quotes."""
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
