"""Why records from outside are refused once they are decoded, and whether a recorded reason can be true. Pure.

A reason is checked by the limit or the dimension that it names itself: settings and index may be others today.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import NamedTuple, TypeVar

from worker.contract import codec, token_costs
from worker.contract.errors import RejectRecord
from worker.contract.messages import Completion, Query
from worker.contract.record import Record
from worker.contract.token_costs import PriceList

T = TypeVar("T")

NO_EMBEDDING = RejectRecord("no_embedding", "the index was built on supplied embeddings: send an embedding")
NO_TEXT = RejectRecord("no_text", "neither embedding, text nor body with a user message")
EMPTY_TEXT = RejectRecord("no_text", "text: holds nothing that can be embedded")

# The codes of what depends on [limits].
LIMITED = {"too_large", "headers", "nesting", "cost"}
FREE = PriceList(Decimal(0), Decimal(0))
MAX_DIMENSION = 100_000
TOO_DEAR = re.compile(r"usage: costs \d+ micro-dollars, above limits\.max_cost_usd")
DIMENSION = re.compile(r"but the index has (\d{1,6}) numbers")


class Limits(NamedTuple):
    """What is accepted from outside: bytes of a value, and of key and headers; levels of nesting, and micro-dollars of
    one completion."""

    max_bytes: int = 2**31
    max_header_bytes: int = 2**31
    max_nesting: int = 10_000
    max_cost_micros: int = 2**53


NAMES_LIMIT = {
    "max_bytes": re.compile(r"bytes, but (\d{1,16}) is the limit"),
    "max_header_bytes": re.compile(r"bytes of key and headers, but (\d{1,16}) is the limit"),
    "max_nesting": re.compile(r"nested deeper than (\d{1,16}) levels"),
    "max_cost_micros": re.compile(r"is not between 0 and (\d{1,16}) \(limits"),
}


def wrong_partition(completion: Completion, partition: int) -> RejectRecord:
    """A completion in a partition that its dispatch does not come from."""
    return RejectRecord(
        "partition", f"origin_partition is {completion.origin_partition}, but this is partition {partition}"
    )


def too_dear(cost_micros: int) -> RejectRecord:
    """Usage that costs more than one completion may."""
    return RejectRecord("cost", f"usage: costs {cost_micros} micro-dollars, above limits.max_cost_usd")


def limits_named(reason: str) -> Limits:
    """The limits that a reason speaks of; what it does not name is not limited."""
    found = {name: pattern.search(reason) for name, pattern in NAMES_LIMIT.items()}
    return Limits(**{name: int(match[1]) for name, match in found.items() if match is not None})


def read_query(record: Record, limits: Limits) -> Query | RejectRecord:
    """The query of a record, or why it is none under these limits."""
    query = _attempt(lambda: codec.decode_query(record.value, limits.max_bytes, limits.max_nesting))
    problem = _attempt(lambda: codec.check_headers(record, limits.max_header_bytes))
    return query if problem is None or isinstance(query, RejectRecord) else problem


def read_completion(record: Record, limits: Limits) -> Completion | RejectRecord:
    """The completion of a record, or why it is none under these limits."""
    completion = _attempt(
        lambda: codec.decode_completion(record.value, limits.max_bytes, limits.max_nesting, limits.max_cost_micros)
    )
    if isinstance(completion, Completion) and completion.origin_partition != record.partition:
        return wrong_partition(completion, record.partition)
    return completion


def refuses_query(record: Record, reason: str) -> bool:
    """Whether a query can have been refused for this reason, under whatever limits and index."""
    query = read_query(record, limits_named(reason))
    if isinstance(query, RejectRecord):
        return str(query) == reason
    if query.embedding is None:
        return _refuses_text(codec.query_text(query), reason)
    problems = (codec.embedding_rows([query], n)[1][0] for n in _dimensions(query.embedding, reason))
    return any(problem is not None and str(problem) == reason for problem in problems)


def refuses_completion(record: Record, reason: str) -> bool:
    """Whether a completion can have been refused for this reason, under whatever limits and price lists."""
    completion = read_completion(record, limits_named(reason))
    if isinstance(completion, RejectRecord):
        return str(completion) == reason
    if completion.cost_micros is not None or completion.usage is None:
        return False
    cost = price(completion.usage, FREE)
    if isinstance(cost, RejectRecord):
        return str(cost) == reason
    return isinstance(cost, int) and TOO_DEAR.fullmatch(reason) is not None


def price(tokens: dict[str, object], prices: PriceList) -> int | token_costs.Unknown | RejectRecord:
    """What this usage cost, in micro-dollars, or why that cannot be said."""
    return _attempt(lambda: token_costs.cost_micros(tokens, prices))


def _refuses_text(text: str | None, reason: str) -> bool:
    return reason in (str(NO_EMBEDDING), str(EMPTY_TEXT if text and text.strip() else NO_TEXT))


def _dimensions(embedding: bytes | list[float], reason: str) -> Iterator[int]:
    """The dimensions that an index can have had that refused this embedding for this reason."""
    named = DIMENSION.search(reason)
    if named is not None:
        lengths = [int(named[1])]
    else:
        lengths = [len(embedding) // 2, len(embedding) // 4] if isinstance(embedding, bytes) else [len(embedding)]
    return (length for length in lengths if 0 < length <= MAX_DIMENSION)


def _attempt(work: Callable[[], T]) -> T | RejectRecord:
    try:
        return work()
    except RejectRecord as problem:
        return problem
