"""The queries of tests/cases, and a system that decides on them.

It has one LLM, which charges 3 USD for a million input tokens and 15 for a million output tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace as changed

from tests.completion_cases import BIG
from worker.contract.codes import Rejection
from worker.contract.messages import Dispatch
from worker.contract.record import Headers, StoredRecord
from worker.contract.settings import LlmSettings, Settings
from worker.core.events import Reconfigured
from worker.core.partition_config import configuration
from worker.core.router import Prior, Router
from worker.estimation import demo_data, index
from worker.estimation.embedder import WordLlamaEmbedder
from worker.estimation.history import History
from worker.kafka.memory import Log, MemoryReader
from worker.service.intake import Intake
from worker.service.metrics import Metrics
from worker.service.prepare import Preparer

CASES = Path(__file__).parent / "cases" / "queries"
LLM = "big/model-a:1"
ASK = "Why is the river?"
INPUT, OUTPUT = 3, 15
LONG = "All of these words are in the prompt, and all of it is paid. " * 2_900
IMAGE_TOKENS, FILE_TOKENS = 1_600, 3_000
PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 200_000}}

Outcome = Dispatch | Rejection | str
Send = Callable[..., Outcome]


def system(directory: Path) -> Send:
    """A system with an index in `directory` and a budget that nothing exhausts. It takes one record, and gives its
    dispatch, why it is refused, or why it is deferred."""
    rows = demo_data.load().rows(np.arange(300)).columns([0])
    index.build(History(rows.ids, (LLM,), *(getattr(rows, name) for name in FIELDS)), directory, "wordllama", 16)
    estimator, embedder = index.load(directory), WordLlamaEmbedder.load()

    def sent(value: bytes | dict[str, Any], headers: Headers = (), **llm: Any) -> Outcome:
        settings = Settings(llms={LLM: LlmSettings(budget_usd=Decimal(1_000), **llm)})
        intake = Intake(settings, Preparer(settings, estimator, embedder, {LLM: BIG}), MemoryReader(Log()), Metrics())
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        record = StoredRecord("queries", 0, 0, 1_000, None, content, headers)
        [one] = intake.prepare([record], lambda _: False)
        router = Router(0, Prior(estimator.prior.quality, estimator.prior.cost_micros))
        config = configuration(settings, estimator.manifest, 0, {LLM: BIG})
        router.handle([Reconfigured(0, changed(config, margins=(1.0,)))])
        effects = router.handle([one.event])
        if effects.refused:
            return effects.refused[0].rejection
        return effects.dispatches[0] if effects.dispatches else effects.deferred[0].reason

    return sent


FIELDS = ("embeddings", "quality", "cost_micros", "input_tokens")


def case(name: str) -> bytes:
    """A record's value: a file, or what is too large to keep."""
    if name in MADE:
        value = MADE[name]
        return value if isinstance(value, bytes) else json.dumps(value).encode()
    path = CASES / f"q-{name}.json"
    return path.read_bytes() if path.exists() else bytes.fromhex((CASES / f"q-{name}.hex").read_text())


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A chat request under `body`."""
    return {"body": {"model": "x", "messages": list(messages), **more}}


def of(role: str, content: Any) -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": content}


MADE: dict[str, Any] = {
    "02": chat(of("user", [{"type": "text", "text": ASK}, PNG])),
    "14": chat(of("system", LONG), of("user", ASK)),
    "15": chat(of("user", "Hello"), of("assistant", LONG), of("user", ASK)),
    "16": chat(of("user", LONG)),
    "18": chat(of("user", ASK), tools=[{"type": "function", "function": {"name": "f", "description": LONG}}]),
    "77": {"text": " " * 999_000},
    "78": {"text": " " * 900_000 + ASK},
    "79": {"text": " " * 25_000 + ASK},
}


def reserved(send: Send, name: str, **llm: Any) -> int:
    """The money that is held for a case, in micro-dollars."""
    outcome = send(case(name), **llm)
    assert isinstance(outcome, Dispatch), outcome
    return outcome.reserved_micros
