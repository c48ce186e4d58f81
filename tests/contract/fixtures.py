"""Writes tests/contract/fixtures: what clients in other languages read, byte for byte, and where their keys belong.

python -m tests.contract.fixtures
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from worker.contract import codec, examples
from worker.contract.messages import Deferred, Dispatch, Query

FOLDER = Path(__file__).parent / "fixtures"
# The values that Kafka's own tests have for its murmur2 (org.apache.kafka.common.utils.UtilsTest).
JAVA_HASHES = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}
KEYS = (*JAVA_HASHES, "", "a", "ab", "order-17", "order-2041", "1-1234-1", "naïve-ß", "質問-42", "🙂")
# Each width of a number, a length of a text, a list and a map that MessagePack writes in its own way.
BODY: dict[str, Any] = {
    "numbers": [0, 127, 128, 255, 256, 2**16, 2**32, 2**53 - 1, -1, -32, -33, -129, -(2**15) - 1, -(2**40), 0.1, -2.5],
    "texts": ["", "x" * 31, "x" * 32, "ß" * 200, 'quotes " \\ and\nlines\t'],
    "words": [None, True, False],
    "list": list(range(20)),
    "map": {f"name {number}": {} for number in range(20)},
}
PARTITIONS = (1, 3, 4, 64, 1_000)


def murmur2(data: bytes) -> int:
    """The 32-bit hash that Kafka's Java client takes of a key, as a signed integer: murmur2 with its seed."""
    multiplier, mask = 0x5BD1E995, 0xFFFFFFFF
    value = (0x9747B28C ^ len(data)) & mask
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        value = (value * multiplier & mask) ^ word
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    value = (value ^ value >> 13) * multiplier & mask
    value ^= value >> 15
    return value - 2**32 if value >= 2**31 else value


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key: the hash without its sign, modulo the number of partitions."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def files() -> dict[str, bytes]:
    """The content of each fixture, by its name."""
    shown = examples.outputs()
    dispatch, deferred = shown["dispatch"], shown["deferred"]
    assert isinstance(dispatch, Dispatch), "the example of a dispatch"
    assert isinstance(deferred, Deferred), "the example of a deferral"
    every_type = msgspec.Raw(codec.encode(Query(id="naïve-ß-質問-🙂", body=BODY, embedding=bytes(range(256)))))
    keys: list[dict[str, Any]] = [
        {"key": key, "hash": murmur2(key.encode()), "partitions": {str(n): partition_of(key, n) for n in PARTITIONS}}
        for key in KEYS
    ]
    return {
        "dispatch.msgpack": codec.encode_dispatch(dispatch, "msgpack"),
        "dispatch.json": codec.encode_dispatch(dispatch, "json"),
        "deferred.msgpack": codec.encode(deferred),
        "deferred-every-type.msgpack": codec.encode(msgspec.structs.replace(deferred, query=every_type)),
        "keys.json": (json.dumps(keys, indent=1, ensure_ascii=False) + "\n").encode(),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_bytes(content)
