"""The questions of `tollgate demo --llm`: our own, short, and checkable by a word that a right answer holds.

`worker/data/questions.csv` has them with what two LLMs once answered, made by deploy/make_llm_answers.py. It is a
table of history with two more columns for each LLM's answer and for the words (`right`).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple, TypeVar

from worker.estimation.history import COST_SUFFIX, MICROS_PER_USD

ID, TEXT, RIGHT = "query_id", "prompt", "right"
SEPARATOR = ";"
Row = TypeVar("Row")
# Each fourth question is asked in the demo, and is not in its history.
EVERY = 4


@dataclass(frozen=True)
class Question:
    """`right` are words of which a right answer holds at least one."""

    id: str
    text: str
    right: tuple[str, ...]

    def is_right(self, answer: str) -> bool:
        """Whether an answer holds one of the words, as a word of its own and in any case."""
        return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE) for word in self.right)


class Reply(NamedTuple):
    """What an LLM answered to a question, and what that cost."""

    text: str
    cost_micros: int


# By LLM, the replies to all questions of a list in their order.
Replies = Mapping[str, Sequence[Reply]]


def load() -> tuple[list[Question], dict[str, list[Reply]]]:
    """All questions, and what the LLMs once replied."""
    with as_file(files("worker") / "data" / "questions.csv") as path, path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    llms = [name.removesuffix(COST_SUFFIX) for name in rows[0] if name.endswith(COST_SUFFIX)]
    replies = {
        llm: [Reply(row[_answer(llm)], round(float(row[llm + COST_SUFFIX]) * MICROS_PER_USD)) for row in rows]
        for llm in llms
    }
    return [Question(row[ID], row[TEXT], tuple(row[RIGHT].split(SEPARATOR))) for row in rows], replies


def split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows that are history, and those that are asked."""
    asked = range(EVERY - 1, len(rows), EVERY)
    return [row for number, row in enumerate(rows) if number not in asked], [rows[number] for number in asked]


def write(path: Path, questions: Sequence[Question], replies: Replies) -> None:
    """Write a table of history: each question with every LLM's score, cost and answer."""
    columns = [name for llm in replies for name in (llm, llm + COST_SUFFIX, _answer(llm))]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([ID, TEXT, RIGHT, *columns])
        for number, question in enumerate(questions):
            cells = _cells(question, [told[number] for told in replies.values()])
            writer.writerow([question.id, question.text, SEPARATOR.join(question.right), *cells])


def _cells(question: Question, told: Iterable[Reply]) -> list[object]:
    return [
        cell
        for reply in told
        for cell in (int(question.is_right(reply.text)), f"{reply.cost_micros / MICROS_PER_USD:.6f}", reply.text)
    ]


def _answer(llm: str) -> str:
    return f"{llm}|answer"
