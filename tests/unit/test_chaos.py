"""What a chaos run counts at its end."""

from __future__ import annotations

import msgspec
import pytest

from tests.drive import config
from tests.topics import NAMES, Log, Recorded, record
from tests.topics import value as value_of
from tests.unit.test_verify import story
from worker.contract import codec
from worker.contract.record import StoredRecord
from worker.local.chaos import Published


def doubled(log: Log, *more: StoredRecord) -> int:
    published = Published(NAMES)
    for topic in (*(NAMES.dispatch(llm) for llm in config().llms), NAMES.deferred):
        for stored in log[topic]:
            published.take(stored)
    for stored in more:
        published.take(stored)
    return published.doubled


def test_every_attempt_is_published_once() -> None:
    """Failures and further attempts are no doubles."""
    assert doubled(Recorded().run(story()).topics()) == 0


@pytest.mark.parametrize("topic", [NAMES.dispatch("medium"), NAMES.deferred])
def test_what_is_published_again_is_doubled(topic: str) -> None:
    """In its own topic, or in that of another LLM."""
    log = Recorded().run(story()).topics()
    assert doubled(log, log[topic][0]) == 1


def test_a_dispatch_of_what_was_deferred_is_a_double() -> None:
    """Each attempt has one outcome."""
    log = Recorded().run(story()).topics()
    dispatch = codec.decode_dispatch(value_of(log[NAMES.dispatch("medium")][0]))
    deferred = codec.decode_deferred(value_of(log[NAMES.deferred][0]))
    forged = msgspec.structs.replace(dispatch, id=f"0-{deferred.origin.offset}-{deferred.attempt}")
    assert doubled(log, record(NAMES.dispatch("small"), 99, None, codec.encode(forged))) == 1
