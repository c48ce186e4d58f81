"""Dead letters and headers: what is passed on as received, what is cut, and what is refused."""

from __future__ import annotations

import pytest

from worker.contract import codec, dead_letters, sentences
from worker.contract.codes import Reason, Rejection
from worker.contract.decisions import Cause, Ignored
from worker.contract.record import UNREADABLE_HEADERS, Headers, StoredRecord

ERRORS = {"topic": b"queries", "partition": b"3", "offset": b"77"}


def ignored(llm: str) -> Ignored:
    """The record of a completion that was ignored, which names this LLM."""
    return Ignored(b"", Cause("completions", 77), 0, "unmatched", "0-0-1", llm)


LETTERS: list[tuple[str, bytes | None, Reason, bytes, bytes | None, dict[str, bytes]]] = [
    ("a value of a wrong type", b"value", Rejection("type", detail="id"), b"VALUE_CONVERTER", b"value", {}),
    ("a completion of a closed dispatch", b"value", ignored("small"), b"TASK_PUT", b"value", {}),
    ("a completion with a long LLM", b"value", ignored("n" * 10_000), b"TASK_PUT", b"value", {}),
    ("a tombstone", None, Rejection("empty"), b"VALUE_CONVERTER", None, {}),
    (
        "a value beyond the limit",
        b"0123456789ABC",
        Rejection("too_large", 10, "13"),
        b"VALUE_CONVERTER",
        b"0123456789",
        {"truncated.bytes": b"13"},
    ),
]


@pytest.mark.parametrize(
    ("value", "why", "stage", "kept", "cut"), [c[1:] for c in LETTERS], ids=[c[0] for c in LETTERS]
)
def test_a_dead_letter(
    value: bytes | None, why: Reason, stage: bytes, kept: bytes | None, cut: dict[str, bytes]
) -> None:
    """Key, value and headers are as received; headers say the timestamp, the code, its fields, a sentence, the cut."""
    record = StoredRecord("queries", 3, 77, 1_000, b"key", value, [("own", b"header")])
    said = {**ERRORS, "stage": stage, "exception.class.name": f"tollgate.{why.code}".encode()}
    said["exception.message"] = sentences.reason(why).encode()
    fields = {"timestamp.ms": b"1000"} | ({} if why.limit is None else {"limit": str(why.limit).encode()})
    fields |= {"detail": why.detail.encode()} if why.detail else {}
    letter = dead_letters.dead_letter(record, why, 10, 1_000)
    headers = {("own", b"header"), *((f"__connect.errors.{name}", text) for name, text in said.items())}
    headers |= {(f"tollgate.{name}", text) for name, text in (fields | cut).items()}
    assert letter.key == b"key"
    assert letter.value == kept
    assert set(letter.headers) == headers
    assert sum(len(text) for _, text in letter.headers if text is not None) < 1_000, "a detail is not cut"


def test_a_dead_letter_that_was_sent_again() -> None:
    """Its headers hold those of the first dead letter. An audit reads those that were added last."""
    first = dead_letters.dead_letter(
        StoredRecord("queries", 3, 77, 0, None, b"value", []), Rejection("too_large", 10, "13"), 100, 1_000
    )
    again = StoredRecord("queries", 3, 99, 0, None, b"value", first.headers)
    second = dead_letters.dead_letter(again, Rejection("empty"), 100, 1_000)
    added = dead_letters.added_headers(again._replace(headers=second.headers))
    assert added[dead_letters.LETTER_OFFSET] == "99"
    assert added[dead_letters.LETTER_CODE] == "tollgate.empty"
    assert dead_letters.LETTER_LIMIT not in added, "the limit is that of the first dead letter"


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
    record = StoredRecord("queries", 3, 77, 1_000, key, b"v", own)
    letter = dead_letters.dead_letter(record, Rejection("headers"), 10, 100)
    kept = [header for header in letter.headers if not header[0].startswith(("__connect.", "tollgate."))]
    cut = {name.removeprefix("tollgate."): said for name, said in letter.headers if name.startswith("tollgate.")}
    assert cut.pop("timestamp.ms") == b"1000"
    length = None if letter.key is None else len(letter.key)
    assert (kept, (length, len(kept), cut)) == (own[: len(kept)], expected)


HEADERS = [
    ("none", None, [], None),
    ("as many bytes as may be", b"k" * 88, [SHORT], None),
    ("one byte more", b"k" * 89, [SHORT], Rejection("headers", 100, "101")),
    ("a large key", b"k" * 101, [], Rejection("headers", 100, "101")),
    ("a header without a value", None, [("n", None)], None),
    ("names that are not UTF-8", None, UNREADABLE_HEADERS, Rejection("header_name")),
]


@pytest.mark.parametrize(("key", "headers", "why"), [c[1:] for c in HEADERS], ids=[c[0] for c in HEADERS])
def test_headers_that_can_be_passed_on(key: bytes | None, headers: Headers, why: Rejection | None) -> None:
    """A query's key and headers together, of 100 bytes at most."""
    assert codec.check_headers(StoredRecord("queries", 3, 77, 1_000, key, b"v", headers), 100) == why
