"""Dead letters and headers: what is passed on as received, what is cut, and what is refused."""

from __future__ import annotations

import pytest

from worker.contract import codec
from worker.contract.errors import RejectRecord
from worker.contract.record import UNREADABLE_HEADERS, StoredRecord

ERRORS = {"topic": b"queries", "partition": b"3", "offset": b"77", "exception.message": b"all wrong"}
LETTERS = [
    ("a value that could not be read", b"value", "type", {"stage": b"VALUE_CONVERTER"}, b"value", None),
    ("a completion nobody waits for", b"value", "unmatched", {"stage": b"TASK_PUT"}, b"value", None),
    ("a tombstone", None, "empty", {"stage": b"VALUE_CONVERTER"}, None, None),
    ("a value beyond the limit", b"0123456789ABC", "too_large", {"stage": b"VALUE_CONVERTER"}, b"0123456789", b"13"),
]


@pytest.mark.parametrize(
    ("value", "code", "stage", "kept", "cut"), [c[1:] for c in LETTERS], ids=[c[0] for c in LETTERS]
)
def test_a_dead_letter(
    value: bytes | None, code: str, stage: dict[str, bytes], kept: bytes | None, cut: bytes | None
) -> None:
    """Key, value, timestamp and headers as received, Kafka Connect's headers behind them; a cut is said."""
    record = StoredRecord("queries", 3, 77, 1_000, b"key", value, [("own", b"header")])
    said = {**ERRORS, **stage, "exception.class.name": f"tollgate.{code}".encode()}
    letter = codec.dead_letter(record, "all wrong", code, 10, 1_000)
    headers = {("own", b"header"), *((f"__connect.errors.{name}", text) for name, text in said.items())}
    headers |= {("tollgate.truncated.bytes", cut)} if cut else set()
    assert (letter.key, letter.value, letter.timestamp, set(letter.headers)) == (b"key", kept, 1_000, headers)


SHORT, LONG = ("a", b"1"), ("b", b"x" * 60)
ENVELOPES: list[tuple[str, bytes | None, list[tuple[str, bytes]], object]] = [
    ("all of it", b"k" * 88, [SHORT], (88, 1, {})),
    ("a key that is half of it", b"k" * 50, [SHORT, LONG], (50, 1, {"dropped.headers": b"1"})),
    ("too long a key", b"k" * 101, [], (50, 0, {"truncated.key.bytes": b"101"})),
    ("both", b"k" * 99, [LONG, SHORT], (50, 0, {"truncated.key.bytes": b"99", "dropped.headers": b"2"})),
    ("headers alone", None, [SHORT, LONG, LONG, SHORT], (None, 2, {"dropped.headers": b"2"})),
]


@pytest.mark.parametrize(("key", "own", "expected"), [c[1:] for c in ENVELOPES], ids=[c[0] for c in ENVELOPES])
def test_key_and_headers_of_a_dead_letter(key: bytes | None, own: list[tuple[str, bytes]], expected: object) -> None:
    """Cut to 100 bytes together, the last headers first; what is missing is said."""
    letter = codec.dead_letter(StoredRecord("queries", 3, 77, 1_000, key, b"v", own), "r", "headers", 10, 100)
    kept = [header for header in letter.headers if not header[0].startswith(("__connect.", "tollgate."))]
    cut = {name.removeprefix("tollgate."): said for name, said in letter.headers if name.startswith("tollgate.")}
    length = None if letter.key is None else len(letter.key)
    assert (kept, (length, len(kept), cut)) == (own[: len(kept)], expected)


HEADERS = [
    ("none", None, [], None),
    ("as many bytes as may be", b"k" * 88, [SHORT], None),
    ("one byte more", b"k" * 89, [SHORT], "101 bytes of key and headers, but 100 is the limit"),
    ("a large key", b"k" * 101, [], "101 bytes of key and headers, but 100 is the limit"),
    ("a header without a value", None, [("n", None)], None),
    ("names that are not UTF-8", None, UNREADABLE_HEADERS, "the name of a header is not UTF-8"),
]


@pytest.mark.parametrize(("key", "headers", "reason"), [c[1:] for c in HEADERS], ids=[c[0] for c in HEADERS])
def test_headers_that_can_be_passed_on(key: bytes | None, headers: codec.Headers, reason: str | None) -> None:
    """A query's key and headers together, of 100 bytes at most."""
    try:
        codec.check_headers(StoredRecord("queries", 3, 77, 1_000, key, b"v", headers), 100)
        said = None
    except RejectRecord as problem:
        said = str(problem) if problem.code == "headers" else problem.code
    assert said == reason
