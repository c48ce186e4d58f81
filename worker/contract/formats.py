"""Finds the JSON object or the MessagePack map in a record's value, and names every other format. Pure.

Producers send other formats by mistake: the error then names the format and not only its first byte.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

FormatCode = Literal[
    "format",
    "utf16",
    "compressed",
    "array",
    "quoted_json",
    "confluent_frame",
    "half_surrogate",
]

SMALL_MAPS = range(0x80, 0x90)
SMALL_ARRAYS = range(0x90, 0xA0)
MAP_16, MAP_32 = 0xDE, 0xDF
ARRAY_16, ARRAY_32 = 0xDC, 0xDD

# A Confluent frame is a zero byte and a schema id of four bytes (Confluent wire format).
FRAME_BYTES = 5
UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
BLANKS = b" \t\r\n"
# gzip (RFC 1952), Zstandard (RFC 8878), LZ4 frame, bzip2, xz, and zip archives.
COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"BZh", b"\xfd7zXZ\x00", b"PK\x03\x04")
_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(\\u[dD][c-fC-F][0-9a-fA-F]{2})?|\\u[dD][c-fC-F][0-9a-fA-F]{2}")


class Body(NamedTuple):
    """The bytes of a JSON object or a MessagePack map. `is_framed`: a Confluent frame was around them."""

    data: bytes
    is_json: bool
    is_framed: bool


def find_body(value: bytes) -> Body | FormatCode:
    """The object or map in a value that is not empty, or the format that the value has."""
    is_framed = value[0] == 0 and len(value) > FRAME_BYTES and not _is_utf16(value)
    data = value[FRAME_BYTES:] if is_framed else value
    # RFC 8259, sections 2 and 8.1: blanks may stand before an object, and a byte order mark may be ignored.
    text = data.removeprefix(UTF8_MARK).lstrip(BLANKS)
    if text[:1] == b"{" and not _is_utf16(text):
        return Body(text, True, is_framed)
    if data[0] in SMALL_MAPS or data[0] in (MAP_16, MAP_32):
        return Body(data, False, is_framed)
    return "confluent_frame" if is_framed else _named(value, text)


def named_after_error(body: Body) -> FormatCode | None:
    """The format of a body that could not be decoded, where it is not bad JSON or bad MessagePack."""
    if body.is_framed:
        return "confluent_frame"
    if not body.is_json:
        return None
    return "half_surrogate" if any(match[1] is None for match in _SURROGATE.finditer(body.data)) else None


def _named(value: bytes, text: bytes) -> FormatCode:
    if _is_utf16(value):
        return "utf16"
    if value.startswith(COMPRESSED):
        return "compressed"
    if text[:1] == b"[" or value[0] in SMALL_ARRAYS or value[0] in (ARRAY_16, ARRAY_32):
        return "array"
    return "quoted_json" if text[:1] == b'"' else "format"


def _is_utf16(value: bytes) -> bool:
    """UTF-16 has a mark, or a zero byte beside the first character of a JSON object."""
    return value.startswith(UTF16_MARKS) or value[:2] == b"{\x00" or (value[:2] == b"\x00{" and value[2:3] == b"\x00")
