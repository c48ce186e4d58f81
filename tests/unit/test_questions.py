"""The questions of `tollgate demo --llm`, and what counts as a right answer to one."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.estimation.history import no_embeddings, read_table
from worker.local import questions

CHECKS = [
    ("The capital of France is Paris.", ("Paris",), True),
    ("PARIS!", ("Paris",), True),
    ("Parisians", ("Paris",), False),
    ("It is 24 hours.", ("24",), True),
    ("It is 245 hours.", ("24",), False),
    ("H\u2082O", ("H2O", "H\u2082O"), True),
    ("", ("Paris",), False),
]


@pytest.mark.parametrize(("answer", "right", "is_right"), CHECKS)
def test_a_right_answer(answer: str, right: tuple[str, ...], is_right: bool) -> None:
    """An answer is right if it holds one of the words, whole."""
    assert questions.Question("q", "?", right).is_right(answer) == is_right


def test_the_table_in_the_package(tmp_path: Path) -> None:
    """It is history: its scores are those of its answers, and it is written as it was read."""
    asked, replies = questions.load()
    file = tmp_path / "questions.csv"
    questions.write(file, asked, replies)
    package = Path(questions.__file__).parents[1] / "data" / "questions.csv"
    assert file.read_bytes() == package.read_bytes()
    history = read_table(file, embed=no_embeddings)
    for column, llm in enumerate(history.llms):
        told = [question.is_right(reply.text) for question, reply in zip(asked, replies[llm], strict=True)]
        assert history.quality[:, column].tolist() == told, llm


def test_the_questions_asked_are_not_in_history() -> None:
    """No question is in both parts, and none is lost."""
    asked, _ = questions.load()
    past, live = questions.split(asked)
    assert not {one.text for one in past} & {one.text for one in live}
    assert sorted(one.id for one in (*past, *live)) == [one.id for one in asked]
