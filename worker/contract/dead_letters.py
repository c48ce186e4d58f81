"""Dead letters: records as received, with headers that say in codes why they could not be used. Pure."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple, get_args

from worker.contract import sentences
from worker.contract.codes import IgnoreCode, Reason
from worker.contract.record import Record, header_bytes, headers_bytes

# Headers of dead letters, by which audits read them (KIP-298, and ours). LETTER_TOPIC is the first that is added.
LETTER_TOPIC, LETTER_PARTITION, LETTER_OFFSET, LETTER_CODE = (
    f"__connect.errors.{name}" for name in ("topic", "partition", "offset", "exception.class.name")
)
REQUIRED = (LETTER_TOPIC, LETTER_PARTITION, LETTER_OFFSET, LETTER_CODE)
LETTER_LIMIT, LETTER_DETAIL = "tollgate.limit", "tollgate.detail"
# The timestamp of the record. The dead letter has that of its writing, so that it is kept as long as its topic says.
LETTER_TIME = "tollgate.timestamp.ms"
CUT_VALUE, CUT_KEY = "tollgate.truncated.bytes", "tollgate.truncated.key.bytes"

IGNORED = get_args(IgnoreCode)


class DeadLetter(NamedTuple):
    """A record as received, with headers that say what was wrong."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def dead_letter(record: Record, why: Reason, max_bytes: int, max_header_bytes: int) -> DeadLetter:
    """The record with Kafka Connect's `__connect.errors.*` headers (KIP-298).

    The code of `why` is the end of the exception's class name; its limit and detail are in `tollgate.*` headers. The
    message is a sentence for people. A value beyond `max_bytes`, and a key and headers beyond `max_header_bytes`, are
    cut; `tollgate.*` headers say so.
    """
    said = {
        LETTER_TOPIC: record.topic,
        LETTER_PARTITION: str(record.partition),
        LETTER_OFFSET: str(record.offset),
        "__connect.errors.stage": "TASK_PUT" if why.code in IGNORED else "VALUE_CONVERTER",
        "__connect.errors.exception.message": sentences.reason(why),
        LETTER_TIME: str(record.timestamp),
        **reason_headers(why),
    }
    key, headers, cut = _cut_headers(record, max_header_bytes)
    value = record.value
    if value is not None and len(value) > max_bytes:
        cut[CUT_VALUE] = str(len(value))
        value = value[:max_bytes]
    headers += [(name, text.encode()) for name, text in (said | cut).items()]
    return DeadLetter(key, value, headers)


def reason_headers(why: Reason) -> dict[str, str]:
    """The headers of a dead letter that say why: the code, and its limit and detail where it has them."""
    limit = {} if why.limit is None else {LETTER_LIMIT: str(why.limit)}
    detail = {LETTER_DETAIL: why.detail} if why.detail else {}
    return {LETTER_CODE: f"tollgate.{why.code}", **limit, **detail}


def added_headers(letter: Record) -> dict[str, str]:
    """The headers that `dead_letter` added to those of the record. The record may have had headers of the same names:
    a dead letter that was sent again, for example."""
    names = [name for name, _ in letter.headers]
    first = len(names) - 1 - names[::-1].index(LETTER_TOPIC) if LETTER_TOPIC in names else len(names)
    return {name: (value or b"").decode(errors="replace") for name, value in letter.headers[first:]}


def _cut_headers(record: Record, max_bytes: int) -> tuple[bytes | None, list[tuple[str, bytes | None]], dict[str, str]]:
    """A key and headers of `max_bytes` at most, and headers that say what is missing."""
    key, headers, cut = record.key, list(record.headers), dict[str, str]()
    if headers_bytes(record) <= max_bytes:
        return key, headers, cut
    if key is not None and len(key) > max_bytes // 2:
        cut[CUT_KEY] = str(len(key))
        key = key[: max_bytes // 2]
    sizes = accumulate(map(header_bytes, headers), initial=len(key or b""))
    kept = sum(size <= max_bytes for size in sizes) - 1
    if kept < len(headers):
        cut["tollgate.dropped.headers"] = str(len(headers) - kept)
    return key, headers[:kept], cut
