"""Reads records from outside under limits: a message, or why there is none. Pure."""

from __future__ import annotations

from typing import NamedTuple

from worker.contract import codec, extras
from worker.contract.answers import Unavailable
from worker.contract.codes import Rejection
from worker.contract.completions import UsableCompletion, read_answer, read_unavailable
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import Query
from worker.contract.record import Record
from worker.contract.settings import LimitSettings

NO_EMBEDDING = Rejection("no_embedding")
NO_TEXT = Rejection("no_text")
EMPTY_TEXT = Rejection("empty_text")


class Limits(NamedTuple):
    """The largest accepted value and the largest accepted key with headers, in bytes; the deepest nesting, in levels.
    The defaults limit nothing."""

    max_bytes: int = 2**31
    max_header_bytes: int = 2**31
    max_nesting: int = 10_000

    @classmethod
    def of_queries(cls, given: LimitSettings) -> Limits:
        """What the settings accept as a query."""
        return cls(given.max_query_bytes, given.max_header_bytes, given.max_nesting)

    @classmethod
    def of_completions(cls, given: LimitSettings) -> Limits:
        """What the settings accept as a completion."""
        return cls(given.max_completion_bytes, max_nesting=given.max_nesting)


def read_query(record: Record, limits: Limits) -> Query | Rejection:
    """The query of a record with what its headers add, or why it cannot be used under these limits."""
    query = codec.decode_query(record.value, limits.max_bytes, limits.max_nesting)
    if isinstance(query, Rejection):
        return query
    return codec.check_headers(record, limits.max_header_bytes) or extras.completed(query, record.headers)


def read_completion(record: Record, limits: Limits) -> UsableCompletion | Unavailable | Rejection:
    """The answer in a record of `completions`, or that a worker left an LLM, or why nobody can use the record."""
    fields = codec.completion_fields(record.value, limits.max_bytes, limits.max_nesting)
    if isinstance(fields, Rejection):
        return fields
    if (unavailable := read_unavailable(fields)) is not None:
        return unavailable
    answer = read_answer(fields, record.partition)
    dispatch = None if answer is None else DispatchId.parse(answer.dispatch_id)
    if answer is None or dispatch is None:
        return Rejection("dispatch_id")
    return answer if dispatch.partition == record.partition else Rejection("partition", detail=str(dispatch.partition))
