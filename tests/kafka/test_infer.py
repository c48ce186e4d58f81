"""`tollgate infer` against a real Kafka and a provider that counts what it bills."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from confluent_kafka import Producer

from tests.kafka.talk import Talk
from tests.provider import Provider, provided
from worker.audit import run_verify
from worker.contract import codec
from worker.contract.decisions import Routed
from worker.contract.messages import Completion
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.estimation import index
from worker.estimation.history import History
from worker.kafka import clients
from worker.kafka.reader import KafkaReader
from worker.local.broker import Broker
from worker.local.processes import wait_for
from worker.local.system import System

WAIT_SECONDS = 120.0
HOW_TO = Path(__file__).parents[2] / "docs/how-to/call-real-llms.md"
MANY_ATTEMPTS = 20
# Of a busy machine, at least.
CALLS_A_SECOND = 5
# Of a good answer of the tests' provider, in micro-dollars.
BILL = 486
PRICES = {"input_usd_per_mtok": 3, "output_usd_per_mtok": 15}


def calls(provider: Provider, model: str, **more: object) -> dict[str, object]:
    """How each LLM is called."""
    return {"base_url": provider.base_url, "model": model, "timeout_seconds": 30, **PRICES, **more}


class Seen(NamedTuple):
    """All that was published, of all partitions."""

    answers: list[StoredRecord]
    completions: list[StoredRecord]
    deferrals: list[StoredRecord]

    @property
    def answered(self) -> list[str]:
        """The ids of queries, one for each answer."""
        return [codec.decode_answer(one.value or b"").query_id for one in self.answers]

    @property
    def deferred(self) -> list[str]:
        """The ids of queries, one for each deferral."""
        return [(one.key or b"").decode() for one in self.deferrals]

    @property
    def completed(self) -> list[Completion]:
        read = [codec.completion_fields(one.value, 10**6, 64) for one in self.completions]
        return [msgspec.convert(one, Completion) for one in read if isinstance(one, dict) and "dispatch_id" in one]


def seen(settings: Settings) -> Seen:
    reader, partitions = KafkaReader(settings), range(settings.kafka.partitions)
    topics = settings.topics.answers, settings.topics.completions, settings.topics.deferred
    return Seen(*([one for p in partitions for one in reader.read_partition(topic, p)] for topic in topics))


def produce(settings: Settings, users: list[str], **headers: bytes) -> None:
    """One query of each user, over all partitions."""
    producer, topic = Producer(clients.producer_config(settings)), settings.topics.queries
    for number, user in enumerate(users):
        body = {"messages": [{"role": "user", "content": f"What is {number} and {number}?"}], "user": user}
        value, partition = json.dumps({"id": user, "body": body}).encode(), number % settings.kafka.partitions
        clients.produce(producer, topic, value, user, partition, headers=[*headers.items()])
    assert producer.flush(WAIT_SECONDS) == 0


def wait_answers(settings: Settings, count: int) -> Seen:
    wait_for(f"{count} answers", lambda: len(seen(settings).answers) >= count, WAIT_SECONDS, every_seconds=0.5)
    return seen(settings)


def wait_ended(settings: Settings, count: int) -> Seen:
    """Wait until so many queries are answered or deferred."""

    def ended() -> int:
        found = seen(settings)
        return len(found.answers) + len(found.deferrals)

    wait_for(f"{count} ends", lambda: ended() >= count, 3 * WAIT_SECONDS + count / CALLS_A_SECOND, every_seconds=2)
    return seen(settings)


def test_answers(system: System, prepare: Callable[..., Settings]) -> None:
    """Each query has one answer, in its partition, with its headers, and its completion has the bill."""
    with provided() as provider:
        settings = prepare(calls=calls(provider, "by-user"))
        system.start_workers(1)
        system.start_calling()
        users = [f"01:{number}" for number in range(24)]
        produce(settings, users, traceparent=b"00-1-2-03")
        found = wait_answers(settings, len(users))
    values = [json.loads(one.value or b"") for one in found.answers]
    assert sorted(one["query_id"] for one in values) == sorted(users)
    assert [one.partition for one in found.answers] == [value["origin"]["partition"] for value in values]
    assert {one.key for one in found.answers} == {user.encode() for user in users}
    assert all(("traceparent", b"00-1-2-03") in one.headers for one in found.answers)
    assert {value["response"]["choices"][0]["message"]["content"] for value in values} == {"the answer is four"}
    assert {value["cost_micros"] for value in values} == {BILL}
    assert {(one.status, one.cost) for one in found.completed} == {("ok", "known")}
    assert len(found.completed) == len(users)
    assert provider.billed == Counter(dict.fromkeys(users, BILL))


def test_a_slow_call_holds_up_nothing(system: System, prepare: Callable[..., Settings]) -> None:
    """Answers after a slow call in its partition come before it."""
    with provided(slow=20) as provider:
        settings = prepare(calls=calls(provider, "by-user"))
        system.start_workers(1)
        system.start_calling()
        users = ["33:slow", *(f"01:{number}" for number in range(19))]
        produce(settings, users)
        early = wait_answers(settings, len(users) - 1)
        late = wait_answers(settings, len(users))
    assert "33:slow" not in {json.loads(one.value or b"")["query_id"] for one in early.answers}
    assert len(late.answers) == len(users)


SOAK = [pytest.mark.soak, pytest.mark.timeout(1_800)]
KILLS = [
    (120, 3, 20),
    pytest.param(5_000, 10, 20, marks=SOAK),
    pytest.param(5_000, 10, 2, marks=SOAK),
]


@pytest.mark.parametrize(("queries", "kills", "max_attempts"), KILLS)
def test_killed_while_calling(
    system: System,
    prepare: Callable[..., Settings],
    rows: tuple[History, History],
    queries: int,
    kills: int,
    max_attempts: int,
) -> None:
    """However often the worker is killed, no dispatch is called twice, and each ends in one completion.

    With attempts enough each query has one answer; else one answer or one deferral, and none is missing. The books are
    never below the bill, and equal to it for every call whose usage was told.
    """
    past = rows[0].rows(np.arange(1_000))
    # History costs what the provider bills, so a lost call is booked as at least that.
    past = replace(past, cost_micros=np.full_like(past.cost_micros, BILL))
    with provided(slow=10) as provider:
        # A machine that is slow with a call is no worker that was killed: nothing else goes on to another LLM.
        routing = {"max_attempts": max_attempts, "unanswered_seconds": 3_600}
        settings = prepare(calls=calls(provider, "by-user"), past=past, routing=routing)
        system.start_workers(1)
        child = system.start_calling()
        users = [f"later:{number}" for number in range(queries)]
        part = queries // kills
        for start in range(0, queries, part):
            produce(settings, users[start : start + part])
            asked = start + part // 8
            wait_for("calls", lambda asked=asked: len(provider.asked) > asked, WAIT_SECONDS)  # type: ignore[misc]
            child.kill()
            child.start()
        found = wait_ended(settings, queries)
        child.send(signal.SIGTERM)
    by_dispatch = Counter(one.headers["idempotency-key"] for one in provider.asked)
    assert max(by_dispatch.values()) == 1, "no dispatch is called twice"
    ended = Counter([*found.answered, *found.deferred])
    assert ended == Counter(users), "each query has one end"
    if max_attempts == MANY_ATTEMPTS:
        assert not found.deferred, "each query has one answer"
    ids = Counter(one.dispatch_id for one in found.completed)
    assert max(ids.values()) == 1, "each dispatch has one completion"
    lost = [one for one in found.completed if one.error_class == "unreachable"]
    assert lost, "a kill loses calls"
    assert {(one.cost, one.remarks) for one in lost} == {("unknown", ("worker_lost",))}
    known = sum(one.cost == "known" for one in found.completed)
    billed = provider.billed.total()
    assert known * BILL + sum(provider_cost(provider, one, settings) for one in lost) == billed
    report = run_verify.verify(settings)
    assert report.ok, report.findings
    spent = sum(llm.spent_micros for llm in report.llms.values())
    print(f"{len(lost)} calls lost, {len(found.deferred)} deferred, spent {spent}, billed {billed}")
    assert spent >= billed, "the books are never below the bill"


def provider_cost(provider: Provider, completion: Completion, settings: Settings) -> int:
    """What the provider billed for a lost call, if it came so far."""
    key = f"{settings.kafka.group}-{completion.dispatch_id}"
    return BILL * sum(one.headers["idempotency-key"] == key for one in provider.asked)


def test_a_refused_key(system: System, prepare: Callable[..., Settings]) -> None:
    """A worker whose key is refused completes nothing, commits nothing, says so, and ends where it has no other LLM."""
    with provided() as provider:
        settings = prepare(calls=calls(provider, "62", max_open=1), kafka={"partitions": 1})
        system.start_workers(1)
        child = system.start_calling("--llm", next(iter(settings.llms)), "--llm", list(settings.llms)[1])
        talk = Talk(settings)
        produce(settings, [f"u:{number}" for number in range(40)])
        routed = talk.wait_decisions(Routed, 40)
        wanted = {one.llm for one in routed} & set(list(settings.llms)[:2])
        unavailable: Callable[[], set[Any]] = lambda: {  # noqa: E731
            one.key for one in KafkaReader(settings).read_partition(settings.topics.completions, 0)
        }

        wait_for("the LLMs to be left", lambda: unavailable() >= {str(one).encode() for one in wanted}, WAIT_SECONDS)
        if len(wanted) == 2:
            wait_for("the worker to end", lambda: not child.running, WAIT_SECONDS)
            assert child.exit_code == 4, child.tail()
    assert not any(b"dispatch_id" in (one.value or b"") for one in seen(settings).completions)


def test_a_large_answer(system: System, prepare: Callable[..., Settings], tmp_path: object) -> None:
    """An answer that is larger than its topic takes is lost; its completion is not."""
    with provided() as provider:
        settings = prepare(calls=calls(provider, "by-user"))
        system.start_workers(1)
        system.start_calling()
        produce(settings, ["big:1", "01:2"])
        wait_for("both completions", lambda: len(seen(settings).completions) == 2, WAIT_SECONDS)
        found = wait_answers(settings, 1)
    remarks = {one.remarks for one in found.completed}
    assert remarks == {(), ("answer_too_large",)}
    assert [json.loads(one.value or b"")["query_id"] for one in found.answers] == ["01:2"]
    assert {one.cost for one in found.completed} == {"known"}


def test_the_how_to(
    system: System, broker: Broker, rows: tuple[History, History], tmp_path: Path, index_directory: Path
) -> None:
    """docs/how-to/call-real-llms.md, copied and pasted: `tollgate send` prints the answer of an own server."""
    block = re.findall(r"```toml\n(.*?)```", HOW_TO.read_text(), re.DOTALL)[0]
    assert len(block.splitlines()) <= 10, "at most 10 lines of settings"
    past = rows[0].rows(np.arange(100))
    own = replace(past, llms=("my-llm",), quality=past.quality[:, :1], cost_micros=past.cost_micros[:, :1])
    index.build(own, tmp_path / "own", "wordllama")
    with provided() as provider:
        lines = ["[kafka]", f'bootstrap_servers = "{broker.bootstrap_servers}"', 'topic_prefix = "howto."']
        lines += ['group = "howto"', "[index]", f'directory = "{tmp_path / "own"}"']
        pasted = block.replace("http://127.0.0.1:8000/v1", provider.base_url)
        system.config.write_text("\n".join([*lines, pasted]))
        run = [sys.executable, "-m", "worker"]
        subprocess.run([*run, "topics", "create", "-c", str(system.config)], check=True)
        system.start_workers(1)
        system.start_calling()
        command = [*run, "send", "-c", str(system.config), "--wait", "60", "What is the capital of France?"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "answer    the answer is four" in said, said
    assert provider.asked[0].body["messages"] == [{"role": "user", "content": "What is the capital of France?"}]
