"""Traces: Langfuse, LangSmith, Phoenix and MLflow. `otel` reads those of OpenTelemetry.

The schemas are those of Langfuse 4.16, langsmith-sdk of August 2026 (`Run`, `Feedback`), Phoenix 20.3 with
OpenInference, and MLflow 3.17. An agent or a chain repeats the tokens and the cost of the calls inside, so only the
calls are answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worker.exports.files import File, decoded, field, mapping, mappings, unquoted
from worker.exports.format import Format, Wishes, having, rows_of, text
from worker.exports.prompts import text_of
from worker.exports.records import Answer, Judge, Judgement, LeftOut, Reason, Record, Row
from worker.exports.values import above_zero, counts, millis

JUDGES: dict[str, Judge] = {
    "human": "person",
    "annotation": "person",
    "app": "person",
    "user": "person",
    "person": "person",
    "llm": "judge",
    "llm_judge": "judge",
    "ai_judge": "judge",
    "eval": "judge",
    "model": "judge",
    "judge": "judge",
    "auto_eval": "judge",
    "code": "code",
    "heuristic": "code",
    "program": "code",
}
# What a span of each kind is. A kind that is not listed is no call of an LLM.
PARENTS = {"chain", "agent", "workflow", "task", "invoke_agent", "invoke_workflow", "create_agent"}
CALLS = {"llm", "generation", "chat_model", "chat", "text_completion", "generate_content", "completion", "responses"}
NOT_CHAT = {"embedding", "embeddings", "reranker", "rerank"}
# The columns of Langfuse's observations. Every other column is a score.
LANGFUSE_COLUMNS = {
    *("id", "traceId", "startTime", "endTime", "projectId", "parentObservationId", "type", "environment", "name"),
    *("level", "statusMessage", "version", "createdAt", "updatedAt", "input", "output", "metadata", "model"),
    *("internalModelId", "modelParameters", "completionStartTime", "promptId", "promptName", "promptVersion"),
    *("latency", "timeToFirstToken", "providedUsageDetails", "usageDetails", "costDetails", "providedCostDetails"),
    *("inputCost", "outputCost", "totalCost", "inputUsage", "outputUsage", "totalUsage", "traceName", "traceTags"),
    *("traceTimestamp", "userId", "modelId", "inputPrice", "outputPrice", "totalPrice", "comments", "sessionId"),
    *("tags", "release", "bookmarked", "public", "usage", "unit", "promptTokens", "completionTokens", "totalTokens"),
    *(
        "usagePricingTierId",
        "usagePricingTierName",
        "toolDefinitions",
        "toolCalls",
        "toolCallNames",
        "traceEnvironment",
    ),
}


def judge_of(value: Any) -> Judge | None:
    """Who judged, by the word that a source has for it."""
    return JUDGES.get(text(value).lower())


def left_by_kind(kind: str) -> Reason | None:
    """Why a span of this kind is no answer; None for a call of an LLM."""
    if kind in CALLS:
        return None
    return "parent_span" if kind in PARENTS else "not_chat" if kind in NOT_CHAT else "not_llm"


def _ids(*values: Any) -> tuple[str, ...]:
    return tuple(filter(None, (text(value) for value in values)))


def _langfuse(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    for file, row in rows_of([*files["observations"], *files["snake_observations"]]):
        if isinstance(row, LeftOut):
            yield row
            continue
        answer = _langfuse_answer(row, file.name)
        yield answer
        yield from _langfuse_columns(row, answer)
    for file, row in rows_of(files["scores"]):
        yield row if isinstance(row, LeftOut) else _langfuse_score(row, file.name)


def _langfuse_answer(row: Row, source: str) -> Answer:
    given, kind = text(field(row, "id")), text(field(row, "type")).lower()
    left = left_by_kind(kind)
    if text(field(row, "level")).upper() == "ERROR" and left is None:
        left = "error"
    return Answer(
        given,
        given,
        text(field(row, "model", "providedModelName", "provided_model_name")),
        text_of(field(row, "input")),
        above_zero(
            field(row, "totalCost", "calculatedTotalCost", "total_cost", "costDetails.total", "cost_details.total")
        ),
        counts(
            field(row, "inputUsage", "usageDetails.input", "usage_details.input", "promptTokens", "usage.input"),
            field(
                row, "outputUsage", "usageDetails.output", "usage_details.output", "completionTokens", "usage.output"
            ),
        ),
        millis(field(row, "startTime", "start_time")),
        left,
        parent=text(field(row, "parentObservationId", "parent_observation_id")) or None,
        groups=_ids(field(row, "traceId", "trace_id"), field(row, "sessionId", "session_id")),
        source=source,
    )


def _langfuse_columns(row: Row, answer: Answer) -> Iterator[Judgement]:
    """The scores of an observation, in a column of each name: a cell holds a list of them.

    Only the export of the user interface has such columns; it spells the others in camel case.
    """
    for name, cell in row.items() if "traceId" in row else ():
        values = decoded(cell)
        if name in LANGFUSE_COLUMNS or not isinstance(values, list):
            continue
        for value in values:
            if not isinstance(value, dict | list):
                yield Judgement(answer.id, name, value, inside=True, source=answer.source)


def _langfuse_score(row: Row, source: str) -> Judgement:
    kind, label = text(field(row, "data_type", "dataType")).upper(), field(row, "string_value", "stringValue")
    value = field(row, "value")
    return Judgement(
        text(field(row, "observation_id", "observationId", "trace_id", "traceId", "session_id", "sessionId")),
        text(field(row, "name")),
        None if kind == "CATEGORICAL" else value,
        None if label is None else text(label),
        judge_of(field(row, "source")),
        millis(field(row, "updated_at", "updatedAt", "timestamp", "created_at")),
        text(field(row, "id")) or None,
        source=source,
    )


def _langsmith(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    for file, row in rows_of(files["runs"]):
        if isinstance(row, LeftOut):
            yield row
            continue
        yield _langsmith_answer(row, file.name)
        # Where the feedback is not exported, a run still has its mean.
        for key, stats in mapping(row, "feedback_stats").items():
            yield Judgement(text(row["id"]), key, field(stats, "avg"), inside=True, source=file.name)
    for file, row in rows_of(files["feedback"]):
        if isinstance(row, LeftOut):
            yield row
            continue
        value = field(row, "value")
        yield Judgement(
            text(field(row, "run_id", "trace_id")),
            text(field(row, "key")),
            field(row, "score", *(() if isinstance(value, str) else ("value",))),
            value if isinstance(value, str) else None,
            judge_of(field(row, "feedback_source.type")),
            millis(field(row, "modified_at", "created_at")),
            text(field(row, "id")) or None,
            source=file.name,
        )


def _langsmith_answer(row: Row, source: str) -> Answer:
    given, status = text(row["id"]), text(field(row, "status")).lower()
    left = left_by_kind(text(row.get("run_type")).lower())
    if left is None and (field(row, "error") or status == "error"):
        left = "error"
    elif left is None and (status in {"pending", "running"} or ("end_time" in row and row["end_time"] is None)):
        left = "unfinished"
    details = "prompt_token_details.cache_read"
    return Answer(
        given,
        given,
        text(field(row, "extra.metadata.ls_model_name", *MODELS_OF_CALLS)),
        text_of(field(row, "inputs")),
        above_zero(field(row, "total_cost")),
        counts(field(row, "prompt_tokens"), field(row, "completion_tokens"), field(row, details)),
        millis(field(row, "start_time")),
        left,
        parent=text(field(row, "parent_run_id")) or None,
        groups=_ids(field(row, "trace_id"), field(row, "extra.metadata.thread_id")),
        source=source,
    )


MODELS_OF_CALLS = (
    "outputs.llm_output.model_name",
    "outputs.model",
    "extra.invocation_params.model",
    "extra.invocation_params.model_name",
)


def _phoenix(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    for file, row in rows_of([*files["spans"], *files["nested_spans"]]):
        yield row if isinstance(row, LeftOut) else _phoenix_answer(row, file.name)
    for file, row in rows_of([*files["annotations"], *files["named_annotations"]]):
        if isinstance(row, LeftOut):
            yield row
            continue
        label = field(row, "label", "result.label")
        yield Judgement(
            text(field(row, "span_id", "trace_id", "session_id")),
            text(field(row, "annotation_name", "name")),
            field(row, "score", "result.score"),
            None if label is None else text(label),
            judge_of(field(row, "annotator_kind")),
            millis(field(row, "updated_at", "created_at")),
            text(field(row, "id")) or None,
            source=file.name,
        )


def _phoenix_answer(row: Row, source: str) -> Answer:
    given = text(field(row, "context.span_id", "span_id", "id"))
    kind = text(field(row, "attributes.openinference.span.kind", "span_kind")).lower()
    left = left_by_kind(kind)
    if left is None and text(field(row, "status_code")).upper().endswith("ERROR"):
        left = "error"
    used = "attributes.llm.token_count"
    return Answer(
        given,
        given,
        text(field(row, "attributes.llm.model_name")),
        text_of(field(row, "attributes.llm.input_messages")) or text_of(field(row, "attributes.input.value")),
        above_zero(field(row, "attributes.llm.cost.total")),
        counts(
            field(row, f"{used}.prompt"),
            field(row, f"{used}.completion"),
            field(row, f"{used}.prompt_details.cache_read"),
        ),
        millis(field(row, "start_time")),
        left,
        parent=text(field(row, "parent_id")) or None,
        groups=_ids(field(row, "context.trace_id", "trace_id"), field(row, "attributes.session.id")),
        source=source,
    )


def _mlflow(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    for file, row in rows_of([*files["traces"], *files["flat_traces"]]):
        yield from [row] if isinstance(row, LeftOut) else _mlflow_trace(row, file.name)


def _mlflow_trace(row: Row, source: str) -> Iterator[Record]:
    """The calls of a trace, and the judgements of it. Its last call has the trace's id."""
    info = mapping(row, "info") or row
    trace, state = text(field(info, "trace_id", "request_id")), text(field(info, "state", "status")).upper()
    spans = mappings(row, "data.spans", "spans")
    calls = _leaves([span for span in spans if _attribute(span, "mlflow.spanType").lower() in CALLS], spans)
    left: Reason | None = None if calls else "not_llm"
    if state in {"ERROR", "IN_PROGRESS"}:
        left = "error" if state == "ERROR" else "unfinished"
    if left is not None:
        yield Answer(trace, trace, "", left=left, source=source)
        return
    at_ms = millis(field(info, "request_time", "timestamp_ms"))
    calls.sort(key=lambda span: millis(field(span, "start_time_unix_nano", "start_time_ns")) or 0)
    for span in calls:
        given = trace if span is calls[-1] else f"{trace}/{text(span.get('span_id'))}"
        yield _mlflow_answer(span, given, trace, at_ms if len(calls) == 1 else None, source)
    yield from _assessments(info, trace, source)


def _leaves(calls: Sequence[Row], spans: Sequence[Row]) -> list[Row]:
    """The calls that hold no other call."""
    parents = {text(span.get("span_id")): text(field(span, "parent_span_id", "parent_id")) for span in spans}
    holders: set[str] = set()
    for call in calls:
        holder = parents.get(text(call.get("span_id")), "")
        while holder and holder not in holders:
            holders.add(holder)
            holder = parents.get(holder, "")
    return [call for call in calls if text(call.get("span_id")) not in holders]


def _mlflow_answer(span: Row, given: str, trace: str, at_ms: int | None, source: str) -> Answer:
    # Each attribute of a span is JSON in a text.
    attributes = {name: unquoted(decoded(value)) for name, value in mapping(span, "attributes").items()}
    used = attributes.get("mlflow.chat.tokenUsage")
    failed = text(field(span, "status.code", "status_code")).upper().endswith("ERROR")
    left: Reason | None = "error" if failed else None
    return Answer(
        given,
        given,
        text(field(attributes, "mlflow.llm.model", "mlflow.spanOutputs.model", "mlflow.spanInputs.model")),
        text_of(attributes.get("mlflow.spanInputs")),
        above_zero(field(attributes, "mlflow.llm.cost.total_cost")),
        counts(*(field(used, name) for name in ("input_tokens", "output_tokens", "cache_read_input_tokens"))),
        at_ms if at_ms is not None else millis(field(span, "start_time_unix_nano", "start_time_ns")),
        left,
        groups=(trace,),
        source=source,
    )


def _attribute(span: Row, name: str) -> str:
    return text(unquoted(mapping(span, "attributes").get(name)))


def _assessments(info: Row, trace: str, source: str) -> Iterator[Judgement]:
    """Feedback on a trace. What was expected is no score, and what was overridden holds no more."""
    for one in mappings(info, "assessments"):
        if one.get("valid") is False or not isinstance(one.get("feedback"), dict):
            continue
        yield Judgement(
            trace,
            text(field(one, "assessment_name", "name")),
            one["feedback"].get("value"),
            None,
            judge_of(field(one, "source.source_type")),
            millis(field(one, "last_update_time", "create_time")),
            text(one.get("assessment_id")) or None,
            inside=True,
            source=source,
        )


FORMATS = (
    Format(
        "langfuse",
        "Langfuse",
        {
            "observations": having("traceId", "type", "startTime", "input"),
            "snake_observations": having("trace_id", "type", "start_time", "input", "level"),
            "scores": having("name", "value", "trace_id|traceId", "observation_id|observationId"),
        },
        _langfuse,
        "let Langfuse keep inputs: export with the field `input`, without a masking function",
        frozenset({"scores"}),
    ),
    Format(
        "langsmith",
        "LangSmith",
        {"runs": having("run_type", "inputs", "trace_id"), "feedback": having("run_id", "key", "score")},
        _langsmith,
        "do not set `LANGSMITH_HIDE_INPUTS`",
        frozenset({"feedback"}),
        states_costs=True,
    ),
    Format(
        "phoenix",
        "Phoenix",
        {
            "spans": having("context.span_id", "attributes.openinference.span.kind"),
            "nested_spans": having("context.span_id", "span_kind", "attributes"),
            "annotations": having("annotation_name", "annotator_kind"),
            "named_annotations": having("span_id|trace_id", "name", "annotator_kind"),
        },
        _phoenix,
        "do not set `OPENINFERENCE_HIDE_INPUTS` or `OPENINFERENCE_HIDE_INPUT_MESSAGES`",
        frozenset({"annotations", "named_annotations"}),
    ),
    Format(
        "mlflow",
        "MLflow traces",
        {"traces": having("info", "data.spans"), "flat_traces": having("trace_id", "spans", "assessments")},
        _mlflow,
        "log the inputs of spans: `mlflow.spanInputs` is empty (`request_preview` is cut, so it is never the prompt)",
    ),
)
