"""The AsyncAPI 3.0 document of Tollgate's topics; `python -m worker.contract.schemas` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from worker.contract.shape_schemas import SHAPES

MSGPACK, JSON, AS_RECEIVED = "application/vnd.msgpack", "application/json", "application/octet-stream"
# The partitioner of a client that keys its records, by the name that librdkafka has for it.
PARTITIONER = "murmur2_random"
CONTRACT_VERSION = "1.0.0"
TEXT = {"type": "string"}
DISPATCH_ID = {"type": "string", "pattern": "^[0-9]+-[0-9]+-[0-9]+$", "description": "<partition>-<offset>-<attempt>"}
QUERY_ID = {"type": "string", "description": "the query's id, or <partition>-<offset> where it brought none"}
BUDGET_KEY = {**TEXT, "description": "budget/<period>/<name of the budget>"}
QUERY_KEY = {**TEXT, "description": "the query's id"}
EXTRAS = {
    "tollgate-id": "the id of the query",
    "tollgate-deadline-ms": "when an answer becomes worth nothing, in milliseconds since 1970",
    "tollgate-allow": "the LLMs that may answer, separated by commas, or a JSON array",
    "tollgate-deny": "the LLMs that must not answer, separated by commas, or a JSON array",
    "tollgate-tags": "tags as <name>=<value>, separated by commas, or a JSON object",
}
CONNECT_ERRORS = {
    "topic": "where the record came from",
    "partition": "its partition",
    "offset": "its offset",
    "stage": "VALUE_CONVERTER, or TASK_PUT for a completion that changed nothing",
    "exception.class.name": "tollgate.<code>, such as tollgate.too_large; the schema of decision-rejected lists all",
    "exception.message": "a sentence for people; its wording may change at any time",
}
WHY = {
    "tollgate.limit": "the number that the record does not keep, in the unit of its setting",
    "tollgate.detail": "the name or path of a field, or the number that was found",
}
CUT = {
    "tollgate.truncated.bytes": "length of a value that was cut",
    "tollgate.truncated.key.bytes": "length of a key that was cut",
    "tollgate.dropped.headers": "how many of the last headers are left out, for their size",
    "tollgate.unreadable.headers": "all headers are left out: a name is not UTF-8",
}


class Message(NamedTuple):
    """A message on a topic. `schema` is a file in schemas/, None for bytes as they were received; `key` None: none.

    `formats` are the content types that it can have, the usual one first.
    """

    name: str
    schema: str | None
    key: dict[str, Any] | None
    summary: str
    formats: tuple[str, ...] = (MSGPACK,)


class Topic(NamedTuple):
    """One channel, from the side of Tollgate: `action` is what it does there."""

    name: str
    address: str
    action: str
    cleanup: str
    description: str
    messages: tuple[Message, ...]


TOPICS = (
    Topic(
        "queries",
        "queries",
        "receive",
        "delete",
        "LLM queries, read_committed. A JSON object or a MessagePack map, also in a Confluent frame: the first byte "
        "tells them apart, not a header. Use the query's id as the key, with the partitioner `murmur2_random`: that is "
        "what the clients of Java, Go and Node do by default, and what librdkafka (Python, C, .NET) does with the "
        "setting `partitioner=murmur2_random`. A repeat of an id is seen only in the partition of the first. A request "
        "of a provider's API, a line of a batch file and a CloudEvent are queries as they are.",
        (
            Message("query", "query", QUERY_KEY, "One LLM query", (JSON, MSGPACK)),
            *(Message(name, name, QUERY_KEY, shape.summary, (JSON, MSGPACK)) for name, shape in SHAPES.items()),
        ),
    ),
    Topic(
        "completions",
        "completions",
        "receive",
        "delete",
        "What inference workers answered, as JSON or MessagePack. Produce each to the partition that the dispatch's "
        "origin names; a partitioner would choose another.",
        (
            Message("completion", "completion", DISPATCH_ID, "The outcome of one dispatch", (JSON, MSGPACK)),
            Message("unavailable", "unavailable", TEXT, "An LLM that a worker calls no more", (JSON, MSGPACK)),
        ),
    ),
    Topic(
        "dispatch",
        "dispatch.{llm}",
        "send",
        "delete",
        "Queries for one LLM; read them read_committed. All headers of the query are passed on. MessagePack, or JSON "
        'with the setting `kafka.dispatch_format = "json"`; the header `content-type` says which.',
        (Message("dispatch", "dispatch", DISPATCH_ID, "A query with its reservation", (MSGPACK, JSON)),),
    ),
    Topic(
        "answers",
        "answers",
        "send",
        "delete",
        "What LLMs answered, as JSON, each in one transaction with its completion; read them read_committed. All "
        "headers of the query are passed on.",
        (Message("answer", "answer", QUERY_ID, "The answer to a query", (JSON,)),),
    ),
    Topic(
        "begun",
        "begun",
        "send",
        "compact,delete",
        "The calls of LLMs that have begun; a call that ended is a tombstone. Inference workers write and read it.",
        (Message("begun", "begun", DISPATCH_ID, "A call that may cost money"),),
    ),
    Topic(
        "judgements",
        "judgements",
        "receive",
        "delete",
        "Scores of answers that come later. `tollgate history from-topics` reads them; workers do not.",
        (Message("judgement", "judgement", None, "A score of an answer", (JSON, MSGPACK)),),
    ),
    Topic(
        "deferred",
        "deferred",
        "send",
        "delete",
        "Queries not served now, why, and what would change it.",
        (Message("deferred", "deferred", QUERY_ID, "A query not served now"),),
    ),
    Topic(
        "dead-letters",
        "dead-letters",
        "send",
        "delete",
        "Records that could not be used: key, value and headers as received, with headers that say why. The timestamp "
        "is that of the writing; tollgate.timestamp.ms has the record's own.",
        (
            Message(
                "dead-letter", None, {"description": "as received"}, "A record that could not be used", (AS_RECEIVED,)
            ),
        ),
    ),
    Topic(
        "ledger",
        "ledger",
        "send",
        "compact",
        "The state of each partition, by key; a reservation that closed is a tombstone.",
        (
            Message("account-row", "account-row", {"const": "account"}, "Prices, offsets and counts of the partition"),
            Message("budget-account", "budget-account", BUDGET_KEY, "The account of one budget in one period"),
            Message("configuration", "configuration", {"const": "configuration"}, "The settings in force"),
            Message("reservation", "reservation", {"type": "string", "pattern": "^reservation/"}, "Money held"),
            Message(
                "closed-dispatch",
                "closed-dispatch",
                {"type": "string", "pattern": "^closed/"},
                "A dispatch that closed, kept for later answers",
            ),
            Message("window-block", "window-block", {"type": "string", "pattern": "^window/"}, "Recent estimates"),
        ),
    ),
    Topic(
        "decisions",
        "decisions",
        "send",
        "delete",
        "The audit: one record for each input record and for what happened by itself, chained by `prev`.",
        tuple(
            Message(f"decision-{kind}", f"decision-{kind}", key, summary)
            for kind, key, summary in (
                ("configured", None, "Settings from here on"),
                ("priced", None, "Prices from here on"),
                ("routed", QUERY_ID, "A query dispatched or deferred"),
                ("rejected", None, "A record that went to dead-letters"),
                ("missed", None, "Records that left an input before they were read"),
                ("closed", QUERY_ID, "A reservation settled, released or expired"),
                ("charged_again", QUERY_ID, "A further answer to a dispatch that had closed"),
                ("switched", TEXT, "An LLM was taken out, is probed, or was taken back"),
                ("ignored", DISPATCH_ID, "A completion that changed nothing"),
                ("checkpoint", None, "The whole state, for a replay to begin at"),
            )
        ),
    ),
)


def document(examples: Mapping[str, Any]) -> dict[str, Any]:
    """The whole document. `examples` has one message as JSON for each schema.

    Topics may have a prefix (kafka.topic_prefix) in front of their address.
    """
    messages = [message for topic in TOPICS for message in topic.messages]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tollgate",
            "version": CONTRACT_VERSION,
            "description": "Routes LLM queries on Kafka under budgets. Partition p of every topic belongs to lane p.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": MSGPACK,
        "servers": {"local": {"host": "127.0.0.1:9092", "protocol": "kafka"}},
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": {f"{topic.action}-{topic.name}": _operation(topic) for topic in TOPICS},
        "components": {"messages": {message.name: _message(message, examples) for message in messages}},
    }


def _channel(topic: Topic) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": topic.address,
        "description": topic.description,
        "messages": {message.name: _reference("components", "messages", message.name) for message in topic.messages},
        "bindings": {
            "kafka": {"topicConfiguration": {"cleanup.policy": topic.cleanup.split(",")}, "bindingVersion": "0.5.0"}
        },
    }
    if topic.name == "queries":
        channel["x-partitioner"] = PARTITIONER
    if "{llm}" in topic.address:
        channel["parameters"] = {"llm": {"description": "Its name; characters that Kafka does not allow become `-`"}}
    return channel


def _operation(topic: Topic) -> dict[str, Any]:
    return {
        "action": topic.action,
        "channel": _reference("channels", topic.name),
        "messages": [_reference("channels", topic.name, "messages", message.name) for message in topic.messages],
    }


def _message(message: Message, examples: Mapping[str, Any]) -> dict[str, Any]:
    key = {} if message.key is None else {"key": message.key}
    described: dict[str, Any] = {
        "name": message.name,
        "title": _title(message),
        "summary": message.summary,
        "contentType": message.formats[0],
        "headers": _headers(message),
        "bindings": {"kafka": {**key, "bindingVersion": "0.5.0"}},
    }
    if message.schema is None:
        return described | {"payload": {"title": _title(message), "description": "Bytes as they were received."}}
    example = {"name": message.name, "payload": examples[message.schema]}
    return described | {"payload": {"$ref": f"./{message.schema}.schema.json"}, "examples": [example]}


def _title(message: Message) -> str:
    """`decision-routed` as `DecisionRouted`."""
    return "".join(part.capitalize() for part in message.name.split("-"))


def _headers(message: Message) -> dict[str, Any]:
    if message.schema is None:
        errors = {f"__connect.errors.{name}": {**TEXT, "description": text} for name, text in CONNECT_ERRORS.items()}
        why = {name: {**TEXT, "description": text} for name, text in WHY.items()}
        cut = {name: {**TEXT, "description": text} for name, text in CUT.items()}
        title = f"{_title(message)}Headers"
        return {"type": "object", "title": title, "required": list(errors), "properties": errors | why | cut}
    properties: dict[str, Any] = {"content-type": {**TEXT, "enum": [*message.formats], "title": "ContentType"}}
    if message.name in ("query", *SHAPES):
        properties |= {name: {**TEXT, "description": text} for name, text in EXTRAS.items()}
    if message.name in ("query", *SHAPES, "dispatch"):
        properties["traceparent"] = {**TEXT, "description": "W3C Trace Context, passed on as every other header"}
    return {"type": "object", "title": f"{_title(message)}Headers", "properties": properties}


def _reference(*path: str) -> dict[str, str]:
    return {"$ref": "#/" + "/".join(path)}
