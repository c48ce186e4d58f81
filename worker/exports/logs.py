"""Logs of calls: LiteLLM's spend logs, OpenRouter's activity, OpenAI's and Anthropic's batches, OpenAI's evals.

The schemas are those of LiteLLM 1.110 (`LiteLLM_SpendLogs`), of OpenRouter's export of September 2026, of openai-python
3.3 (`types/batch.py`, `types/evals`), and of Anthropic's Message Batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from worker.exports.files import File, field, mapping, mappings
from worker.exports.format import Format, Wishes, having, rows_of, text
from worker.exports.prompts import text_of
from worker.exports.records import Answer, Judgement, LeftOut, PromptOf, Reason, Record, Row
from worker.exports.values import Counts, above_zero, cost, counts, counts_of_usage, millis

NOT_CHAT = ("embedding", "image", "transcription", "speech", "rerank", "moderation", "ocr", "vector_store", "file")
TRUE = {"true", "1", "t", "yes"}
# Keys of the metadata that a program gave its completions, under which people keep thumbs.
VERDICTS = {"thumb", "thumbs", "feedback", "rating", "score", "user_score", "verdict", "quality", "vote", "label"}


def is_true(value: Any) -> bool:
    """Whether a cell says true: as a boolean, or as text."""
    return str(value).strip().lower() in TRUE


def _litellm(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    for file, row in rows_of(files["logs"]):
        yield row if isinstance(row, LeftOut) else _litellm_answer(row, file.name)


def _litellm_answer(row: Row, source: str) -> Answer:
    """A row of the spend logs. The prompt is in `proxy_server_request`: `messages` is `{}` for nearly every call."""
    given = text(row["request_id"])
    used = field(row, "metadata.usage_object")
    counted = counts(field(row, "prompt_tokens"), field(row, "completion_tokens"))
    if isinstance(used, dict) and counted.input_tokens is not None:
        of_usage = counts_of_usage(used)
        counted = Counts(counted.input_tokens, of_usage.cached_tokens, of_usage.written_tokens, counted.output_tokens)
    return Answer(
        given,
        given,
        text(field(row, "model", "model_group")),
        text_of(field(row, "proxy_server_request")) or text_of(field(row, "messages")),
        above_zero(field(row, "spend")),
        counted,
        millis(field(row, "startTime", "start_time")),
        _litellm_left(row, given),
        groups=tuple(filter(None, [text(field(row, "session_id"))])),
        source=source,
    )


def _litellm_left(row: Row, given: str) -> Reason | None:
    if text(field(row, "status")).lower() == "failure":
        return "error"
    if is_true(field(row, "cache_hit")) or "_cache_hit" in given:
        return "cached"
    kind = text(field(row, "call_type")).lower()
    return "not_chat" if any(word in kind for word in NOT_CHAT) else None


def _openrouter(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    for file in files["days"]:
        yield LeftOut(file.name, "aggregate")
    for file, row in rows_of(files["calls"]):
        yield row if isinstance(row, LeftOut) else _openrouter_answer(row, file.name)


def _openrouter_answer(row: Row, source: str) -> Answer:
    given = text(field(row, "generation_id", "id"))
    model = text(field(row, "model_permaslug", "model"))
    # With an own key, OpenRouter charges nothing or a fee, and the provider charges the rest.
    paid = (cost(field(row, "cost_total")) or Decimal(0)) + (cost(field(row, "byok_usage_inference")) or Decimal(0))
    is_free = text(field(row, "variant")) == "free" or model.endswith(":free")
    left: Reason | None = None
    if is_true(field(row, "cancelled")):
        left = "cancelled"
    elif text(field(row, "finish_reason_normalized", "finish_reason_raw")).lower() == "error":
        left = "error"
    return Answer(
        given,
        given,
        model,
        None,
        paid if paid or is_free else None,
        counts(field(row, "tokens_prompt"), field(row, "tokens_completion"), field(row, "tokens_cached")),
        millis(field(row, "created_at")),
        left,
        source=source,
    )


def _batch(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    for file, row in rows_of([*files["requests"], *files["anthropic_requests"]]):
        if isinstance(row, LeftOut):
            yield row
            continue
        asked = text_of(field(row, "body", "params"))
        yield PromptOf(text(row["custom_id"]), asked, must_be_answered=True, source=file.name)
    for file, row in rows_of(files["responses"]):
        yield row if isinstance(row, LeftOut) else _batch_answer(row, file.name)
    for file, row in rows_of(files["anthropic_results"]):
        yield row if isinstance(row, LeftOut) else _anthropic_answer(row, file.name)


def _batch_answer(row: Row, source: str) -> Answer:
    given, body = text(row["custom_id"]), mapping(row, "response.body")
    model = text(body.get("model"))
    return Answer(
        f"{given}/{model}",
        given,
        model,
        None,
        None,
        counts_of_usage(body.get("usage")),
        millis(field(body, "created", "created_at")),
        _batch_left(row, body),
        given,
        batch=True,
        source=source,
    )


def _batch_left(row: Row, body: dict[str, Any]) -> Reason | None:
    status = field(row, "response.status_code")
    if row.get("error") or field(row, "response") is None or body.get("error") or (status or 200) != 200:
        return "error"
    if body.get("object") == "list" or "embedding" in text(body.get("model")):
        return "not_chat"
    if body.get("status") in {"failed", "cancelled", "incomplete"} and not body.get("output"):
        return "error"
    return None if _is_answered(body) else "no_answer"


def _is_answered(body: dict[str, Any]) -> bool:
    """Whether a response holds an answer: what a content filter stopped holds none."""
    if isinstance(body.get("choices"), list):
        choices = [one for one in mappings(body, "choices") if one.get("finish_reason") != "content_filter"]
        messages = [mapping(choice, "message") for choice in choices]
        said = [
            message.get(name) for message in messages for name in ("content", "tool_calls", "function_call", "refusal")
        ]
        said += [choice.get("text") for choice in choices]
        return any(said)
    return bool(body.get("output") or body.get("content"))


def _anthropic_answer(row: Row, source: str) -> Answer:
    given, kind = text(row["custom_id"]), field(row, "result.type")
    message = mapping(row, "result.message")
    left: Reason | None = None
    if kind != "succeeded":
        left = "cancelled" if kind == "canceled" else "error"
    elif not message.get("content"):
        left = "no_answer"
    usage = counts_of_usage(message.get("usage"))
    model = text(message.get("model"))
    return Answer(f"{given}/{model}", given, model, None, None, usage, None, left, given, batch=True, source=source)


def _evals(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    for file, row in rows_of(files["items"]):
        if isinstance(row, LeftOut):
            yield row
            continue
        yield _item(row, file.name)
        for result in mappings(row, "results"):
            score = result.get("score") if result.get("score") is not None else result.get("passed")
            yield Judgement(text(row["id"]), text(result.get("name")), score, inside=True, source=file.name)
    for file, row in rows_of(files["stored"]):
        if isinstance(row, LeftOut):
            yield row
            continue
        yield _stored(row, file.name)
        for name, value in mapping(row, "metadata").items():
            if name.lower() in VERDICTS:
                yield Judgement(text(row["id"]), name, value, inside=True, source=file.name)


def _item(row: Row, source: str) -> Answer:
    sample = mapping(row, "sample")
    error = sample.get("error")
    failed = text(row.get("status")) == "error" or (any(error.values()) if isinstance(error, dict) else error)
    left: Reason | None = "error" if failed else None
    if left is None and not sample.get("output"):
        left = "no_answer"
    return Answer(
        text(row["id"]),
        text(row["id"]),
        text(sample.get("model")),
        text_of(sample.get("input")),
        None,
        counts_of_usage(sample.get("usage")),
        millis(row.get("created_at")),
        left,
        source=source,
    )


def _stored(row: Row, source: str) -> Answer:
    left: Reason | None = None if _is_answered({name: field(row, name) for name in row}) else "no_answer"
    return Answer(
        text(row["id"]),
        text(row["id"]),
        text(row.get("model")),
        text_of(field(row, "messages", "input_messages", "request.messages", "input")),
        None,
        counts_of_usage(field(row, "usage")),
        millis(field(row, "created", "created_at")),
        left,
        source=source,
    )


def _asked(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    """Answers that `tollgate history ask` wrote."""
    for file, row in rows_of(files["answers"]):
        if isinstance(row, LeftOut):
            yield row
            continue
        query, model = text(row.get("query_id")), text(row.get("model"))
        left: Reason | None = "error" if row.get("error") else None
        yield Answer(
            f"{query}/{model}",
            query,
            model,
            text_of(row.get("prompt")),
            cost(row.get("cost_usd")),
            counts_of_usage(field(row, "usage")),
            millis(row.get("at")),
            left,
            source=file.name,
        )


FORMATS = (
    Format(
        "litellm",
        "LiteLLM spend logs",
        {"logs": having("request_id", "call_type", "spend")},
        _litellm,
        "set `general_settings.store_prompts_in_spend_logs: true` in LiteLLM's settings: then the prompt is in "
        "`proxy_server_request`",
    ),
    Format(
        "openrouter",
        "OpenRouter activity",
        {
            "calls": having("generation_id", "cost_total"),
            "days": having("date", "model", "requests", "usage"),
        },
        _openrouter,
        "OpenRouter keeps no prompts: add an own log with `generation_id` and `messages`",
    ),
    Format(
        "openai-batch",
        "batches of OpenAI or Anthropic",
        {
            "requests": having("custom_id", "url", "body"),
            "responses": having("custom_id", "response", "error"),
            "anthropic_requests": having("custom_id", "params"),
            "anthropic_results": having("custom_id", "result.type"),
        },
        _batch,
        "add the input file of the batch",
        frozenset({"requests", "anthropic_requests"}),
    ),
    Format(
        "openai-evals",
        "OpenAI evals and stored completions",
        {
            "items": having("sample", "results", "datasource_item"),
            "stored": having("object", "choices", "model", "usage"),
        },
        _evals,
        "ask for the messages of stored completions separately (`GET /v1/chat/completions/{id}/messages`), and add "
        "them as `messages`",
    ),
    Format("asked", "answers of tollgate history ask", {"answers": having("tollgate_history_ask", "query_id")}, _asked),
)
