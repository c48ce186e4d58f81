"""Counts what a system has done, from its topics alone. This module shares no code with the rest of Tollgate.

`verify` and the lanes have one author. A mistake of that author may be in both. So nothing of `worker` is imported
here: the topics are read as any program would read them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, IsolationLevel, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from msgspec import Struct

SECONDS = 120.0
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)


class Counted(Struct, frozen=True):
    """`lost`: queries that were neither dispatched nor deferred nor refused. `doubled`: attempts that were published
    twice. `unanswered`: dispatches without a completion. `spent_micros` is what the ledger says; `billed_micros` is the
    sum of what the completions say. `lag` is what both consumer groups have not read."""

    queries: int
    lost: int
    doubled: int
    dispatched: int
    unanswered: int
    spent_micros: int
    billed_micros: int
    lag: int

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, in words."""
        found = {
            f"{self.lost} queries have no dispatch, no deferral and no dead letter": self.lost,
            f"{self.doubled} attempts were published twice": self.doubled,
            f"{self.lag} records were not read": self.lag,
            f"the ledger says {self.spent_micros} micro-dollars, the completions {self.billed_micros}": abs(
                self.spent_micros - self.billed_micros
            ),
        }
        return [words for words, number in found.items() if number]


def count(servers: str, prefix: str, group: str) -> Counted:
    """Read all topics with this prefix, and the positions of both groups. Nobody may write meanwhile."""
    names = sorted(AdminClient({"bootstrap.servers": servers}).list_topics(timeout=SECONDS).topics)
    topics = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    dispatches = [topic for topic in topics if topic.startswith("dispatch.")]
    read = [*dispatches, "queries", "completions", "deferred", "dead-letters", "ledger"]
    queries, decided = set[tuple[int, int]](), set[tuple[int, int]]()
    attempts, reserved = Counter[tuple[int, int, int]](), dict[str, int]()
    completions: list[dict[str, Any]] = []
    spent: dict[tuple[int, bytes], int] = {}
    for topic, partition, offset, key, value, headers in _records(servers, [prefix + topic for topic in read]):
        match topic.removeprefix(prefix):
            case "queries":
                queries.add((partition, offset))
            case "completions":
                completions += [found] if isinstance(found := _decoded(value), dict) else []
            case "ledger":
                # One budget for each LLM: no answer is spent twice.
                if key is not None and key.startswith(b"budget/") and value is not None:
                    account = _decoded(value)
                    spent[partition, key] = account.get("spent", 0) if account["resource"] == "usd" else 0
            case "dead-letters":
                if headers.get("__connect.errors.topic") == f"{prefix}queries".encode():
                    decided.add((partition, int(headers["__connect.errors.offset"])))
            case "deferred":
                _publish(_decoded(value), attempts, decided)
            case _:
                dispatch = _decoded(value)
                _publish(dispatch, attempts, decided)
                reserved[dispatch["id"]] = dispatch["reserved_micros"]
    answered = [one for one in completions if one.get("dispatch_id") in reserved]
    lag = _lag(servers, {group: ["queries", "completions"], f"{group}-inference": dispatches}, prefix)
    return Counted(
        queries=len(queries),
        lost=len(queries - decided),
        doubled=attempts.total() - len(attempts),
        dispatched=len(reserved),
        unanswered=len(reserved.keys() - {one["dispatch_id"] for one in answered}),
        spent_micros=sum(spent.values()),
        billed_micros=sum(_bill(one, reserved[one["dispatch_id"]]) for one in answered),
        lag=lag,
    )


def _publish(message: dict[str, Any], attempts: Counter[tuple[int, int, int]], decided: set[tuple[int, int]]) -> None:
    origin = message["origin"]
    attempts[origin["partition"], origin["offset"], message["attempt"]] += 1
    decided.add((origin["partition"], origin["offset"]))


def _bill(completion: dict[str, Any], reserved_micros: int) -> int:
    """What a call cost. Of a call that tells no cost, all that was held is booked."""
    if completion.get("cost") == "zero":
        return 0
    cost: int = completion.get("cost_micros", reserved_micros)
    return cost


def _decoded(value: bytes | None) -> Any:
    try:
        return msgspec.msgpack.decode(value or b"")
    except UNREADABLE:
        pass
    try:
        return json.loads(value or b"")
    except (ValueError, RecursionError):
        return None


def _records(
    servers: str, topics: list[str]
) -> Iterator[tuple[str, int, int, bytes | None, bytes | None, dict[str, Any]]]:
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "counted",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        known = consumer.list_topics(timeout=SECONDS).topics
        left = {(topic, partition) for topic in topics for partition in known[topic].partitions}
        consumer.assign([TopicPartition(*place, 0) for place in left])
        until = time.monotonic() + SECONDS
        while left:
            assert time.monotonic() < until, f"no end of {sorted(left)}"
            for message in consumer.consume(5_000, timeout=0.2):
                until = time.monotonic() + SECONDS
                place = message.topic() or "", message.partition() or 0
                if (error := message.error()) is not None:
                    left -= {place} if error.code() == KafkaError._PARTITION_EOF else set()
                    continue
                headers: dict[str, Any] = dict(message.headers() or ())
                yield (*place, message.offset() or 0, _raw(message.key()), _raw(message.value()), headers)
    finally:
        consumer.close()


def _raw(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _lag(servers: str, groups: dict[str, list[str]], prefix: str) -> int:
    admin, total = AdminClient({"bootstrap.servers": servers}), 0
    known = admin.list_topics(timeout=SECONDS).topics
    for group, topics in groups.items():
        places = [TopicPartition(prefix + topic, one) for topic in topics for one in known[prefix + topic].partitions]
        asked = {place: OffsetSpec.latest() for place in places}
        uncommitted = IsolationLevel.READ_UNCOMMITTED
        ends = {
            (place.topic, place.partition): future.result().offset
            for place, future in admin.list_offsets(asked, isolation_level=uncommitted).items()
        }
        answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)])[group].result()
        total += sum(ends[place.topic, place.partition] - max(0, place.offset) for place in answer.topic_partitions)
    return total
