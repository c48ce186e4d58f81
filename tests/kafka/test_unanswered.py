"""An inference worker that says nothing: its queries are answered by others, and the books stay whole."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from tests.kafka.commands import PATIENCE_SECONDS
from tests.kafka.talk import Talk
from worker.audit import run_replay, run_verify
from worker.audit.run_replay import Task
from worker.audit.status import statuses
from worker.contract.decisions import Closed, Routed
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.local.load import query_of
from worker.local.processes import wait_for
from worker.local.system import System

Prepare = Callable[..., Settings]
Rows = tuple[History, History]
QUERIES = 40

pack = msgspec.msgpack.encode


def test_an_llm_whose_worker_is_stopped(system: System, prepare: Prepare, rows: Rows) -> None:
    """SIGSTOP: the worker of the busiest LLM keeps its partitions and answers nothing. Each query gets one answer from
    another LLM, or a deferral, while the money of the first dispatch is held. After SIGCONT the worker answers too;
    these answers are second answers, and `verify` and `replay` agree with all of it."""
    settings = prepare(routing={"unanswered_seconds": 20, "max_attempts": 3})
    system.start_workers(1)
    talk = Talk(settings)
    ask(talk, rows[1], "")
    talk.wait_decisions(Routed, QUERIES)
    [(silent_llm, _)] = Counter(dispatch.llm for dispatch in talk.dispatches()).most_common(1)
    others = [llm for llm in settings.llms if llm != silent_llm]
    stopped = system.start_inference(10, options=["--llm", silent_llm])
    system.start_inference(10, options=[part for llm in others for part in ("--llm", llm)])
    wait_settled(talk, QUERIES)

    stopped.send(signal.SIGSTOP)
    ask(talk, rows[1], "/again")
    wait_for(
        "every query to be settled", lambda: len(settled(talk)) == 2 * QUERIES, PATIENCE_SECONDS, every_seconds=0.5
    )
    held = next(statuses(settings))
    silent = [
        dispatch for dispatch in talk.dispatches() if dispatch.llm == silent_llm and dispatch.origin.offset >= QUERIES
    ]
    assert silent != []
    assert held.llms[silent_llm].unanswered == len(silent)
    assert held.llms[silent_llm].reserved_micros == sum(dispatch.reserved_micros for dispatch in silent)

    stopped.send(signal.SIGCONT)
    wait_for("the worker to answer", lambda: not next(statuses(settings)).partitions[0].open, PATIENCE_SECONDS)
    again = [one for one in talk.wait_decisions(Closed, 1) if one.llm == silent_llm]
    assert {"second_answer"} == {remark for one in again for remark in one.remarks}
    proof = run_verify.verify(settings)
    assert proof.findings == []
    assert proof.counts.unanswered >= len(silent)
    assert proof.counts.paid_twice == proof.counts.late == 0
    assert [one.divergence for one in run_replay.replay(settings, Task())] == [None] * settings.kafka.partitions


def ask(talk: Talk, rows: History, suffix: str) -> None:
    """The first queries of a table, under ids that end with this."""
    for number in range(QUERIES):
        query = query_of(rows, number)
        talk.query(pack(replace(query, id=f"{query.id}{suffix}")))


def wait_settled(talk: Talk, count: int) -> None:
    """Wait until so many queries are settled."""
    wait_for(f"{count} settled queries", lambda: len(settled(talk)) >= count, PATIENCE_SECONDS, every_seconds=0.5)


def settled(talk: Talk) -> set[int]:
    """The offsets of the queries that have an answer or a deferral."""
    answered = {one.dispatch_id for one in talk.decisions() if isinstance(one, Closed) and not one.failed}
    done = {dispatch.origin.offset for dispatch in talk.dispatches() if dispatch.id in answered}
    return done | {one.offset for one in talk.decisions() if isinstance(one, Routed) and one.llm is None}
