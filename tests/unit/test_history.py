"""A table of history is read as it is, or refused in one line that names its file, and the row or column."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from worker.commands import index, main
from worker.contract.errors import FixSetting
from worker.estimation.embedder import WORDLLAMA, embed_with
from worker.estimation.history import read_queries, read_table
from worker.local.load import query_of

HEADER = "query_id,prompt,a,a|total_cost\n"
GOOD = HEADER + "q1,one,0.5,0.001\nq2,two,,\nq3,three,1,0\n"


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """An embedder that needs texts."""
    return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


def written(folder: Path, content: str, name: str = "table.csv") -> Path:
    """A file of this content."""
    (folder / name).write_text(content)
    return folder / name


def test_a_table(tmp_path: Path) -> None:
    """A table gives ids, scores, and costs in micro-dollars; an empty cell is unknown (NaN)."""
    history = read_table(written(tmp_path, GOOD), embed=embed)
    assert history.ids == ["q1", "q2", "q3"]
    assert history.llms == ("a",)
    assert history.quality[:, 0].tolist() == pytest.approx([0.5, np.nan, 1.0], nan_ok=True)
    assert history.cost_micros[:, 0].tolist() == pytest.approx([1000.0, np.nan, 0.0], nan_ok=True)


def test_a_table_without_ids_is_numbered(tmp_path: Path) -> None:
    """Rows without ids are numbered from 1. RouterBench's column `eval_name` holds the category."""
    history = read_table(written(tmp_path, "eval_name,prompt,a,a|total_cost\nmath,one,1,1\nlaw,two,1,1\n"), embed=embed)
    assert history.ids == ["1", "2"]
    assert history.categories == ["math", "law"]


TABLES = [
    ("an empty file", "", "cannot be read as csv: Empty CSV file"),
    ("only a header", HEADER, "the table has no rows"),
    (
        "semicolons",
        GOOD.replace(",", ";"),
        "has one column, 'query_id;prompt;a;a|total_cost'; a CSV file's columns are",
    ),
    ("tabs", GOOD.replace(",", "\t"), r"has one column, 'query_id\tprompt\ta\ta|total_cost'; a CSV file's columns are"),
    (
        "rows of other lengths",
        HEADER + "q1,one,0.5\n",
        "cannot be read as csv: CSV parse error: Expected 4 columns, go",
    ),
    ("no LLM", "query_id,prompt\nq1,one\n", "no column ends in '|total_cost'; history has one row for each query"),
    ("no scores", "query_id,prompt,a|total_cost\nq1,one,1\n", "no score column 'a' for the column 'a|total_cost'"),
    (
        "an LLM without a name",
        "query_id,prompt,|total_cost\nq1,one,1\n",
        "no score column '' for the column '|total_co",
    ),
    ("a column twice", "query_id,prompt,a,a,a|total_cost\nq1,one,1,1,1\n", "more than one column 'a'"),
    ("a score above 1", GOOD + "q4,four,1.5,0\n", "row 4: 'a' is 1.5, not in 0..1"),
    ("a negative score", GOOD + "q4,four,-0.1,0\n", "row 4: 'a' is -0.1, not in 0..1"),
    ("a score in words", GOOD + "q4,four,good,0\n", "row 4: 'a' is 'good', which is not a number"),
    (
        "a negative cost",
        GOOD + "q4,four,1,-1\n",
        "row 4: 'a|total_cost' is -1.0, not in 0..1000; costs are in US dollars",
    ),
    (
        "an infinite cost",
        GOOD + "q4,four,1,inf\n",
        "row 4: 'a|total_cost' is inf, not in 0..1000; costs are in US dollars",
    ),
    ("an id twice", GOOD + "q2,four,1,1\n", "row 4: 'query_id' is 'q2', as in row 2; an id names one row"),
]


@pytest.mark.parametrize(("content", "problem"), [c[1:] for c in TABLES], ids=[c[0] for c in TABLES])
def test_a_table_that_has_not_the_layout(tmp_path: Path, content: str, problem: str) -> None:
    """The error names the file, what is wrong and where, in one line."""
    file = written(tmp_path, content)
    with pytest.raises(FixSetting) as caught:
        read_table(file, embed=embed)
    assert str(caught.value).startswith(f"{file}: {problem}")
    assert "\n" not in str(caught.value)


EMPTY = [
    ("an id", {"query_id": ["q1", None], "prompt": ["one", "two"]}, "row 2: 'query_id' is empty"),
    ("a prompt", {"query_id": ["q1", "q2"], "prompt": ["one", None]}, "row 2: 'prompt' is empty, and there is nothing"),
]


@pytest.mark.parametrize(("columns", "problem"), [c[1:] for c in EMPTY], ids=[c[0] for c in EMPTY])
def test_an_empty_cell_that_is_needed(tmp_path: Path, columns: dict[str, list[str | None]], problem: str) -> None:
    """A null in a column that must not be empty is refused by its row."""
    file = tmp_path / "table.parquet"
    parquet.write_table(pa.table({**columns, "a": [1.0, 1.0], "a|total_cost": [1.0, 1.0]}), file)
    with pytest.raises(FixSetting) as caught:
        read_table(file, embed=embed)
    assert str(caught.value).startswith(f"{file}: {problem}")


def test_a_prompt_that_nothing_can_be_made_of(tmp_path: Path) -> None:
    """A text that cannot be embedded is refused by its row."""
    file = written(tmp_path, GOOD + '"q4","",1,1\n')
    with pytest.raises(FixSetting, match=r"^history: row 4: the text has nothing that can be embedded"):
        read_table(file, embed=embed_with(WORDLLAMA))


def saved(vectors: NDArray[np.generic]) -> Callable[[Path], object]:
    """Writes an array as .npy does."""
    return lambda file: np.save(file, vectors)


GIVEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("no file", lambda file: None, "cannot be read: No such file or directory"),
    ("another file", lambda file: file.write_text(GOOD), "is no .npy file of numbers: "),
    ("an empty file", lambda file: file.write_bytes(b""), "is no .npy file of numbers: "),
    ("objects", saved(np.array([{"a": 1}, None, 3], dtype=object)), "is no .npy file of numbers: Object arrays cannot"),
    ("words", saved(np.array([["a"], ["b"], ["c"]])), "embeddings of shape (3, 1) and type <U1, where a table of 3"),
    ("too few rows", saved(np.ones((2, 4))), "embeddings of shape (2, 4) and type float64, where a table of 3 rows"),
    ("one row", saved(np.ones(3)), "embeddings of shape (3,) and type float64, where a table of 3 rows needs"),
    ("zeros", saved(np.diag([1.0, 0.0, 1.0])), "row 2: the embedding is all zeros or not finite"),
    ("no number", saved(np.array([[1.0], [1.0], [np.nan]])), "row 3: the embedding is all zeros or not finite"),
    ("too large", saved(np.array([[1e300], [1.0], [1.0]])), "row 1: the embedding is all zeros or not finite"),
]


@pytest.mark.parametrize(("write", "problem"), [c[1:] for c in GIVEN], ids=[c[0] for c in GIVEN])
def test_embeddings_that_are_none(tmp_path: Path, write: Callable[[Path], object], problem: str) -> None:
    """A file without usable embeddings is refused by its name; nothing in it is unpickled."""
    file = tmp_path / "vectors.npy"
    write(file)
    with pytest.raises(FixSetting) as caught:
        read_table(written(tmp_path, GOOD), file)
    assert str(caught.value).startswith(f"{file}: {problem}")


def test_the_demo_has_embeddings_of_its_own(tmp_path: Path) -> None:
    """`index build demo` refuses --embeddings instead of ignoring it."""
    with pytest.raises(FixSetting, match="--embeddings: the package's data has embeddings of its own"):
        index.build(Path("demo"), tmp_path / "index", embeddings=tmp_path / "vectors.npy")


def test_the_command_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints the error in one line on standard error and ends with the exit code of a wrong setting."""
    file = written(tmp_path, GOOD + "q4,four,2,0\n")
    arguments = ["tollgate", "index", "build", str(file), str(tmp_path / "index"), "--embedder", "supplied"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        main.main()
    said = capsys.readouterr().err
    assert caught.value.code == 4
    assert said == f"tollgate: {file}: row 4: 'a' is 2.0, not in 0..1; divide scores of 0..100 by 100\n"


QUERIES = [
    (
        "embeddings in a column",
        '{"query_id": "q1", "embedding": [1.0, 0.0], "a": 1, "a|total_cost": 0.1}\n',
        False,
        True,
    ),
    ("embeddings in a file", '{"query_id": "q1", "prompt": "one", "a": 1, "a|total_cost": 0.1}\n', True, True),
    ("only prompts", '{"query_id": "q1", "prompt": "one"}\n', False, False),
]


@pytest.mark.parametrize(("content", "file", "embedded"), [c[1:] for c in QUERIES], ids=[c[0] for c in QUERIES])
def test_queries_are_read_with_embeddings_or_as_texts(tmp_path: Path, content: str, file: bool, embedded: bool) -> None:
    """A table without embeddings gives the texts of its prompts, and needs no LLM's columns for that."""
    if file:
        np.save(tmp_path / "embeddings.npy", np.ones((1, 2), dtype=np.float32))
    found = query_of(read_queries(written(tmp_path, content, "table.jsonl")), 0)
    assert found.id == "q1"
    assert (found.embedding is not None) == embedded
    assert found.text == (None if embedded else "one")


def test_a_table_without_queries_is_refused(tmp_path: Path) -> None:
    """It has neither texts nor embeddings."""
    with pytest.raises(FixSetting, match="has neither a column `prompt` nor embeddings; add one of them"):
        read_queries(written(tmp_path, "query_id\nq1\n"))
