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
    """`make schemas` would change nothing."""
    on_disk = {path.relative_to(FOLDER).as_posix(): path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.json")}
    assert on_disk == schemas.files()


def test_every_kind_of_decision_has_an_example() -> None:
    """A kind that is added is described."""
    kinds = {kind.__struct_config__.tag for kind in Decision.__args__}
    assert {name.removeprefix("decision-") for name in examples.decisions()} == kinds


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_valid(name: str) -> None:
    """Each example obeys its JSON Schema, which is itself a valid one."""
    schema = written(f"{name}.schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    assert [error.message for error in validator(schema).iter_errors(written(f"examples/{name}.json"))] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_refuses(name: str) -> None:
    """A schema says something: each refuses its example without its first required field, or with one unknown."""
    schema, example = written(f"{name}.schema.json"), written(f"examples/{name}.json")
    required = schema["$defs"][type(examples.messages()[name]).__name__]["required"]
    broken = {**example, "unknown": 1} if not required else {k: v for k, v in example.items() if k != required[0]}
    assert not validator(schema).is_valid(broken)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_read_back(name: str) -> None:
    """What is encoded decodes to the same message."""
    message = examples.messages()[name]
    decode = DECODERS.get(name, codec.decode_decision)
    assert decode(codec.encode(message)) == message


@pytest.mark.parametrize("name", sorted(examples.inputs()))
def test_the_json_of_an_example_can_be_sent(name: str) -> None:
    """A producer may send an input's example as it stands in the folder."""
    assert DECODERS[name]((FOLDER / f"examples/{name}.json").read_bytes()) == examples.messages()[name]


def test_the_example_of_a_dead_letter() -> None:
    """It is refused for the reason that it gives, has the headers that the AsyncAPI document lists, and its key and
    value are those that were received."""
    letter = examples.dead_letter()
    with pytest.raises(RejectRecord) as refused:
        decode_query(letter.value or b"")
    example = written("examples/dead-letter.json")
    headers = written("asyncapi.json")["components"]["messages"]["dead-letter"]["headers"]
    said = (str(refused.value), f"tollgate.{refused.value.code}")
    shown = tuple(example["headers"][f"__connect.errors.exception.{part}"] for part in ("message", "class.name"))
    received = tuple(base64.b64decode(example[part]) for part in ("key", "value"))
    assert (shown, received, list(validator(headers).iter_errors(example["headers"]))) == (said, letter[:2], [])


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    """Inside the document and to the schemas beside it."""
    document = written("asyncapi.json")
    assert [reference for reference in references(document) if not leads_somewhere(reference, document)] == []


def test_the_asyncapi_document_has_every_topic() -> None:
    """Names of the topics are those that `tollgate topics create` makes."""
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
