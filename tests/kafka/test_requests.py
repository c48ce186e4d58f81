"""Requests of a provider's API go through a real Kafka as they are, to the LLM that may answer them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.kafka.talk import Talk
from tests.kafka.test_infer import calls, wait_answers
from tests.provider import provided
from worker.audit import run_replay, run_verify
from worker.audit.run_replay import Task
from worker.contract import codec
from worker.contract.answers import Answer
from worker.contract.record import Headers
from worker.contract.settings import Settings
from worker.local.system import System

CHAT: dict[str, Any] = {
    "model": "nobody",
    "messages": [{"role": "user", "content": "What is 2 and 2?"}],
    "temperature": 0.5,
    "stream": True,
    "unheard_of": [1, None],
    "metadata": {"tollgate-tags": "team=search", "theirs": "x"},
}
LINE = {"custom_id": "line-1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT | {"user": "01:line"}}
EVENT = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "q", "data": CHAT | {"user": "01:event"}}


def test_requests_as_they_are(system: System, prepare: Callable[..., Settings]) -> None:
    """A bare request, a batch line and a CloudEvent reach the provider unchanged, but for the model, streaming and what
    was for Tollgate. Their answers and proofs have the tags, and nobody is asked who is denied."""
    with provided() as provider:
        settings = prepare(calls=calls(provider, "by-user"))
        denied, *others = settings.llms
        system.start_workers(1)
        system.start_calling()
        talk = Talk(settings, 0)
        headers: Headers = [("tollgate-id", b"bare-1"), ("tollgate-deny", denied.encode())]
        for value, more in ((CHAT | {"user": "01:bare"}, headers), (LINE, ()), (EVENT, headers[1:])):
            talk.query(json.dumps(value).encode(), None, more)
        talk.query(json.dumps(CHAT | {"messages": 7, "tags": {}, "id": "x"}).encode())
        answers = [codec.decode_answer(one.value or b"") for one in wait_answers(settings, 3).answers]
    assert ids(answers) == ["/shop#7", "bare-1", "line-1"]
    assert {one.llm for one in answers if one.query_id != "line-1"} <= set(others)
    assert [one.tags for one in answers] == [{"team": "search"}] * 3
    kept = {name: value for name, value in CHAT.items() if name != "stream"}
    for asked in provider.asked:
        assert asked.body == kept | {"model": "by-user", "metadata": {"theirs": "x"}, "user": asked.body["user"]}
    assert run_verify.verify(settings).findings == []
    assert [one.divergence for one in run_replay.replay(settings, Task(estimates="index"))] == [None] * 4


def ids(answers: Sequence[Answer]) -> list[str]:
    """The ids of the answered queries, sorted."""
    return sorted(one.query_id for one in answers)
