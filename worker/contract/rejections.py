"""Reads records from outside under limits: a message, or why there is none. Pure."""

from __future__ import annotations

from typing import NamedTuple

from worker.contract import codec
from worker.contract.codes import Rejection
from worker.contract.messages import Completion, Query
from worker.contract.record import Record

NO_EMBEDDING = Rejection("no_embedding")
NO_TEXT = Rejection("no_text")
EMPTY_TEXT = Rejection("empty_text")


class Limits(NamedTuple):
    """The largest accepted value and the largest accepted key with headers, in bytes; the deepest nesting, in levels;
    the highest cost of one completion, in micro-dollars. The defaults limit nothing."""

    max_bytes: int = 2**31
    max_header_bytes: int = 2**31
    max_nesting: int = 10_000
    max_cost_micros: int = 2**53


def read_query(record: Record, limits: Limits) -> Query | Rejection:
    """The query of a record, or why it cannot be used under these limits."""
    query = codec.decode_query(record.value, limits.max_bytes, limits.max_nesting)
    if isinstance(query, Rejection):
        return query
    return codec.check_headers(record, limits.max_header_bytes) or query


def read_completion(record: Record, limits: Limits) -> Completion | Rejection:
    """The completion of a record, or why it cannot be used under these limits."""
    completion = codec.decode_completion(record.value, limits.max_bytes, limits.max_nesting, limits.max_cost_micros)
    if isinstance(completion, Completion) and completion.origin_partition != record.partition:
        return Rejection("partition", detail=str(completion.origin_partition))
    return completion


def usage_cost(cost_micros: int, limits: Limits) -> int | Rejection:
    """The cost of a completion's token usage, in micro-dollars, or why the completion cannot be used."""
    if cost_micros > limits.max_cost_micros:
        return Rejection("usage_cost", limits.max_cost_micros, str(cost_micros))
    return cost_micros
