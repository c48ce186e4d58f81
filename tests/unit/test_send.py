"""What `tollgate send` shows of what became of a query."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from worker.commands import main
from worker.commands import send as command
from worker.contract import examples
from worker.contract.messages import Closed, Origin, Routed
from worker.local import send
from worker.local.send import Reply

ORIGIN = Origin(1, 1_234)
ROUTED = examples.decisions()["decision-routed"]
CLOSED = examples.decisions()["decision-closed"]
NOTHING = Reply(ORIGIN, None, [], None, [])
REFUSED = Reply(ORIGIN, None, [], "Object contains unknown field `txt` - at `$[...]`", [])
assert isinstance(ROUTED, Routed)
assert isinstance(CLOSED, Closed)
ANSWERED = Reply(ORIGIN, ROUTED, send.candidates(examples.LLMS, ROUTED), None, [CLOSED])

SHOWN = [
    ("refused", REFUSED, "refused   Object contains unknown field `txt` - at `$[...]`"),
    ("nothing in time", NOTHING, "no decision in time"),
    ("routed", ANSWERED, "goes to   gpt-4o (best_score); 5,340 micro-dollars reserved"),
    ("settled", ANSWERED, "settled   3,910 micro-dollars (usage)"),
]


@pytest.mark.parametrize(("reply", "line"), [c[1:] for c in SHOWN], ids=[c[0] for c in SHOWN])
def test_what_became_of_a_query_is_shown(reply: Reply, line: str) -> None:
    """A refusal with its reason, a decision with its LLM and what was settled; else what to look at."""
    written = io.StringIO()
    command._show(Console(file=written, width=200, markup=False), reply)
    assert any(shown.startswith(line) for shown in written.getvalue().splitlines()), written.getvalue()


def test_the_chosen_llm_is_among_those_shown() -> None:
    """Also where many score more and could not reserve; what to ask for is said."""
    best = [send.Candidate(f"llm-{number}", 1.0, 1, 0.0, 1.0) for number in range(10)]
    chosen = send.Candidate(str(ROUTED.llm), 0.5, 1, 0.0, 0.5)
    written = io.StringIO()
    command._show(Console(file=written, width=200, markup=False), Reply(ORIGIN, ROUTED, [*best, chosen], None, []))
    said = written.getvalue()
    assert (f"│ {ROUTED.llm} " in said, "and 2 more" in said, f"`tollgate explain {ROUTED.query_id}`" in said) == (
        True,
        True,
        True,
    ), said


@pytest.mark.parametrize(("reply", "code"), [(REFUSED, 1), (NOTHING, 1), (ANSWERED, 0)])
def test_the_exit_code_says_whether_it_was_decided(monkeypatch: pytest.MonkeyPatch, reply: Reply, code: int) -> None:
    """1 for a query that was refused or that nobody decided in time."""

    def sent(*_: Any) -> Reply:
        return reply

    monkeypatch.setattr(send, "send", sent)
    assert CliRunner().invoke(main.app, ["send", "hello"]).exit_code == code
