"""schemas/ says what the code does: current, and its examples are valid and readable."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgpack
import msgspec
import pytest

from worker.contract import codec, descriptions, examples, schemas, sentences
from worker.contract.accounts import Account
from worker.contract.answers import Begun, Unavailable
from worker.contract.codes import Rejection
from worker.contract.decisions import Decision
from worker.contract.judgements import read_judgement
from worker.contract.messages import ClosedDispatch, Completion, Configuration, Query, WindowBlock
from worker.contract.settings import Settings
from worker.contract.shape_schemas import SHAPES
from worker.kafka import clients

FOLDER = Path(__file__).parents[2] / "schemas"
NAMES = sorted(examples.messages())
LIMITS = Settings().limits


def written(path: str) -> Any:
    """A file of schemas/."""
    return json.loads((FOLDER / path).read_text(encoding="utf-8"))


def decode_query(value: bytes | None) -> Query | Rejection:
    return codec.decode_query(value, LIMITS.max_query_bytes, LIMITS.max_nesting)


def decode_completion(value: bytes) -> Completion | Rejection:
    fields = codec.completion_fields(value, LIMITS.max_completion_bytes, LIMITS.max_nesting)
    return fields if isinstance(fields, Rejection) else msgspec.convert(fields, Completion)


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "query": decode_query,
    "completion": decode_completion,
    "unavailable": msgspec.msgpack.Decoder(Unavailable).decode,
    "judgement": lambda value: read_judgement(value, 10_000),
    "answer": codec.decode_answer,
    "begun": msgspec.msgpack.Decoder(Begun).decode,
    "dispatch": codec.decode_dispatch,
    "deferred": codec.decode_deferred,
    "account-row": codec.decode_account,
    "budget-account": msgspec.msgpack.Decoder(Account).decode,
    "reservation": codec.decode_reservation,
    "configuration": msgspec.msgpack.Decoder(Configuration).decode,
    "closed-dispatch": msgspec.msgpack.Decoder(ClosedDispatch).decode,
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


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_an_example_of_another_shape(name: str) -> None:
    """Each other shape of a query has a valid schema, and an example that obeys it and is read as a query."""
    schema, example = written(f"{name}.schema.json"), written(f"examples/{name}.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    assert validator(schema).is_valid(example)
    assert not validator(schema).is_valid({"text": "x"})
    assert isinstance(decode_query((FOLDER / f"examples/{name}.json").read_bytes()), Query)


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_refuses(name: str) -> None:
    """A schema refuses its example without the first required field; if no field is required, with an unknown field."""
    schema, example = written(f"{name}.schema.json"), written(f"examples/{name}.json")
    required = schema["required"]
    broken = {**example, "unknown": 1} if not required else {k: v for k, v in example.items() if k != required[0]}
    assert not validator(schema).is_valid(broken)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_read_back(name: str) -> None:
    """An encoded example decodes to the same message."""
    message = examples.messages()[name]
    decode = DECODERS.get(name, codec.decode_decision)
    packed = msgspec.json.encode(message) if name == "answer" else codec.encode(message)
    assert decode(packed) == message


@pytest.mark.parametrize("name", [name for name in NAMES if name != "answer"])
def test_an_example_is_read_by_other_libraries(name: str) -> None:
    """Python's and Go's MessagePack libraries refuse maps with keys that are not text: no message has any."""
    packed = codec.encode(examples.messages()[name])
    assert msgpack.unpackb(packed, strict_map_key=True).keys() == msgspec.msgpack.decode(packed).keys()


@pytest.mark.parametrize("name", sorted(examples.inputs()))
def test_the_json_of_an_example_can_be_sent(name: str) -> None:
    """A producer may send the example of an input as the file has it."""
    sent = (FOLDER / f"examples/{name}.json").read_bytes()
    example = examples.messages()[name]
    decode = DECODERS[name] if name in ("query", "completion") else msgspec.json.Decoder(type(example)).decode
    assert decode(sent) == example


def test_the_example_of_a_dead_letter() -> None:
    """The example is refused for the reason in its headers, has the headers that the AsyncAPI document lists, and
    holds the key and value that were received."""
    letter = examples.dead_letter()
    refused = decode_query(letter.value)
    assert isinstance(refused, Rejection)
    example = written("examples/dead-letter.json")
    headers = written("asyncapi.json")["components"]["messages"]["dead-letter"]["headers"]
    assert example["headers"]["__connect.errors.exception.message"] == sentences.reason(refused)
    assert example["headers"]["__connect.errors.exception.class.name"] == f"tollgate.{refused.code}"
    assert base64.b64decode(example["key"]) == letter.key
    assert base64.b64decode(example["value"]) == letter.value
    assert [error.message for error in validator(headers).iter_errors(example["headers"])] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_has_a_name_and_an_example(name: str) -> None:
    """Its root has the title that a generator of code names the class by, and the example of the folder."""
    schema = written(f"{name}.schema.json")
    assert schema["title"] == type(examples.messages()[name]).__name__
    assert schema["examples"] == [written(f"examples/{name}.json")]


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_described(name: str) -> None:
    """Each field of each type has a description, with a unit for money and moments, and integers are `int64`."""
    schema = written(f"{name}.schema.json")
    for kind in all_kinds(schema):
        for field, declared in kind["properties"].items():
            said = declared.get("description", "")
            assert said, f"{kind['title']}.{field} has no description"
            if field.endswith("_micros"):
                assert "icro-dollars" in said or "costs" in said, f"{kind['title']}.{field} has no unit"
            if field.endswith("_ms"):
                assert "illiseconds" in said, f"{kind['title']}.{field} has no unit"
            integers = [node for node in schemas.nodes(declared) if "integer" in node.get("type", ())]
            assert all(node["format"] == "int64" for node in integers), f"{kind['title']}.{field} has no width"


def test_no_description_is_left_over() -> None:
    """Each description belongs to a field."""
    kinds = [kind for name in NAMES for kind in all_kinds(written(f"{name}.schema.json"))]
    fields = {field for kind in kinds for field in kind["properties"]}
    full = {f"{kind['title']}.{field}" for kind in kinds for field in kind["properties"]}
    assert set(descriptions.FIELDS) - fields - full == set()


@pytest.mark.parametrize("name", NAMES)
def test_the_asyncapi_document_shows_the_example(name: str) -> None:
    """With its payload, a title and a content type that it really has."""
    message = written("asyncapi.json")["components"]["messages"][name]
    usual = "application/json" if name in (*examples.inputs(), "answer") else "application/vnd.msgpack"
    assert message["examples"][0]["payload"] == written(f"examples/{name}.json")
    assert message["contentType"] == usual
    assert message["title"], "a generator names the message by it"


def test_the_asyncapi_document_names_the_partitioner() -> None:
    """It is the one of our own producers."""
    channel = written("asyncapi.json")["channels"]["queries"]
    assert channel["x-partitioner"] == clients.producer_config(Settings())["partitioner"]


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


def all_kinds(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The types that a schema declares."""
    return [schema, *schema.get("$defs", {}).values()]


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
