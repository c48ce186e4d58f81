"""schemas/ says what the code does: current, and its examples are valid and readable."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from worker.contract import codec, examples, schemas
from worker.contract.errors import RejectRecord
from worker.contract.messages import Configuration, Decision, WindowBlock
from worker.contract.settings import Settings

FOLDER = Path(__file__).parents[2] / "schemas"
NAMES = sorted(examples.messages())
LIMITS = Settings().limits


def written(path: str) -> Any:
    """A file of schemas/."""
    return json.loads((FOLDER / path).read_text(encoding="utf-8"))


def decode_query(value: bytes) -> msgspec.Struct:
    return codec.decode_query(value, LIMITS.max_query_bytes, LIMITS.max_nesting)


def decode_completion(value: bytes) -> msgspec.Struct:
    return codec.decode_completion(value, LIMITS.max_completion_bytes, LIMITS.max_nesting, LIMITS.max_cost_micros)


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "query": decode_query,
    "completion": decode_completion,
    "dispatch": codec.decode_dispatch,
    "deferred": codec.decode_deferred,
    "account-row": codec.decode_account,
    "reservation": codec.decode_reservation,
    "configuration": msgspec.msgpack.Decoder(Configuration).decode,
    "window-block": msgspec.msgpack.Decoder(WindowBlock).decode,
}


def test_the_folder_is_current() -> None:
    """`make schemas` changes no file."""
    on_disk = {path.relative_to(FOLDER).as_posix(): path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.json")}
    assert on_disk == schemas.files()


def test_every_kind_of_decision_has_an_example() -> None:
    """Every kind of decision has an example, a new kind too."""
    kinds = {kind.__struct_config__.tag for kind in Decision.__args__}
    assert {name.removeprefix("decision-") for name in examples.decisions()} == kinds


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_valid(name: str) -> None:
    """Each JSON Schema is valid, and its example obeys it."""
    schema = written(f"{name}.schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    assert [error.message for error in validator(schema).iter_errors(written(f"examples/{name}.json"))] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_refuses(name: str) -> None:
    """A schema refuses its example without the first required field; if no field is required, with an unknown field."""
    schema, example = written(f"{name}.schema.json"), written(f"examples/{name}.json")
    required = schema["$defs"][type(examples.messages()[name]).__name__]["required"]
    broken = {**example, "unknown": 1} if not required else {k: v for k, v in example.items() if k != required[0]}
    assert not validator(schema).is_valid(broken)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_read_back(name: str) -> None:
    """An encoded example decodes to the same message."""
    message = examples.messages()[name]
    decode = DECODERS.get(name, codec.decode_decision)
    assert decode(codec.encode(message)) == message


@pytest.mark.parametrize("name", sorted(examples.inputs()))
def test_the_json_of_an_example_can_be_sent(name: str) -> None:
    """A producer may send the example of an input as the file has it."""
    assert DECODERS[name]((FOLDER / f"examples/{name}.json").read_bytes()) == examples.messages()[name]


def test_the_example_of_a_dead_letter() -> None:
    """The example is refused for the reason in its headers, has the headers that the AsyncAPI document lists, and
    holds the key and value that were received."""
    letter = examples.dead_letter()
    with pytest.raises(RejectRecord) as refused:
        decode_query(letter.value or b"")
    example = written("examples/dead-letter.json")
    headers = written("asyncapi.json")["components"]["messages"]["dead-letter"]["headers"]
    assert example["headers"]["__connect.errors.exception.message"] == str(refused.value)
    assert example["headers"]["__connect.errors.exception.class.name"] == f"tollgate.{refused.value.code}"
    assert base64.b64decode(example["key"]) == letter.key
    assert base64.b64decode(example["value"]) == letter.value
    assert [error.message for error in validator(headers).iter_errors(example["headers"])] == []


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    """Each `$ref` leads to a place in the document or to a schema file."""
    document = written("asyncapi.json")
    assert [reference for reference in references(document) if not leads_somewhere(reference, document)] == []


def test_the_asyncapi_document_has_every_topic() -> None:
    """The document has the topics that `tollgate topics create` makes."""
    addresses = {channel["address"] for channel in written("asyncapi.json")["channels"].values()}
    assert addresses == set(Settings().topics.all(["{llm}"])) - {"dispatch.-llm-"} | {"dispatch.{llm}"}


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema)


def references(node: Any) -> list[str]:
    """Every `$ref` under a node."""
    if isinstance(node, list):
        return [found for child in node for found in references(child)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
    return own + [found for child in node.values() for found in references(child)]


def leads_somewhere(reference: str, document: Any) -> bool:
    if not reference.startswith("#/"):
        return (FOLDER / reference).is_file()
    for part in reference.removeprefix("#/").split("/"):
        document = document.get(part, {})
    return bool(document)
