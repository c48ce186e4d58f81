"""What the end of a call publishes: a completion, an answer, and the end of its `begun` record. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from worker.contract import codec
from worker.contract.answers import Answer, Begun
from worker.contract.codes import ErrorClass, Rejection
from worker.contract.messages import Completion, Dispatch
from worker.contract.price_lists import UnknownPriceList
from worker.contract.record import Headers, StoredRecord
from worker.contract.settings import LlmSettings, Settings
from worker.contract.token_costs import Cost, cost_of

REPLY_TOPIC = "reply-topic"
JSON_TYPE: list[tuple[str, bytes | None]] = [("content-type", b"application/json")]


class Answered(Struct, frozen=True):
    """What came of a dispatch. `response` is the provider's answer as valid JSON, None where there is none.

    `leaves`: the dispatch is left to another worker, because this one cannot call the LLM at all.
    """

    completion: Completion
    response: bytes | None
    latency_ms: int
    leaves: ErrorClass | None = None


class Outgoing(NamedTuple):
    """One record to produce."""

    topic: str
    partition: int | None
    key: str
    value: bytes | None
    headers: Headers
    is_answer: bool = False


def records_of(
    dispatch: Dispatch, taken: StoredRecord, answered: Answered, settings: Settings, topics: Collection[str], at_ms: int
) -> list[Outgoing]:
    """The records of an ended dispatch, the completion first. `topics` are those that exist, for `reply-topic`."""
    completion, answers = answered.completion, list[Outgoing]()
    if answered.response is not None:
        answers, remarks = _answers(dispatch, taken, answered, settings, topics, at_ms)
        completion = replace(completion, remarks=(*completion.remarks, *remarks))
    return [completion_record(dispatch, completion, settings), *answers]


def without_answer(records: list[Outgoing]) -> list[Outgoing]:
    """The records without an answer that its topic did not take."""
    completion = msgspec.msgpack.decode(records[0].value or b"", type=Completion)
    told = replace(completion, remarks=(*completion.remarks, "answer_too_large"))
    kept = [record for record in records[1:] if not record.is_answer]
    return [records[0]._replace(value=codec.encode(told)), *kept]


def completion_record(dispatch: Dispatch, completion: Completion, settings: Settings) -> Outgoing:
    """A completion in the partition of its dispatch's origin. Usage that the lane would not take is left out."""
    try:
        value = codec.encode(completion)
        read = codec.completion_fields(value, settings.limits.max_completion_bytes, settings.limits.max_nesting)
        is_taken = not isinstance(read, Rejection)
    except (OverflowError, ValueError, TypeError, RecursionError):
        is_taken = False
    if not is_taken:
        lost: dict[str, Any] = {"usage": None, "cost": "unknown", "cost_micros": None, "model": None}
        value = codec.encode(replace(completion, remarks=(*completion.remarks[:10], "usage_unusable"), **lost))
    partition = dispatch.origin.partition
    return Outgoing(settings.topics.completions, partition, dispatch.id, value, codec.CONTENT_TYPE)


def begun_record(dispatch: Dispatch, begun: Begun | None, settings: Settings) -> Outgoing:
    """The row of a call that has begun, or, for None, that has ended."""
    value = None if begun is None else codec.encode(begun)
    return Outgoing(settings.topics.begun, dispatch.origin.partition, dispatch.id, value, codec.CONTENT_TYPE)


def _answers(
    dispatch: Dispatch, taken: StoredRecord, answered: Answered, settings: Settings, topics: Collection[str], at_ms: int
) -> tuple[list[Outgoing], list[str]]:
    completion, limit = answered.completion, settings.inference.max_answer_bytes
    headers = [(name, value) for name, value in taken.headers if name.lower() != "content-type"] + JSON_TYPE
    answer = Answer(
        query_id=dispatch.query_id,
        dispatch_id=dispatch.id,
        origin=dispatch.origin,
        attempt=dispatch.attempt,
        llm=dispatch.llm,
        model=completion.model,
        cost=completion.cost or "known",
        cost_micros=_micros(completion, settings.llms.get(dispatch.llm), at_ms),
        usage=completion.usage,
        latency_ms=answered.latency_ms,
        at_ms=at_ms,
        remarks=completion.remarks,
        response=msgspec.Raw(answered.response or b"null"),
        tags=dispatch.tags,
    )
    value = msgspec.json.encode(answer)
    if len(value) > limit:
        return [], ["answer_too_large"]
    own = Outgoing(settings.topics.answers, dispatch.origin.partition, dispatch.query_id, value, headers, True)
    reply_topic, remarks = _reply_topic(taken.headers, settings, topics)
    if reply_topic is None:
        return [own], remarks
    return [own, own._replace(topic=reply_topic, partition=None)], remarks


def _micros(completion: Completion, llm: LlmSettings | None, at_ms: int) -> int | None:
    """What the answer cost, in micro-dollars; None where that is not known."""
    if completion.cost_micros is not None or completion.usage is None or llm is None or completion.cost == "unknown":
        return completion.cost_micros
    try:
        prices = llm.prices(datetime.fromtimestamp(at_ms // 1000, UTC))
    except UnknownPriceList:
        return None
    cost = None if prices is None else cost_of(completion.usage, prices)
    # A detail without a price makes the sum a lower bound, and the lane books more.
    return cost.micros if isinstance(cost, Cost) and not cost.unpriced else None


def _reply_topic(headers: Headers, settings: Settings, topics: Collection[str]) -> tuple[str | None, list[str]]:
    """The topic that a query wants its answer on too, if the settings allow it, it exists, and it is not ours."""
    asked = next((value for name, value in headers if name.lower() == REPLY_TOPIC and value), None)
    if asked is None:
        return None, []
    name, pattern = asked.decode("utf-8", "replace"), settings.inference.reply_topics
    is_own = name in settings.topics.all(settings.llms)
    if pattern is None or re.fullmatch(pattern, name) is None or is_own:
        return None, ["reply_topic_refused"]
    return (name, []) if name in topics else (None, ["reply_topic_missing"])
