"""Tables that teams write themselves, read by the names of their columns: one row for each answer, or for each
judgement or prompt of an answer. A format that is known by name is never read here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

from msgspec import Struct

from worker.exports.files import File, field, mapping
from worker.exports.format import Format, Wishes, has, text
from worker.exports.prompts import text_of
from worker.exports.records import Answer, Judgement, LeftOut, PromptOf, Reason, Record, Row
from worker.exports.traces import judge_of
from worker.exports.values import Counts, cost, counts, counts_of_usage, millis

# What a column holds, by its name in lower case without units and without what is not a letter. The first that a table
# has is taken.
ID = ("query_id", "request_id", "id", "uuid", "custom_id", "generation_id", "call_id", "message_id", "sample_id", "key")
PROMPT = (
    *("prompt", "question", "query", "messages", "user_message", "user_prompt", "input", "instruction", "request"),
    *("text", "query_text", "user_input", "problem", "ask"),
)
MODEL = ("model", "llm", "model_name", "llm_name", "model_id", "engine", "response_model", "answered_by")
COST = ("cost_usd", "cost", "total_cost", "price", "price_usd", "spend", "usd", "cost_dollars", "total_cost_usd")
CENTS = ("cost_cents", "cents", "cost_in_cents", "price_cents", "cost_usd_cents", "total_cost_cents")
MICROS = ("cost_micros", "cost_micro_usd", "cost_usd_micros", "micros", "cost_microusd", "cost_in_micros")
MILLS = ("cost_mills", "cost_millidollars", "cost_usd_milli")
INPUT = ("input_tokens", "prompt_tokens", "tokens_in", "tokens_prompt", "num_input_tokens", "usage.prompt_tokens")
OUTPUT = (
    *("output_tokens", "completion_tokens", "tokens_out", "tokens_completion", "num_output_tokens"),
    "usage.completion_tokens",
)
CACHED = ("cached_tokens", "cached_input_tokens", "tokens_cached", "cache_read_tokens")
AT = ("at", "time", "timestamp", "ts", "created_at", "date", "datetime", "created", "start_time", "time_utc", "when")
SCORE = (
    *("score", "judge_score", "rating", "quality", "verdict", "feedback", "thumb", "thumbs", "grade", "label", "vote"),
    *(
        "user_score",
        "human_score",
        "llm_score",
        "judgement",
        "judgment",
        "evaluation",
        "correct",
        "correctness",
        "pass",
    ),
    *("passed", "is_correct", "accuracy", "points", "stars", "helpful", "helpfulness", "outcome", "user_rating"),
    *("judge_rating", "quality_score", "satisfaction", "result", "mark", "percent", "score_percent", "user_feedback"),
)
SCORE_END = re.compile(r"_(score|rating|grade|verdict|feedback|thumbs?)$")
# Where whole requests and responses are kept: who answered comes before who was asked.
NESTED_MODELS = ("response.model", "response_body.model", "request.model", "body.model")
NESTED_COSTS = ("usage.cost", "usage.cost_usd", "usage.total_cost", "response.usage.cost")
NAME, VALUE = ("name", "metric", "score_name", "criterion"), ("value", "score", "rating", "label")
BY = ("by", "annotator_kind", "annotator", "judge", "source", "rater", "source_type")
ERROR, STATUS, CACHE = (
    ("error", "error_message", "exception"),
    ("status", "state"),
    ("cached", "cache_hit", "from_cache"),
)
OTHER = {"comment", "reason", "explanation", "created_by", "user", "user_id", "note", "notes", "tags", "metadata"}
# Brackets that do not change what a number means: `($)` and `(1-5)`, but not `(cents)` and `(EUR)`.
NOT_UNITS = re.compile(r"\((?:\$|us\$|usd|us dollars|utc|[\d\s.-]*)\)")
NOT_LETTERS = re.compile(r"[^a-z0-9.]+")
UNITS = {"cents": Decimal("0.01"), "mills": Decimal("0.001"), "micros": Decimal("0.000001")}


class Columns(Struct, frozen=True):
    """The columns of a table by what they hold, as the table spells them; None where it has none."""

    prompt: str | None
    model: str | None
    cost: str | None
    usd_of_one: Decimal
    scores: tuple[str, ...]

    @classmethod
    def of(cls, row: Row) -> Columns:
        """The columns of a row."""
        named = spelt(row)
        cost_name, unit = _cost(named)
        taken = {*PROMPT, *MODEL, *ID, *AT, *INPUT, *OUTPUT, *OTHER}
        scores = [own for name, own in named.items() if name not in taken and (name in SCORE or SCORE_END.search(name))]
        return cls(_column(named, PROMPT), _column(named, MODEL), cost_name, unit, tuple(scores))


def spelt(row: Row) -> dict[str, str]:
    """The names of a row's columns as this module knows them, and as they are written."""
    named: dict[str, str] = {}
    for name in row:
        # `Cost ($)` is `cost`, and `Cost (cents)` is `cost_cents`.
        words = NOT_UNITS.sub("", name.strip().lower())
        named.setdefault(NOT_LETTERS.sub("_", words).strip("_"), name)
    return named


def _column(named: Mapping[str, str], known: Iterable[str]) -> str | None:
    return next((named[name] for name in known if name in named), None)


def _cost(named: Mapping[str, str]) -> tuple[str | None, Decimal]:
    """The column of costs, and how many US dollars its unit is."""
    for names, unit in ((CENTS, "cents"), (MICROS, "micros"), (MILLS, "mills")):
        if (found := _column(named, names)) is not None:
            return found, UNITS[unit]
    return _column(named, COST), Decimal(1)


def is_answers(row: Row) -> bool:
    """Whether a row is an answer of a named LLM to a prompt."""
    columns = Columns.of(row)
    return columns.prompt is not None and (columns.model is not None or has(row, "|".join(NESTED_MODELS)))


def is_prompts(row: Row) -> bool:
    """Whether a row is the prompt of an answer that stands in another file."""
    columns = Columns.of(row)
    return columns.prompt is not None and not is_answers(row) and _column(spelt(row), (*ID, *IDS_OF_SPANS)) is not None


IDS_OF_SPANS = ("span_id", "trace_id", "run_id", "observation_id", "session_id", "prompt_id", "response_id")


def is_judgements(row: Row) -> bool:
    """Whether a row judges an answer that stands in another file."""
    named = spelt(row)
    has_score = bool(Columns.of(row).scores) or _column(named, VALUE) is not None
    return has_score and _column(named, PROMPT) is None and bool(ids_of(row))


def ids_of(row: Row) -> list[str]:
    """The columns that may hold the id of an answer."""
    named = spelt(row)
    return [own for name, own in named.items() if name in {*ID, *IDS_OF_SPANS} or name.endswith("_id")]


def _answers(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    for file in files["answers"]:
        # Rows without ids are of one query if they ask the same.
        firsts: dict[str | None, str] = {}
        for count, row in enumerate(file.rows(), start=1):
            if isinstance(row, LeftOut):
                yield row
                continue
            column = Columns.of(row).prompt
            prompt = text_of(row.get(column)) if column is not None else None
            yield from _answer(row, prompt, firsts.setdefault(prompt, f"{file.name}:{count}"), file.name)


def _answer(row: Row, prompt: str | None, otherwise: str, source: str) -> Iterator[Record]:
    named, columns = spelt(row), Columns.of(row)
    query = text(field(row, *_columns(named, ID))) or otherwise
    model = text(field(row, *NESTED_MODELS, *filter(None, [columns.model])))
    given = f"{query}/{model}"
    stated = cost(row.get(columns.cost) if columns.cost is not None else field(row, *NESTED_COSTS))
    yield Answer(
        given,
        query,
        model,
        prompt,
        None if stated is None else stated * columns.usd_of_one or None,
        _used(row, named),
        millis(field(row, *_columns(named, AT))),
        _left(row, named),
        query,
        source=source,
    )
    for name in columns.scores:
        yield Judgement(given, name, row.get(name), inside=True, source=source)
    for name, value in mapping(row, "scores").items():
        yield Judgement(given, name, value, inside=True, source=source)


def _columns(named: Mapping[str, str], known: Iterable[str]) -> list[str]:
    return [named.get(name, name) for name in known if name in named or "." in name]


def _used(row: Row, named: Mapping[str, str]) -> Counts:
    if isinstance(usage := field(row, "usage", "response.usage"), dict):
        return counts_of_usage(usage)
    return counts(*(field(row, *_columns(named, names)) for names in (INPUT, OUTPUT, CACHED)))


def _left(row: Row, named: Mapping[str, str]) -> Reason | None:
    status = text(field(row, *_columns(named, STATUS))).lower()
    if field(row, *_columns(named, ERROR)) or status in {"error", "failed", "failure", "timeout"}:
        return "error"
    if status in {"cancelled", "canceled"}:
        return "cancelled"
    return "cached" if text(field(row, *_columns(named, CACHE))).lower() in {"true", "1"} else None


def judgements_of(row: Row, id_column: str, source: str) -> Iterator[Judgement]:
    """The judgements in a row of a file that judges the answers of another file."""
    named, of = spelt(row), text(row.get(id_column))
    at_ms, by = millis(field(row, *_columns(named, AT))), judge_of(field(row, *_columns(named, BY)))
    model = text(field(row, *_columns(named, MODEL))) or None
    own = text(row.get(named["id"])) if "id" in named and named["id"] != id_column else None
    name_column, value_column = _column(named, NAME), _column(named, VALUE)
    if name_column is not None and value_column is not None:
        yield Judgement(
            of, text(row.get(name_column)), row.get(value_column), None, by, at_ms, own, model, source=source
        )
        return
    for name in Columns.of(row).scores:
        yield Judgement(of, name, row.get(name), None, by, at_ms, own, model, source=source)


def prompts_of(row: Row, id_column: str, source: str) -> PromptOf:
    """The prompt in a row of a file that holds the prompts of another file's answers."""
    column = Columns.of(row).prompt
    return PromptOf(text(row.get(id_column)), text_of(row.get(column)) if column is not None else None, source=source)


LONG = Format("table", "a table with one row for each answer", {"answers": is_answers}, _answers)
