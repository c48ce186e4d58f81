"""Tables of benchmarks: RouterBench, SPROUT and EmbedLLM, and votes between two LLMs.

The schemas are those of RouterBench (June 2024), CARROT's SPROUT (April 2026), EmbedLLM (September 2025) and FastChat's
`clean_battle.json` (April 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from worker.contract.usage import number
from worker.exports.files import File, decoded, field
from worker.exports.format import Format, Wishes, having, rows_of, text
from worker.exports.prompts import problem_of, text_of, turns_of
from worker.exports.records import Answer, Judgement, LeftOut, Reason, Record, Row
from worker.exports.values import Counts, cost, counts, millis, tokens

COST_SUFFIX = "|total_cost"
WIDE_IDS = ("query_id", "sample_id", "index", "key", "id")
BOTH_BAD = {"tie (bothbad)", "bothbad", "both_bad", "both bad", "tie(bothbad)", "tie_bothbad", "neither"}
TIES = {"tie", "draw", "equal", "same", "both", "both_good"}
FIRST, SECOND = {"model_a", "a", "left", "first", "1", "model_1"}, {"model_b", "b", "right", "second", "2", "model_2"}


def is_wide(row: Row) -> bool:
    """Whether a row has the columns `<llm>` and `<llm>|total_cost`."""
    return any(name.endswith(COST_SUFFIX) and name.removesuffix(COST_SUFFIX).strip() in row for name in row)


def _wide(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    """RouterBench, which is also the layout of Tollgate's own history."""
    count = 0
    for file, row in rows_of(files["wide"]):
        if isinstance(row, LeftOut):
            yield row
            continue
        count += 1
        query = text(field(row, *WIDE_IDS)) or str(count)
        asked = row.get("prompt")
        prompt = turns_of(asked) if isinstance(asked, str) else text_of(asked)
        for name in row:
            if name.endswith(COST_SUFFIX) and (llm := name.removesuffix(COST_SUFFIX).strip()) in row:
                yield from _wide_answer(row, llm, name, query, prompt, file.name)


def _wide_answer(row: Row, llm: str, costs: str, query: str, prompt: str | None, source: str) -> Iterator[Record]:
    given, score, stated = f"{query}/{llm}", row[llm], number(row[costs])
    left: Reason | None = "no_answer" if score in (None, "") and stated is None else None
    used = Counts(tokens(row.get("input_tokens")))
    yield Answer(given, query, llm, prompt, cost(row[costs]), used, left=left, source=source)
    yield Judgement(given, "score", score, inside=True, source=source)


def _sprout(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    for file, row in rows_of(files["structs"]):
        if isinstance(row, LeftOut):
            yield row
            continue
        query = text(field(row, *WIDE_IDS))
        for llm, cell in row.items():
            answer = decoded(cell)
            if isinstance(answer, dict) and "score" in answer and "num_input_tokens" in answer:
                yield from _sprout_answer(answer, llm, query, text_of(row.get("prompt")), file.name)


def _sprout_answer(cell: dict[str, Any], llm: str, query: str, prompt: str | None, source: str) -> Iterator[Record]:
    given, score = f"{query}/{llm}", cell.get("score")
    left: Reason | None = "no_answer" if score is None and not cell.get("response") else None
    used = counts(cell.get("num_input_tokens"), cell.get("num_output_tokens"))
    yield Answer(given, query, llm, prompt, None, used, left=left, source=source)
    yield Judgement(given, "score", score, inside=True, source=source)


def is_sprout(row: Row) -> bool:
    """Whether a row has a struct for each LLM: its LLMs are known by the shape of their cells only."""
    cells = [decoded(cell) for cell in row.values()]
    return any(isinstance(cell, dict) and {"score", "num_input_tokens"} <= set(cell) for cell in cells)


def _embedllm(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    models = _column(files["models"], "model_id", "model_name")
    prompts = _column(files["prompts"], "prompt_id", "prompt")
    count = 0
    for file, row in rows_of(files["pairs"]):
        if isinstance(row, LeftOut):
            yield row
            continue
        query, number_of_model = text(row["prompt_id"]), text(row["model_id"])
        model = text(field(row, "model_name")) or models.get(number_of_model, number_of_model)
        count += 1
        given, asked = f"{query}/{model}/{count}", text_of(field(row, "prompt") or prompts.get(query))
        yield Answer(given, query, model, asked, left_id=f"{query}/{model}", source=file.name)
        yield Judgement(given, "label", field(row, "label"), inside=True, source=file.name)


def _column(files: list[File], key: str, value: str) -> dict[str, str]:
    rows = [row for _, row in rows_of(files) if not isinstance(row, LeftOut)]
    return {text(row.get(key)): text(row.get(value)) for row in rows}


def _votes(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    rows = rows_of([*files["battles"], *files["preferences"], *files["chosen"]])
    for count, (file, row) in enumerate(rows, start=1):
        yield from [row] if isinstance(row, LeftOut) else _vote(row, count, file.name)


def _vote(row: Row, count: int, source: str) -> Iterator[Record]:
    query = text(field(row, "question_id", "id", "query_id", "battle_id")) or str(count)
    if "chosen_model" in row:
        llms = (text(row["chosen_model"]), text(row["rejected_model"]))
        wins: tuple[Decimal, Decimal] | None = (Decimal(1), Decimal(0))
    else:
        llms, wins = (text(row["model_a"]), text(row["model_b"])), _wins(row)
    prompt = _battle_prompt(row)
    left: Reason | None = None
    if field(row, "anony") is not None and text(field(row, "anony")).lower() == "false":
        left = "names_were_shown"
    elif wins is None or not _both_answered(row):
        left = "no_answer"
    else:
        left = problem_of(prompt)
    if left is not None:
        yield LeftOut(query, left)
        return
    at_ms = millis(field(row, "tstamp", "timestamp", "created_at"))
    for llm, win in zip(llms, wins or (), strict=False):
        given = f"{query}/{llm}/{count}"
        yield Answer(given, query, llm, prompt, at_ms=at_ms, left_id=query, source=source)
        yield Judgement(given, "win", win, inside=True, source=source)


def _battle_prompt(row: Row) -> str | None:
    """The last question of a conversation; of a list of turns the last one."""
    asked = decoded(field(row, "prompt", "question", "conversation_a", "full_conversation"))
    if isinstance(asked, list) and asked and all(isinstance(turn, str) for turn in asked):
        return text_of(asked[-1])
    return text_of(asked)


def _wins(row: Row) -> tuple[Decimal, Decimal] | None:
    """What each of two LLMs won; None where nobody judged. That both are bad is 0 for each, a tie half for each."""
    half, none, one = Decimal("0.5"), Decimal(0), Decimal(1)
    columns = [
        text(row.get(f"winner_{name}")).lower() in {"1", "true", "1.0"} for name in ("model_a", "model_b", "tie")
    ]
    word = text(field(row, "winner", "preference", "verdict", "vote")).lower()
    if word in FIRST or columns[0]:
        return one, none
    if word in SECOND or columns[1]:
        return none, one
    if word in BOTH_BAD or text(row.get("winner_bothbad")).lower() in {"1", "true"}:
        return none, none
    return (half, half) if word in TIES or columns[2] else None


def _both_answered(row: Row) -> bool:
    """Whether both LLMs answered, as far as their answers are in the row."""
    answers = [decoded(row[name]) for name in ("response_a", "response_b") if name in row]
    return all(answer and (not isinstance(answer, list) or any(answer)) for answer in answers)


FORMATS = (
    Format("routerbench", "tables like RouterBench", {"wide": is_wide}, _wide, main_score="score"),
    Format("sprout", "SPROUT", {"structs": is_sprout}, _sprout, main_score="score"),
    Format(
        "embedllm",
        "EmbedLLM",
        {
            "pairs": having("prompt_id", "model_id", "label"),
            "models": having("model_id", "model_name"),
            "prompts": having("prompt_id", "prompt"),
        },
        _embedllm,
        beside=frozenset({"models", "prompts"}),
        main_score="label",
        repeats="best",
    ),
    Format(
        "votes",
        "votes between two LLMs",
        {
            "battles": having("model_a", "model_b", "winner|preference|verdict|vote"),
            "preferences": having("model_a", "model_b", "winner_model_a"),
            "chosen": having("chosen_model", "rejected_model"),
        },
        _votes,
        main_score="win",
        repeats="mean",
        votes=True,
    ),
)
