"""Writes schemas/: a JSON Schema and an example of each message, and the AsyncAPI 3 document of all topics.

    python -m worker.contract.schemas [DIRECTORY]

In JSON, bytes are base64 (those of a dead letter's headers: text); on the topics everything is MessagePack, and bytes
are bytes.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from worker.contract import asyncapi, examples
from worker.contract.codec import DeadLetter
from worker.contract.messages import Deferred, Query

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_packed = msgspec.msgpack.Decoder()


def schema(message: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of one message type, with all that it refers to."""
    (reference,), definitions = msgspec.json.schema_components([message], ref_template="#/$defs/{name}")
    if "query" in message.__struct_fields__:
        definitions |= msgspec.json.schema_components([Query], ref_template="#/$defs/{name}")[1]
        definitions[message.__name__]["properties"]["query"] = _query_passed_on(message)
    for definition in definitions.values():
        definition["description"] = inspect.cleandoc(definition["description"])
    return {"$schema": DIALECT, **reference, "$defs": definitions}


def _query_passed_on(message: type[msgspec.Struct]) -> dict[str, Any]:
    """A query is passed on as the bytes that came, which msgspec has no schema for."""
    query = {"$ref": "#/$defs/Query"}
    return {"anyOf": [query, {"type": "null"}]} if message is Deferred else query


def as_json(message: msgspec.Struct) -> Any:
    """What JSON can say of the message's MessagePack: bytes in base64, keys as strings."""
    return json.loads(msgspec.json.encode(_packed.decode(msgspec.msgpack.encode(message))))


def record_as_json(letter: DeadLetter) -> Any:
    """A record of `dead-letters`, which is as it was received and has no schema."""
    headers = {name: None if value is None else value.decode() for name, value in letter.headers}
    return json.loads(msgspec.json.encode(letter._asdict() | {"headers": headers}))


def files() -> dict[str, str]:
    """The content of every file in schemas/, by its path there."""
    content: dict[str, Any] = {"asyncapi.json": asyncapi.document()}
    for name, example in examples.messages().items():
        content[f"{name}.schema.json"] = schema(type(example))
        content[f"examples/{name}.json"] = as_json(example)
    content["examples/dead-letter.json"] = record_as_json(examples.dead_letter())
    return {path: json.dumps(value, indent=2, ensure_ascii=False) + "\n" for path, value in content.items()}


def main(directory: Path) -> None:
    """Write every file under `directory`."""
    for path, text in files().items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "schemas"))
