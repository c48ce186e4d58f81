"""What is read out of an export: answers, judgements of answers, texts of prompts, and rows that are left out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from msgspec import Struct

from worker.exports.values import Counts

# One row of a file: a line of JSON, a line of CSV, a row of Parquet, or a whole JSON document.
Row = Mapping[str, Any]

Reason = Literal[
    "aggregate",
    "cached",
    "cancelled",
    "demo",
    "duplicate",
    "duplicate_best_taken",
    "error",
    "judgement_without_row",
    "names_were_shown",
    "no_answer",
    "no_prompt",
    "not_chat",
    "not_llm",
    "older_run",
    "other_filter",
    "other_split",
    "parent_span",
    "perturbed",
    "pickle_refused",
    "redacted",
    "repeat_averaged",
    "score_outside_scale",
    "truncated",
    "unfinished",
    "unreadable",
]
# A judgement that is left out is no row that is left out: the answer stays.
OF_JUDGEMENTS: frozenset[Reason] = frozenset({"judgement_without_row", "score_outside_scale"})

Judge = Literal["person", "judge", "code"]


class Answer(Struct, frozen=True):
    """One answer of one LLM, or a row that is none: then `left` says why it is left out.

    `id` is the source's own id of the answer, `query_id` that of the question: answers of several LLMs to one question
    share it. `model` is who answered, as the source spells it. `prompt` is the text that was asked. `counts` are its
    tokens, and `cost_usd` is what the source states, None where it is unknown. `parent` and `groups` are ids of what it
    is part of: a span, a trace, a session. `left_id` is its id among the rows that are left out, with `{llm}` for the
    name of the LLM. `batch` says that it was asked at the price of a batch. `source` is the file.
    """

    id: str
    query_id: str
    model: str
    prompt: str | None = None
    cost_usd: Decimal | None = None
    counts: Counts = Counts()
    at_ms: int | None = None
    left: Reason | None = None
    left_id: str | None = None
    parent: str | None = None
    groups: tuple[str, ...] = ()
    batch: bool = False
    source: str = ""


class Judgement(Struct, frozen=True):
    """A score that somebody gave to an answer, or to a span, trace or session.

    `of` is the id of what was judged: of an answer, of a query (then `model` says whose answer), or of what holds
    answers. `name` is the score's name, and `value` what stands in the source. `label` is the word
    that stands beside the value. `id` is the judgement's own id: a judgement without one replaces an earlier one of
    the same answer. `inside` says that it stood in the answer's own row. `is_main` says that the reader chose this
    score.
    """

    of: str
    name: str
    value: Any = None
    label: str | None = None
    by: Judge | None = None
    at_ms: int | None = None
    id: str | None = None
    model: str | None = None
    inside: bool = False
    is_main: bool = False
    source: str = ""


class PromptOf(Struct, frozen=True):
    """The text that was asked, from another file than the answer. `of` is the answer's id. A request that
    `must_be_answered` is a row that is left out where no file has its answer."""

    of: str
    prompt: str | None
    must_be_answered: bool = False
    source: str = ""


class LeftOut(Struct, frozen=True):
    """A row, a judgement or a file that does not become a row, and why. `id` is the source's own id."""

    id: str
    reason: Reason


class Told(Struct, frozen=True):
    """A choice that a reader made and that the report tells, such as the filter of a task."""

    text: str


Record = Answer | Judgement | PromptOf | LeftOut | Told
