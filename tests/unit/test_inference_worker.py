"""The reference inference worker's answers, and what it may commit."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import structlog

from worker.contract import codec
from worker.contract.messages import Completion, Dispatch, Origin
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.inference.answers import RecordedAnswers, Rules, TableAnswerer
from worker.inference.worker import InferenceWorker, PendingAnswers

HISTORY = History(
    ids=["known"],
    llms=("a", "b"),
    embeddings=np.ones((1, 1), np.float32),
    quality=np.array([[1.0, np.nan]]),
    cost_micros=np.array([[120.4, np.nan]]),
    input_tokens=np.array([5.0]),
)

ANSWER = TableAnswerer(RecordedAnswers.of(HISTORY), Rules())


def dispatch(query_id: str = "known", llm: str = "a", number: int = 0) -> Dispatch:
    nil = msgspec.Raw(msgspec.msgpack.encode(None))
    return Dispatch(f"2-{number}-1", query_id, llm, Origin(2, number), 1, 99, 0.5, 80, 0.0, 10**12, nil)


ANSWERS = [
    ("recorded", "known", "a", (120, 1.0)),
    ("the same query again", "known/17", "a", (120, 1.0)),
    ("an LLM that never saw it", "known", "b", (80, None)),
    ("an LLM of no history", "known", "c", (80, None)),
    ("a query of no history", "typed", "a", (80, None)),
]


@pytest.mark.parametrize(("query_id", "llm", "wanted"), [case[1:] for case in ANSWERS], ids=[c[0] for c in ANSWERS])
def test_answers(query_id: str, llm: str, wanted: tuple[int, float | None]) -> None:
    """A recorded answer has its true cost and score; one that nobody recorded costs what was estimated, unjudged."""
    completion, _ = ANSWER(dispatch(query_id, llm))
    assert completion == Completion(
        "2-0-1", 2, llm, "ok", cost_micros=wanted[0], quality=wanted[1], usage=None, error=None
    )


def test_draws() -> None:
    """Errors and latencies follow the rules in the mean, and are the same whenever a dispatch is answered again."""
    answer = TableAnswerer(RecordedAnswers.of(HISTORY), Rules(latency_ms=100.0, error_rate=0.2, seed=3))
    answers = [answer(dispatch(number=number)) for number in range(2_000)]
    errors = sum(completion.status == "error" for completion, _ in answers) / len(answers)
    seconds = sum(seconds for _, seconds in answers) / len(answers)
    again = [answer(dispatch(number=number)) for number in range(2_000)]
    assert answers == again
    assert errors == pytest.approx(0.2, abs=0.03)
    assert seconds == pytest.approx(0.1, rel=0.1)


def test_what_is_unanswered_is_not_committed() -> None:
    """The position never passes a dispatch that is still open, in whatever order they are answered."""
    pending = PendingAnswers()
    for offset, due in ((5, 3.0), (6, 1.0), (7, 2.0)):
        completion, _ = ANSWER(dispatch(number=offset))
        pending.take("dispatch.a", 0, offset, due, completion)
    steps = []
    for now in (1.0, 2.0, 3.0):
        done = [completion.dispatch_id for completion in pending.ready(now)]
        steps.append((done, [where.offset for where in pending.positions()]))
    assert steps == [(["2-6-1"], [5]), (["2-7-1"], [5]), (["2-5-1"], [8])]


def test_a_partition_that_went_is_forgotten() -> None:
    """Dispatches of a revoked partition are neither answered nor committed; the new owner takes them."""
    pending = PendingAnswers()
    completion, _ = ANSWER(dispatch())
    pending.take("dispatch.a", 0, 0, 1.0, completion)
    pending.take("dispatch.a", 1, 4, 1.0, completion)
    pending.drop([where for where in pending.positions() if where.partition == 0])
    assert (len(pending.ready(2.0)), [(where.partition, where.offset) for where in pending.positions()]) == (
        1,
        [(1, 5)],
    )


def said(offset: int, value: bytes | None) -> StoredRecord:
    """A record of the LLM's topic."""
    return StoredRecord("dispatch.a", 0, offset, 0, None, value, ())


@pytest.mark.parametrize("bad", [b"nonsense", b"", None, b"\x80"])
def test_what_is_no_dispatch_is_skipped(bad: bytes | None) -> None:
    """A stranger's record is logged and passed by; those around it are answered."""
    worker = InferenceWorker(Settings(), ["a"], ANSWER)
    good = [codec.encode(dispatch(number=number)) for number in (0, 2)]
    with structlog.testing.capture_logs() as logs:
        worker._take([said(0, good[0]), said(1, bad), said(2, good[1]), said(3, bad)])
    answered = [completion.dispatch_id for completion in worker._pending.ready(float("inf"))]
    positions = [where.offset for where in worker._pending.positions()]
    assert [line["event"] for line in logs] == ["dispatch_skipped"] * 2
    assert sorted(answered) == ["2-0-1", "2-2-1"]
    assert positions == [4]
