"""Tables of history as people have them are read as they were meant, or refused in one line that helps."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from worker.contract.errors import FixSetting
from worker.contract.tokens import approximate_tokens
from worker.estimation.history import History, read_table

CASES = Path(__file__).parents[1] / "cases" / "history"
BIG_SMALL = ("big", "small")


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """An embedder that needs texts."""
    return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


def read(path: Path) -> History:
    """The history of a file, embedded by the length of its prompts."""
    return read_table(path, embed=embed)


# File: rows, LLMs, the first id, unknown costs.
READ: dict[str, tuple[int, tuple[str, ...], str, int]] = {
    "c01.csv": (40, BIG_SMALL, "q0", 0),
    "c02.csv": (40, BIG_SMALL, "q0", 0),
    "c03.csv": (40, BIG_SMALL, "q0", 0),
    "c06.csv": (40, BIG_SMALL, "q0", 0),
    "c07.parquet": (40, BIG_SMALL, "q0", 0),
    "c07b.jsonl": (40, BIG_SMALL, "q0", 0),
    "c11.csv": (40, BIG_SMALL, "00000", 0),
    "c11b.csv": (40, BIG_SMALL, "07", 0),
    "c11c.csv": (40, BIG_SMALL, "2024-01-01 00:00:00", 0),
    "c12.csv": (40, ("openai/gpt-4o:beta", "a|b", "with space", "GPT-4", "gpt-4"), "q0", 0),
    "c13.csv": (40, BIG_SMALL, "q0", 0),
    "c13b.csv": (40, BIG_SMALL, "q0", 0),
    "c14.csv": (40, BIG_SMALL, "q0", 14),
    "c14b.jsonl": (40, BIG_SMALL, "q0", 14),
    "c15.csv": (40, BIG_SMALL, "q0", 0),
    "c16.csv": (40, BIG_SMALL, "q0", 0),
    "c17.csv": (40, ("only",), "q0", 0),
    "c21.csv": (40, BIG_SMALL, "q0", 0),
    "c21b.csv": (40, BIG_SMALL, "1", 0),
    "c22.jsonl": (40, BIG_SMALL, "q0", 0),
    "c22b.jsonl": (40, BIG_SMALL, "q0", 0),
    "c23.parquet": (40, BIG_SMALL, "q0", 0),
    "c23b.parquet": (40, BIG_SMALL, "q0", 0),
    "c24.parquet": (40, BIG_SMALL, "q0", 0),
    "c24b.parquet": (40, BIG_SMALL, "q0", 0),
    "c24c.parquet": (40, BIG_SMALL, "q0", 0),
    "c25.csv": (10, BIG_SMALL, "q0", 0),
    "c25b.csv": (9, BIG_SMALL, "q0", 0),
    "c25c.csv": (12, BIG_SMALL, "q0", 4),
    "c29.csv": (40, BIG_SMALL, "q0", 0),
    "c30b.csv": (40, BIG_SMALL, "q0", 0),
    "c32.csv": (40, BIG_SMALL, "q0", 0),
    "c35.csv": (40, BIG_SMALL, "q0", 0),
    "c35b.csv": (40, BIG_SMALL, "q0", 0),
    "c38.csv": (40, BIG_SMALL, "q0", 0),
    "c39.csv": (40, BIG_SMALL, "q0", 0),
    "c41.CSV": (40, BIG_SMALL, "q0", 0),
    "c41b.tsv": (40, BIG_SMALL, "q0", 0),
    "c41c.csv.gz": (40, BIG_SMALL, "q0", 0),
    "c41e.json": (40, BIG_SMALL, "q0", 0),
    "c44.csv": (40, BIG_SMALL, "q0", 0),
    "c45.csv": (40, BIG_SMALL, "q0", 31),
    "c47.csv": (40, BIG_SMALL, "q0", 0),
    "c48.jsonl": (40, BIG_SMALL, "q0", 0),
    "c49.csv": (40, BIG_SMALL, "q0", 0),
    "c52.csv": (40, ("source", "b"), "q0", 0),
    "c55.csv": (40, BIG_SMALL, "q0", 20),
}
REFUSED = {
    "c05.csv": "row 3: 'big' is 85.0, not in 0..1; divide scores of 0..100 by 100",
    "c19.jsonl": "no column ends in '|total_cost'",
    "c20.csv": "no column ends in '|total_cost'",
    "c20b.jsonl": "no column ends in '|total_cost'",
    "c20c.json": "is not a list of JSON objects",
    "c26.pkl": "A pickle can run any program",
    "c30.csv": "row 1: 'big' is '85%', which is not a number; write 0.85 instead of 85%",
    "c31.csv": "row 1: 'big|total_cost' is '0,000188679', which is not a number; write the decimals after a point",
    "c31b.csv": "row 1: 'big|total_cost' is '$0.000188679', which is not a number; write the amount in US dollars",
    "c43.csv": "no column ends in '|total_cost'",
    "c46.csv": "half of the queries cost more than 498.1 US dollars in 'big|total_cost'",
    "c51.csv": "an LLM cannot be called 'prompt'",
    "c53.csv": "no score column 'x' for the column 'x|total_cost'",
    "c54.csv": "no column ends in '|total_cost'",
}


def test_every_case_has_its_right_end() -> None:
    """A file that is added is either read or refused."""
    assert {path.name for path in CASES.iterdir()} == READ.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", READ)
def test_a_table_is_read_as_it_was_meant(name: str) -> None:
    """Rows, LLMs and ids are those of the file; an empty cell is unknown."""
    rows, llms, first, unknown = READ[name]
    history = read(CASES / name)
    assert len(history.ids) == rows
    assert history.llms == llms
    assert history.ids[0] == first
    assert int(np.isnan(history.cost_micros).sum()) == unknown


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_cannot_be_read_says_what_to_do(name: str) -> None:
    """One line that names the file and the fault."""
    with pytest.raises(FixSetting) as caught:
        read(CASES / name)
    said = str(caught.value)
    assert REFUSED[name] in said
    assert said.startswith(str(CASES / name))
    assert "\n" not in said


def test_ids_are_text() -> None:
    """`07` and `7` are two ids, and a 64-bit number keeps its last digit."""
    assert read(CASES / "c11b.csv").ids[:2] == ["07", "7"]


def rows(count: int, **changes: Callable[[int], str]) -> str:
    """CSV text of `count` rows; `changes` gives the cells of a column by row."""
    columns: dict[str, Callable[[int], str]] = {
        "query_id": lambda row: f"q{row}",
        "prompt": lambda row: f"why is the river {row % 7}",
        "big": lambda row: str(row % 2),
        "big|total_cost": lambda row: "0.001",
        **changes,
    }
    lines = (",".join(cell(row) for cell in columns.values()) for row in range(count))
    return "\n".join([",".join(columns), *lines]) + "\n"


LARGE: list[tuple[str, str, int]] = [
    ("line ends in quotes beyond a megabyte", rows(40_000, prompt=lambda row: f'"why\nis {row}\n\nthe river"'), 40_000),
    ("a fraction after a megabyte of 0 and 1", rows(40_000, big=lambda row: "0.5" if row > 39_000 else "1"), 40_000),
    (
        "a text id after a megabyte of numbers",
        rows(40_000, query_id=lambda row: f"x{row}" if row > 39_000 else str(row)),
        40_000,
    ),
    ("scores that begin after a megabyte", rows(40_000, big=lambda row: "1" if row > 39_000 else ""), 40_000),
    ("a prompt of 3 MB", rows(20, prompt=lambda row: "w" * 3_000_000 if row == 11 else "why"), 20),
]


@pytest.mark.parametrize(("content", "count"), [case[1:] for case in LARGE], ids=[case[0] for case in LARGE])
def test_a_large_csv_is_read_like_a_small_one(tmp_path: Path, content: str, count: int) -> None:
    """No type is guessed from the first megabyte."""
    file = tmp_path / "table.csv"
    file.write_text(content)
    assert len(read(file).ids) == count


def test_a_directory_of_parts_is_one_table(tmp_path: Path) -> None:
    """Parts of one kind are read in the order of their names."""
    for part in range(3):
        table = pa.table({"prompt": ["a", "b"], "big": [part % 2, 1], "big|total_cost": [0.1, 0.2]})
        parquet.write_table(table, tmp_path / f"part-{part}.parquet")
    history = read(tmp_path)
    assert history.ids == ["1", "2", "3", "4", "5", "6"]
    assert history.quality[:, 0].tolist() == [0, 1, 1, 1, 0, 1]


def test_a_column_of_embeddings_is_used(tmp_path: Path) -> None:
    """Without an embedder, and without a prompt."""
    file = tmp_path / "table.parquet"
    vectors = [[3.0, 4.0], [0.0, 2.0]]
    parquet.write_table(pa.table({"embedding": vectors, "big": [1.0, 0.0], "big|total_cost": [0.1, 0.2]}), file)
    np.testing.assert_allclose(read_table(file).embeddings, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)


PROMPTS: list[tuple[str, object, str]] = [
    ("messages", [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}], "be brief\nwhy?"),
    ("messages with parts", [{"role": "user", "content": [{"type": "text", "text": "why?"}]}], "why?"),
    ("messages as JSON text", '[{"role": "user", "content": "why?"}]', "why?"),
    ("a number", 12, "12"),
]


@pytest.mark.parametrize(("prompt", "text"), [case[1:] for case in PROMPTS], ids=[case[0] for case in PROMPTS])
def test_a_prompt_is_the_text_that_was_asked(tmp_path: Path, prompt: object, text: str) -> None:
    """Messages become the text of their contents."""
    file = tmp_path / "table.jsonl"
    file.write_text(json.dumps({"prompt": prompt, "big": 1, "big|total_cost": 0.1}) + "\n")
    seen: list[str] = []

    def remember(texts: Sequence[str]) -> NDArray[np.float32]:
        seen.extend(texts)
        return embed(texts)

    history = read_table(file, embed=remember)
    assert seen == [text]
    assert history.input_tokens.tolist() == [approximate_tokens(text)], "tokens are counted in the text that was asked"


def test_messages_in_python_s_spelling_are_refused(tmp_path: Path) -> None:
    """Nothing from outside is evaluated, and the text of a list would be embedded otherwise."""
    file = tmp_path / "table.csv"
    file.write_text("prompt,big,big|total_cost\n\"[{'role': 'user', 'content': 'why?'}]\",1,0.1\n")
    with pytest.raises(FixSetting, match="row 1: 'prompt' is a Python list of messages"):
        read(file)


def test_text_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    """A Latin-1 file is refused: read as UTF-8 it would fail, read as Latin-1 it could be wrong."""
    file = tmp_path / "table.csv"
    file.write_bytes(b"prompt,big,big|total_cost\nwhy,1,0.1\ncaf\xe9,1,0.1\n")
    with pytest.raises(FixSetting, match=r"line 3 is not UTF-8 text \(byte 0xe9\)"):
        read(file)


def test_utf16_is_named(tmp_path: Path) -> None:
    """Excel's «Unicode text» is UTF-16."""
    file = tmp_path / "table.csv"
    file.write_text(rows(3), encoding="utf-16")
    with pytest.raises(FixSetting, match="is UTF-16 text"):
        read(file)


def test_a_cut_gzip_file_is_refused(tmp_path: Path) -> None:
    """A download that broke off ends in one line, not in a traceback."""
    file = tmp_path / "table.jsonl.gz"
    whole = gzip.compress(b'{"prompt": "why", "big": 1, "big|total_cost": 0.1}\n' * 1_000)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FixSetting, match="cannot be read as jsonl"):
        read(file)
