"""A value's format is found, and what is neither a JSON object nor a MessagePack map is named."""

from __future__ import annotations

import gzip

import msgspec
import pytest

from worker.contract.formats import Body, find_body, named_after_error

JSON = b'{"text": "hello"}'
PACKED = msgspec.msgpack.encode({"text": "hello"})
FRAME = b"\x00\x00\x00\x00\x07"

READ = [
    ("JSON", JSON, Body(JSON, True, False)),
    ("JSON after a byte order mark", b"\xef\xbb\xbf" + JSON, Body(JSON, True, False)),
    ("JSON after blanks", b" \t\r\n" + JSON, Body(JSON, True, False)),
    ("JSON after a byte order mark and blanks", b"\xef\xbb\xbf\n " + JSON, Body(JSON, True, False)),
    ("MessagePack", PACKED, Body(PACKED, False, False)),
    ("JSON in a Confluent frame", FRAME + JSON, Body(JSON, True, True)),
    ("MessagePack in a Confluent frame", FRAME + PACKED, Body(PACKED, False, True)),
]

NAMED = [
    ("UTF-16 with a mark", '{"a":1}'.encode("utf-16"), "utf16"),
    ("UTF-16 LE", '{"a":1}'.encode("utf-16-le"), "utf16"),
    ("UTF-16 BE", '{"a":1}'.encode("utf-16-be"), "utf16"),
    ("gzip", gzip.compress(JSON), "compressed"),
    ("Zstandard", b"\x28\xb5\x2f\xfd\x04\x00", "compressed"),
    ("a JSON array", b"[" + JSON + b"]", "array"),
    ("a MessagePack array", msgspec.msgpack.encode([{"text": "hello"}]), "array"),
    ("JSON in a JSON string", msgspec.json.encode(JSON.decode()), "quoted_json"),
    ("Avro in a Confluent frame", FRAME + b"\x0ahello", "confluent_frame"),
    ("Protobuf in a Confluent frame", FRAME + b"\x02\x02\x00\x0a\x05hello", "confluent_frame"),
    ("plain text", b"hello", "format"),
    ("one zero byte", b"\x00", "format"),
]


@pytest.mark.parametrize(("value", "body"), [case[1:] for case in READ], ids=[case[0] for case in READ])
def test_an_object_is_found(value: bytes, body: Body) -> None:
    """JSON may have blanks, a byte order mark and a Confluent frame before it; MessagePack may have a frame."""
    assert find_body(value) == body


@pytest.mark.parametrize(("value", "code"), [case[1:] for case in NAMED], ids=[case[0] for case in NAMED])
def test_another_format_is_named(value: bytes, code: str) -> None:
    """A producer learns which format was sent."""
    assert find_body(value) == code


AFTER_ERRORS = [
    ("half a surrogate", b'{"text": "\\ud83d"}', "half_surrogate"),
    ("the second half alone", b'{"text": "\\ude00"}', "half_surrogate"),
    ("Avro that begins like JSON", FRAME + b"{\x02hello", "confluent_frame"),
    ("Avro that begins like MessagePack", FRAME + b"\x80\x01" + b"a" * 64, "confluent_frame"),
    ("a whole surrogate pair in bad JSON", b'{"text": "\\ud83d\\ude00"', None),
    ("bad MessagePack", b"\x82\x01", None),
]


@pytest.mark.parametrize(("value", "code"), [case[1:] for case in AFTER_ERRORS], ids=[case[0] for case in AFTER_ERRORS])
def test_a_body_that_cannot_be_decoded_is_named(value: bytes, code: str | None) -> None:
    """Avro and Protobuf can begin like an object. JSON can hold half a surrogate, which is not a character."""
    body = find_body(value)
    assert isinstance(body, Body)
    assert named_after_error(body) == code
