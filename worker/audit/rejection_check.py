"""Whether a recorded rejection can be true of its record. Pure.

A rejection is checked by the limit or the dimension that it carries: settings and index may be others today.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.contract import codec
from worker.contract.codes import RejectCode, Rejection
from worker.contract.messages import EmbeddingDtype
from worker.contract.record import Record
from worker.contract.rejections import EMPTY_TEXT, NO_EMBEDDING, NO_TEXT, Limits, read_completion, read_query
from worker.contract.requests import question

# The codes that depend on [limits], with the limit that they carry.
LIMITED: dict[RejectCode, str] = {
    "too_large": "max_bytes",
    "headers": "max_header_bytes",
    "nesting": "max_nesting",
}
MAX_DIMENSION = 100_000
# How a setting can have said that bytes are read, and an embedder that no index has.
DTYPES: tuple[EmbeddingDtype | None, ...] = (None, "float16", "float32")
ANOTHER_EMBEDDER = ""


def limits_of(rejection: Rejection) -> Limits:
    """The limits that a rejection carries; nothing else is limited."""
    name = LIMITED.get(rejection.code)
    return Limits() if name is None or rejection.limit is None else Limits(**{name: rejection.limit})


def can_reject_query(record: Record, rejection: Rejection) -> bool:
    """Whether a query can have been rejected like this, under some limits and some index."""
    query = read_query(record, limits_of(rejection))
    if isinstance(query, Rejection):
        return query == rejection
    if rejection.code == "unpublishable":
        # Only the broker of that day knows.
        return bool(rejection.detail)
    if query.embedding is None:
        return rejection in (NO_EMBEDDING, EMPTY_TEXT if question(query) else NO_TEXT)
    problems = (
        codec.embedding_rows([query], dimension, dtype, embedder)[1][0]
        for dimension in _dimensions(query.embedding, rejection)
        for dtype in DTYPES
        for embedder in (None, ANOTHER_EMBEDDER)
    )
    return rejection in problems


def can_reject_completion(record: Record, rejection: Rejection) -> bool:
    """Whether a completion can have been rejected like this, under some limits."""
    return read_completion(record, limits_of(rejection)) == rejection


def _dimensions(embedding: bytes | list[float], rejection: Rejection) -> Iterator[int]:
    """The dimensions of every index that can have rejected this embedding like this."""
    if rejection.limit is not None:
        lengths = [rejection.limit]
    else:
        lengths = [len(embedding) // 2, len(embedding) // 4] if isinstance(embedding, bytes) else [len(embedding)]
    return (length for length in lengths if 0 < length <= MAX_DIMENSION)
