"""A real LLM in a real server process: called as `tollgate infer` calls one, and in the whole job of the demo."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from worker.contract.codes import Dialect
from worker.contract.messages import Query
from worker.contract.settings import LlmSettings
from worker.inference.calls import Caller, Ended
from worker.local import questions
from worker.local.processes import Child, wait_for

pytest.importorskip("xllamacpp", reason="no LLM is installed; `make llm` installs one", exc_type=ImportError)

DEMO_SECONDS = 400.0
# Of 32; two thirds of all questions were answered rightly when history was made. Another processor rounds otherwise.
LEAST_RIGHT = 8
SYSTEM = "Answer in English, in one short sentence."


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a server process."""
    command = [sys.executable, "-m", "worker", "llm", "serve", "--port", "0", "--slots", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def ask(address: str, query: Query, dialect: Dialect = "chat") -> Ended:
    """One call."""
    llm = LlmSettings(
        budget_usd=Decimal(1),
        base_url=address,
        model="smollm2-135m",
        dialects=(dialect,),
        system=SYSTEM,
        timeout_seconds=120,
    )

    async def run() -> Ended:
        async with Caller({"m": llm}) as caller:
            return await caller.call("m", query, "0-0-1", int(time.time() * 1_000) + 200_000)

    return asyncio.run(run())


@pytest.mark.parametrize("dialect", ["chat", "responses"])
def test_an_answer(address: str, dialect: Dialect) -> None:
    """A plain question is answered, and the answer's usage makes its cost known."""
    query = Query(text="What is the capital of France?", max_output_tokens=32, parameters={"temperature": 0})
    ended = ask(address, query, dialect)
    assert ended.outcome.ok, ended.outcome.error
    assert "Paris" in (ended.outcome.answer or b"").decode()
    assert ended.outcome.cost == "known"
    assert ended.outcome.remarks == ()


def test_a_long_prompt(address: str) -> None:
    """A prompt beyond the context is refused free, by its class."""
    ended = ask(address, Query(text="and then " * 4_000, max_output_tokens=8))
    assert ended.outcome.error_class == "context_length"
    assert ended.outcome.cost == "zero"


def test_the_demo_with_a_real_llm(tmp_path: Path) -> None:
    """`tollgate demo --llm`: real answers, right ones among them; the books have what the answers cost."""
    file = tmp_path / "result.json"
    arguments = ["demo", "--llm", "--directory", str(tmp_path / "demo"), "--output", str(file)]
    child = Child("demo", arguments, tmp_path / "log")
    child.start()
    try:
        wait_for("the demo to end", lambda: not child.running, DEMO_SECONDS)
    finally:
        child.kill()
    assert child.exit_code == 0, child.tail(30)
    result = json.loads(file.read_bytes())
    asked = result["asked"]
    assert [one["question"] for one in asked] == [one.text for one in questions.split(questions.load()[0])[1]]
    spent = sum(llm["spent_micros"] for llm in result["report"]["llms"].values())
    assert spent == sum(one["cost_micros"] for one in asked if one["answer"] is not None)
    assert sum(one["is_right"] for one in asked) >= LEAST_RIGHT
    assert {one["llm"] for one in asked if one["answer"]} == {"smollm2", "smollm2-brief"}
    assert result["report"]["counts"]["open"] == 0
