"""What a format of exports is: how its files are recognised, how they are read, and what must be said about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.exports.files import File, decoded
from worker.exports.names import Names
from worker.exports.records import LeftOut, Record, Row


@dataclass(frozen=True)
class Wishes:
    """What a user chose for reading: the names of LLMs, scores by their short names, a filter (lm-eval), and a split
    (HELM)."""

    names: Names
    scores: Sequence[str] = ()
    filter: str | None = None
    split: str = "test"


Recognise = Callable[[Row], bool]
Read = Callable[[Mapping[str, list[File]], Wishes], Iterator[Record]]


@dataclass(frozen=True)
class Format:
    """A format of exports.

    `roles` are the kinds of files that it consists of, and what recognises each by its first rows. Files of the roles
    `beside` mean something only beside files of the others. `read` reads all files of an export, by role. `prompts`
    says which setting of the source keeps the prompts. `main_score` is taken where the user names none. `states_costs`
    says that the source knows prices: a cost that it leaves empty is unknown. `repeats` says what becomes of several
    answers of one LLM to one query: `best` takes the best score, `mean` the mean of the scores, and `first` calls the
    others duplicates.
    """

    name: str
    title: str
    roles: Mapping[str, Recognise]
    read: Read
    prompts: str = "add a file with the prompts, by the id of the answer"
    beside: frozenset[str] = frozenset()
    main_score: str | None = None
    states_costs: bool = False
    repeats: str = "first"
    votes: bool = False

    def role_of(self, sample: Row, is_beside: bool) -> str | None:
        """The role of a file by its first rows, among the roles beside others or the other roles; None for none."""
        roles = [role for role in self.roles if (role in self.beside) == is_beside]
        return next((role for role in roles if self.roles[role](sample)), None)


def having(*paths: str) -> Recognise:
    """Recognises a row that has all these fields: a path is names with points between them, `a|b` one of two names."""
    return lambda row: all(has(row, path) for path in paths)


def has(row: Any, path: str) -> bool:
    """Whether a row has a field, even if it is empty. `a|b` is one of two names."""
    return any(_has(row, name) for name in path.split("|"))


def _has(row: Any, path: str) -> bool:
    row = decoded(row)
    if not isinstance(row, Mapping):
        return False
    return path in row or any(path.startswith(f"{name}.") and _has(row[name], path[len(name) + 1 :]) for name in row)


def rows_of(files: Sequence[File]) -> Iterator[tuple[File, Row | LeftOut]]:
    """Every row of some files, with the file that it is in."""
    for file in files:
        for row in file.rows():
            yield file, row


def text(value: Any) -> str:
    """An id or a name as text: an id `007` is not 7, and a missing one is empty."""
    return "" if value is None else str(value).strip()
