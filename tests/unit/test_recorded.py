"""Answers from a table of recorded answers."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from worker.contract.messages import Completion, Dispatch, Origin
from worker.estimation.history import History
from worker.inference.recorded import RecordedAnswers, Rules, TableAnswerer

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
    completion, _ = ANSWER.outcome(dispatch(query_id, llm))
    assert completion == Completion(
        "2-0-1", 2, llm, "ok", cost="known", cost_micros=wanted[0], quality=wanted[1], usage=None, error=None
    )


def test_draws() -> None:
    """Errors and latencies follow the rules in the mean, and are the same whenever a dispatch is answered again."""
    answer = TableAnswerer(RecordedAnswers.of(HISTORY), Rules(latency_ms=100.0, error_rate=0.2, seed=3))
    answers = [answer.outcome(dispatch(number=number)) for number in range(2_000)]
    errors = sum(completion.status == "error" for completion, _ in answers) / len(answers)
    seconds = sum(seconds for _, seconds in answers) / len(answers)
    again = [answer.outcome(dispatch(number=number)) for number in range(2_000)]
    assert answers == again
    assert errors == pytest.approx(0.2, abs=0.03)
    assert seconds == pytest.approx(0.1, rel=0.1)
