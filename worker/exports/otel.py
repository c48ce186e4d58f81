"""Spans of OpenTelemetry's GenAI conventions, as OTLP JSON: a line or a document for each batch of spans.

Three generations of the conventions are found side by side: attributes `gen_ai.prompt.0.content` (OpenLLMetry), events
`gen_ai.user.message`, and `gen_ai.input.messages` with `parts`. Integers and times are text in OTLP JSON.
OpenInference writes attributes `llm.*` into the same files.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worker.exports.files import File, field, mapping, mappings
from worker.exports.format import Format, Wishes, having, rows_of, text
from worker.exports.prompts import text_of
from worker.exports.records import Answer, Judgement, LeftOut, PromptOf, Reason, Record, Row
from worker.exports.traces import left_by_kind
from worker.exports.values import cost, counts, millis

ERROR_CODES = {"2", "STATUS_CODE_ERROR", "ERROR"}
NUMBERED = re.compile(r"^(?:gen_ai\.prompt|llm\.prompts)\.(\d+)\.(role|content)$")
NUMBERED_OPENINFERENCE = re.compile(r"^llm\.input_messages\.(\d+)\.message\.(role|content)$")
MESSAGE_EVENT = re.compile(r"^gen_ai\.(system|user|assistant|tool)\.message$")
MESSAGES = ("gen_ai.input.messages", "gen_ai.prompt", "input.value")
EVALUATION = "gen_ai.evaluation.result"
MAX_DEPTH = 20

INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion")
CACHED = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "gen_ai.usage.cached_tokens",
    "llm.token_count.prompt_details.cache_read",
)
COSTS = ("gen_ai.usage.cost", "gen_ai.usage.total_cost", "llm.cost.total")
MODELS = ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name")
KINDS = ("gen_ai.operation.name", "llm.request.type", "openinference.span.kind", "traceloop.span.kind")


def _otel(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    for file, row in rows_of([*files["spans"], *files["old_spans"], *files["logs"]]):
        if isinstance(row, LeftOut):
            yield row
            continue
        for group in mappings(row, "resourceSpans", "resource_spans"):
            for scope in mappings(group, "scopeSpans", "scope_spans", "instrumentationLibrarySpans"):
                for span in mappings(scope, "spans"):
                    yield from _span(span, file.name)
        for group in mappings(row, "resourceLogs"):
            for scope in mappings(group, "scopeLogs"):
                for record in mappings(scope, "logRecords"):
                    yield from _log_record(record, file.name)


def _log_record(record: Row, source: str) -> Iterator[Record]:
    """An event of a span that was written as a log record: a judgement, or the prompt."""
    attributes = attributes_of(record)
    name = text(record.get("eventName") or attributes.get("event.name"))
    span = text(field(record, "spanId", "span_id"))
    if name == EVALUATION:
        yield _evaluation(record, span, source)
        return
    body = _plain(record.get("body"))
    inner = body if isinstance(body, dict) else {}
    asked = _prompt(attributes | inner, ())
    if asked is None and MESSAGE_EVENT.match(name) and name == "gen_ai.user.message":
        asked = text_of(inner.get("content", body))
    if asked is not None:
        yield PromptOf(span, asked, source=source)


def _span(span: Row, source: str) -> Iterator[Record]:
    given, attributes = text(field(span, "spanId", "span_id")), attributes_of(span)
    events = mappings(span, "events")
    found = [attributes.get(name) for name in INPUT], [attributes.get(name) for name in OUTPUT]
    stated = _first(attributes, COSTS)
    yield Answer(
        given,
        given,
        text(_first(attributes, MODELS)),
        _prompt(attributes, events),
        cost(stated) or None,
        counts(_some(found[0]), _some(found[1]), _first(attributes, CACHED)),
        millis(field(span, "startTimeUnixNano", "start_time_unix_nano")),
        _left(span, attributes),
        parent=text(field(span, "parentSpanId", "parent_span_id")) or None,
        groups=tuple(
            filter(
                None,
                (text(field(span, "traceId", "trace_id")), text(_first(attributes, ("gen_ai.conversation.id",)))),
            )
        ),
        source=source,
    )
    for event in events:
        if event.get("name") == EVALUATION:
            yield _evaluation(event, given, source)


def _evaluation(event: Row, span: str, source: str) -> Judgement:
    attributes = attributes_of(event)
    label = attributes.get("gen_ai.evaluation.score.label")
    return Judgement(
        span,
        text(attributes.get("gen_ai.evaluation.name")),
        attributes.get("gen_ai.evaluation.score.value"),
        None if label is None else text(label),
        None,
        millis(event.get("timeUnixNano")),
        inside=True,
        source=source,
    )


def _left(span: Row, attributes: Mapping[str, Any]) -> Reason | None:
    kind = text(_first(attributes, KINDS)).lower()
    if not kind and _first(attributes, ("gen_ai.response.model", "gen_ai.usage.output_tokens")) is not None:
        kind = "chat"
    left = left_by_kind(kind)
    if left is None and (text(field(span, "status.code")) in ERROR_CODES or attributes.get("error.type")):
        return "error"
    return left


def _prompt(attributes: Mapping[str, Any], events: Sequence[Row]) -> str | None:
    for name in MESSAGES:
        if (found := text_of(attributes.get(name))) is not None:
            return found
    return text_of(_numbered(attributes)) or text_of(_of_events(events))


def _numbered(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Messages whose fields are attributes with a number: `gen_ai.prompt.0.role`."""
    messages: dict[int, dict[str, Any]] = defaultdict(dict)
    for name, value in attributes.items():
        if match := NUMBERED.match(name) or NUMBERED_OPENINFERENCE.match(name):
            messages[int(match.group(1))][match.group(2)] = value
    return [messages[number] for number in sorted(messages)]


def _of_events(events: Sequence[Row]) -> list[dict[str, Any]]:
    messages = []
    for event in events:
        attributes = attributes_of(event)
        if match := MESSAGE_EVENT.match(text(event.get("name"))):
            messages.append({"role": match.group(1), "content": attributes.get("content")})
        elif event.get("name") == "gen_ai.content.prompt":
            messages.append({"role": "user", "content": text_of(attributes.get("gen_ai.prompt"))})
        elif "gen_ai.input.messages" in attributes:
            messages.append({"role": "user", "content": text_of(attributes["gen_ai.input.messages"])})
    return messages


def attributes_of(holder: Row) -> dict[str, Any]:
    """The attributes of a span or an event as names and plain values."""
    pairs = {text(pair.get("key")): _plain(pair.get("value")) for pair in mappings(holder, "attributes")}
    return pairs or mapping(holder, "attributes")


def _plain(value: Any, depth: int = 0) -> Any:
    """A value of OTLP (`{"stringValue": "..."}`) as a plain one."""
    if not isinstance(value, dict) or depth > MAX_DEPTH:
        return value
    # Parquet gives every value all kinds, and fills one.
    filled = {kind: inner for kind, inner in value.items() if inner is not None}
    if len(filled) != 1:
        return value
    kind, inner = next(iter(filled.items()))
    if kind == "arrayValue":
        return [_plain(item, depth + 1) for item in mappings(inner, "values")]
    if kind == "kvlistValue":
        pairs = mappings(inner, "values")
        return {text(pair.get("key")): _plain(pair.get("value"), depth + 1) for pair in pairs}
    return inner


def _first(attributes: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return _some([attributes.get(name) for name in names])


def _some(values: list[Any]) -> Any:
    return next((value for value in values if value not in (None, "")), None)


FORMATS = (
    Format(
        "otel-genai",
        "OpenTelemetry GenAI spans",
        {
            "spans": having("resourceSpans"),
            "old_spans": having("resource_spans"),
            "logs": having("resourceLogs"),
        },
        _otel,
        "set `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true` (OpenLLMetry: `TRACELOOP_TRACE_CONTENT=true`)",
    ),
)
