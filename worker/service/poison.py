"""A record that nothing can be published for as it is: what takes its place. Pure.

It is found by halving: a transaction that the broker refuses is tried again as two halves, until one input is alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError
from msgspec.structs import replace

from worker.contract.codes import Rejection
from worker.core.events import Arrived, Completed, Refused
from worker.service.intake import Input

# What a broker answers because of the record itself: it will answer so again.
OF_THE_RECORD = (
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.INVALID_RECORD,
    KafkaError.POLICY_VIOLATION,
)


class Undelivered(NamedTuple):
    """A record that the broker did not take."""

    topic: str
    error: KafkaError


def refusal(undelivered: Sequence[Undelivered]) -> Undelivered | None:
    """The first that was refused because of the record itself; None if there is none."""
    return next((one for one in undelivered if one.error.code() in OF_THE_RECORD), None)


def replacement(poison: Input, refused: Undelivered) -> Input | None:
    """The input to decide instead of one whose effects `refused` does not take; None if nothing less is left.

    A query becomes a dead letter. A failed dispatch is not tried again. A dead letter loses its key, value and headers.
    """
    event = poison.event
    if isinstance(event, Arrived):
        rejection = Rejection("unpublishable", refused.error.code(), refused.topic)
        return poison._replace(event=Refused("queries", event.offset, event.at_ms, rejection))
    if isinstance(event, Completed) and event.retry is not None:
        return poison._replace(event=replace(event, retry=None), retried=None)
    if isinstance(event, Refused | Completed) and not poison.is_bare:
        return poison._replace(is_bare=True)
    return None
