"""Exports of other tools become the right table, row by row, and each row that is left out has the right reason."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest

from worker.contract.errors import FixSetting
from worker.exports.collect import FORMATS
from worker.exports.convert import Choices, Converted, convert
from worker.exports.files import files_of
from worker.exports.format import Wishes
from worker.exports.judge import ScoreWishes
from worker.exports.names import Names, read_aliases
from worker.exports.prices import read_prices
from worker.exports.records import Reason
from worker.exports.scores import read_scale
from worker.exports.write import write_left_out, write_table

CASES = Path(__file__).parents[1] / "cases" / "exports"
EXPECTED = {"right.csv", "left_out.csv"}

# What a user chooses for each export, where the export leaves a choice.
CHOICES: dict[str, dict[str, Any]] = {
    "arena-votes": {},
    "embedllm": {},
    "helm": {"score": ["exact_match"]},
    "judged-long": {"scale": "1..10"},
    "langfuse": {"score": ["helpful"]},
    "langsmith": {"score": ["user_score"]},
    "litellm-spendlogs": {},
    "llmrouterbench": {},
    "lm-eval": {"score": ["exact_match", "acc"], "filter": "flexible-extract"},
    "mlflow": {"score": ["correct"]},
    "openai-batch": {},
    "openai-evals": {"score": ["correct"]},
    "openrouter-activity": {},
    "otel-genai": {"score": ["relevance"]},
    "phoenix": {"score": ["correctness"]},
    "promptfoo": {"score": ["score"]},
    "routerbench": {},
    "routereval": {},
    "sprout": {},
}


def converted(export: Path, score: Sequence[str] = (), scale: str = "", filter: str | None = None) -> Converted:
    """An export, converted with the aliases and the prices that serve all of them."""
    files = [file for file in files_of([export]) if file.name not in EXPECTED]
    choices = Choices(
        Wishes(Names(read_aliases(CASES / "aliases.csv", ())), score, filter),
        ScoreWishes(score, {"": read_scale(scale)} if scale else {}),
        read_prices(CASES / "prices.csv"),
    )
    return convert(files, [], choices, lambda _: None)


def rows_of(file: Path) -> list[tuple[str, ...]]:
    """The rows of a table, without its header, in an order that does not matter."""
    with file.open(encoding="utf-8", newline="") as stream:
        return sorted(tuple(row) for row in list(csv.reader(stream))[1:])


def test_every_case_has_its_choices() -> None:
    """A folder of cases that nobody reads would prove nothing."""
    assert {path.name for path in CASES.iterdir() if path.is_dir()} == set(CHOICES)


def test_the_guide_names_every_format() -> None:
    """And every reason why a row is left out."""
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "bring-your-history.md").read_text(encoding="utf-8")
    names = {one.name for one in FORMATS} | set(get_args(Reason))
    assert {name for name in names if f"`{name}`" not in guide} == set()


@pytest.mark.parametrize("name", CHOICES)
def test_an_export_becomes_its_table(name: str, tmp_path: Path) -> None:
    """Every row has the right prompt, LLM, score, cost, tokens and time, and no other row is there."""
    write_table(tmp_path / "table.csv", converted(CASES / name, **CHOICES[name]).results, is_long=True)
    assert rows_of(tmp_path / "table.csv") == rows_of(CASES / name / "right.csv")


@pytest.mark.parametrize("name", CHOICES)
def test_every_row_that_is_left_out_has_its_reason(name: str, tmp_path: Path) -> None:
    """By the id that the source has for it."""
    write_left_out(tmp_path / "left.csv", converted(CASES / name, **CHOICES[name]).left)
    assert rows_of(tmp_path / "left.csv") == rows_of(CASES / name / "left_out.csv")


# What a field may hold where the schema says something else.
ODD: list[Any] = [None, [], {}, "x", "", -1, 1.5, True, [None], {"a": 1}, "[", '{"a":', "NaN", "9" * 60, [{"role": 5}]]


def odd(value: Any, draw: random.Random, depth: int = 0) -> Any:
    """A row in which some fields hold something odd."""
    if depth and draw.random() < 0.02:
        return draw.choice(ODD)
    if isinstance(value, dict):
        return {name: odd(inner, draw, depth + 1) for name, inner in value.items()}
    return [odd(inner, draw, depth + 1) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", sorted(set(CHOICES) - {"routereval"}))
def test_odd_values_leave_rows_out_or_are_refused(name: str, tmp_path: Path) -> None:
    """A field of another type than the schema says ends no conversion: the row is left out, or the user is asked."""
    draw = random.Random(name)
    for file in files_of([CASES / name]):
        if file.name not in EXPECTED and not file.is_pickle:
            rows = [json.loads(json.dumps(row, default=str)) for row in file.rows()]
            place = (tmp_path / file.name).with_suffix(".json" if file.kind == ".json" else ".jsonl")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("\n".join(json.dumps(odd(row, draw)) for row in rows))
    with suppress(FixSetting):
        assert all(one.answer.prompt for one in converted(tmp_path, **CHOICES[name]).results)
