"""Writes schemas/: a JSON Schema and an example of each message, and the AsyncAPI 3 document of all topics.

    python -m worker.contract.schemas [DIRECTORY]

The schemas speak of JSON, where bytes are base64 (those of a dead letter's headers: text). In MessagePack the names and
types are the same, and bytes are bytes. Every type that a generator of code makes a class of has a name (`title`).
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from worker.contract import asyncapi, descriptions, examples, shape_schemas
from worker.contract.answers import Answer
from worker.contract.dead_letters import DeadLetter
from worker.contract.messages import Deferred, Query

NULL = {"type": "null"}
DIALECT = "https://json-schema.org/draft/2020-12/schema"

_packed = msgspec.msgpack.Decoder()


def schema(message: type[msgspec.Struct], example: Any) -> dict[str, Any]:
    """The JSON Schema of one message type, with all that it refers to. `example` is one message as JSON.

    The message itself is the root, not a reference: generators of code name the type of a root by its title.
    """
    _, definitions = msgspec.json.schema_components([message], ref_template="#/$defs/{name}")
    if "query" in message.__struct_fields__:
        definitions |= msgspec.json.schema_components([Query], ref_template="#/$defs/{name}")[1]
        definitions[message.__name__]["properties"]["query"] = _query_passed_on(message)
    for name, definition in definitions.items():
        definition["description"] = inspect.cleandoc(definition["description"])
        for field, declared in definition["properties"].items():
            declared["description"] = descriptions.described(name, field)
            _specify(declared, _pascal(name, field))
    root = definitions.pop(message.__name__)
    return {"$schema": DIALECT, **root, "examples": [example], **({"$defs": definitions} if definitions else {})}


def _specify(declared: dict[str, Any], title: str) -> None:
    """Give each integer its width, and each type that a generator must name a title, in one property.

    A number or a text that may be null is one schema of two types: of an `anyOf`, generators make a type of its own.
    """
    for node in nodes(declared):
        _unite(node)
        if "integer" in node.get("type", ()):
            node["format"] = "int64"
        if "anyOf" in node:
            node["title"] = f"{title}Choice"
        if "enum" in node:
            node["title"] = title


def _unite(node: dict[str, Any]) -> None:
    """Replace `anyOf` of one type and null by both types, in place."""
    other, *rest = node.get("anyOf", [{}])
    if rest == [NULL] and isinstance(other.get("type"), str):
        del node["anyOf"]
        node |= {**other, "type": [other["type"], "null"]}


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """A schema and all schemas inside it."""
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from nodes(child)
    elif isinstance(node, list):
        for child in node:
            yield from nodes(child)


def _pascal(message: str, field: str) -> str:
    return message + "".join(part.capitalize() for part in field.split("_"))


def _query_passed_on(message: type[msgspec.Struct]) -> dict[str, Any]:
    """A query is passed on as the bytes that came, which msgspec has no schema for."""
    query = {"$ref": "#/$defs/Query"}
    return {"anyOf": [query, {"type": "null"}]} if message is Deferred else query


def as_json(message: msgspec.Struct) -> Any:
    """What JSON can say of the message's MessagePack: bytes in base64, keys as strings. An Answer is JSON itself."""
    if isinstance(message, Answer):
        return json.loads(msgspec.json.encode(message))
    return json.loads(msgspec.json.encode(_packed.decode(msgspec.msgpack.encode(message))))


def record_as_json(letter: DeadLetter) -> Any:
    """A record of `dead-letters`, which is as it was received and has no schema."""
    headers = {name: None if value is None else value.decode() for name, value in letter.headers}
    return json.loads(msgspec.json.encode(letter._asdict() | {"headers": headers}))


def files() -> dict[str, str]:
    """The content of every file in schemas/, by its path there."""
    shown = {name: as_json(example) for name, example in examples.messages().items()}
    shapes = shape_schemas.SHAPES
    others = {name: shape.example for name, shape in shapes.items()}
    content: dict[str, Any] = {"asyncapi.json": asyncapi.document(shown | others)}
    for name, shape in shapes.items():
        content[f"{name}.schema.json"] = {"$schema": DIALECT, **shape_schemas.schema(shape)}
        content[f"examples/{name}.json"] = shape.example
    for name, example in examples.messages().items():
        content[f"{name}.schema.json"] = schema(type(example), shown[name])
        content[f"examples/{name}.json"] = shown[name]
    content["examples/dead-letter.json"] = record_as_json(examples.dead_letter())
    return {path: json.dumps(value, indent=2, ensure_ascii=False) + "\n" for path, value in content.items()}


def main(directory: Path) -> None:
    """Write every file under `directory`."""
    for path, text in files().items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "schemas"))
