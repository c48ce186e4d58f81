"""What the settings of a topic must be, so that nothing is lost, torn or refused. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

FOREVER = "-1"
APPEND_TIME = "LogAppendTime"


@dataclass(frozen=True)
class Problem:
    """One way in which a topic is not what Tollgate needs, and what to do.

    Workers do not start on a problem that `stops` them; of the others they warn.
    """

    topic: str
    problem: str
    remedy: str
    stops: bool = True

    def __str__(self) -> str:
        return f"{self.topic}: {self.problem}; {self.remedy}"


def problems(topic: str, want: Mapping[str, str], kept_ms: int, have: Mapping[str, str]) -> Iterator[Problem]:
    """What differs between the settings of a topic and those that are wanted. Records must be kept for `kept_ms`
    milliseconds at least; 0: it does not matter."""
    policy = want["cleanup.policy"]
    if have["cleanup.policy"] != policy:
        yield Problem(topic, f"cleanup.policy is {have['cleanup.policy']}", f"set cleanup.policy={policy}")
    needed = int(want.get("max.message.bytes", 0))
    if int(have["max.message.bytes"]) < needed:
        yield Problem(topic, f"max.message.bytes is {have['max.message.bytes']}", f"set it to {needed} at least")
    clock = want.get("message.timestamp.type")
    if clock is not None and have["message.timestamp.type"] != clock:
        yield Problem(
            topic,
            f"message.timestamp.type is {have['message.timestamp.type']}, so its times are those of one worker's clock",
            f"set message.timestamp.type={clock}",
        )
    if "delete" in have["cleanup.policy"]:
        yield from _retention(topic, kept_ms, have)


def _retention(topic: str, kept_ms: int, have: Mapping[str, str]) -> Iterator[Problem]:
    retention_ms, retention_bytes = int(have["retention.ms"]), int(have["retention.bytes"])
    if kept_ms and 0 <= retention_ms < kept_ms:
        yield Problem(
            topic,
            f"retention.ms is {retention_ms}: records are removed while a reservation may be open",
            f"set it to {kept_ms} at least, or to -1",
            stops=False,
        )
    if kept_ms and retention_bytes >= 0:
        yield Problem(
            topic,
            f"retention.bytes is {retention_bytes}: records are removed whatever their age, read or not",
            "set retention.bytes=-1",
            stops=False,
        )


def replication(topic: str, replicas: int, have: Mapping[str, str]) -> Iterator[Problem]:
    """What is wrong with the replicas of a topic. `replicas` is the smallest number that a partition of it has."""
    in_sync = int(have["min.insync.replicas"])
    if in_sync > replicas:
        yield Problem(
            topic,
            f"min.insync.replicas is {in_sync}, but a partition has {replicas} replicas: nothing can be written",
            f"set it to {max(1, replicas - 1)}, or add replicas",
        )
    elif replicas > 2 and in_sync < 2:
        yield Problem(
            topic,
            "min.insync.replicas is 1: what one broker alone has taken is lost with it",
            "set min.insync.replicas=2",
            stops=False,
        )
    elif replicas > 1 and in_sync == replicas:
        yield Problem(
            topic,
            f"min.insync.replicas is {in_sync}, the number of its replicas: nothing can be written while a broker is "
            "down",
            f"set it to {replicas - 1}",
            stops=False,
        )
