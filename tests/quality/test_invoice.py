"""The books are the invoice: what Tollgate books is what a provider bills, however oddly the provider answers.

A provider of the tests' own bills each call by its true tokens, and tells its usage in the spelling of a case. No code
of the product adds up its bill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.drive import of_llms
from tests.topics import NAMES, Recorded
from worker.audit.ledger_view import read_ledger
from worker.audit.topics import PartitionTopics
from worker.audit.verify import Verified, verify
from worker.contract.messages import Configuration, Dispatch
from worker.contract.record import StoredRecord
from worker.contract.settings import LlmSettings, Settings
from worker.contract.token_costs import PriceList
from worker.core.events import Event
from worker.core.pricing import Prior
from worker.estimation import index
from worker.estimation.estimator import Estimator
from worker.kafka.memory import Log, MemoryReader
from worker.service.intake import Intake
from worker.service.metrics import Metrics
from worker.service.prepare import Preparer

INPUT_MICROS, OUTPUT_MICROS = 3, 15
PRICES = PriceList(Decimal(INPUT_MICROS), Decimal(OUTPUT_MICROS))
Tell = Callable[[int, int], dict[str, Any]]


def bill_micros(inputs: int, outputs: int) -> int:
    """What the provider bills for one call."""
    return inputs * INPUT_MICROS + outputs * OUTPUT_MICROS


@dataclass
class Company:
    """One lane with real estimates, one budget for each LLM, and the provider that it calls."""

    estimator: Estimator
    budget_micros: int
    billed_micros: int = 0
    lane: Recorded = field(init=False)
    intake: Intake = field(init=False)
    _completions: int = 0

    def __post_init__(self) -> None:
        """A lane under a configuration with price lists."""
        manifest = self.estimator.manifest
        llms = {llm: LlmSettings(budget_usd=Decimal(1)) for llm in manifest.llms}
        prices = dict.fromkeys(manifest.llms, PRICES)
        settings = Settings(llms=llms)
        self.intake = Intake(settings, Preparer(settings, self.estimator, None, prices), MemoryReader(Log()), Metrics())
        self.lane = Recorded(
            Configuration(
                llms=manifest.llms,
                budgets=of_llms(dict.fromkeys(manifest.llms, self.budget_micros)),
                margins=manifest.margins,
                policy="priced",
                horizon_queries=0,
                horizon_floor_queries=1_000,
                resolve_every_queries=100,
                window_queries=200,
                observe_share=0.1,
                max_attempts=1,
                reservation_ms=10**9,
                checkpoint_every=50,
                seed=0,
                index=manifest.index,
                max_cost_micros=10**9,
                price_lists=prices,
            ),
            Prior(self.estimator.prior.quality, self.estimator.prior.cost_micros),
        )

    def ask(self, offset: int, **fields: Any) -> list[Dispatch]:
        """One query arrives; returns its dispatch, if it is dispatched."""
        before = len(self.lane.dispatches)
        self.lane.commit(self._events("queries", offset, fields))
        return self.lane.dispatches[before:]

    def answer(self, dispatch: Dispatch, inputs: int, outputs: int, told: dict[str, Any]) -> None:
        """The provider works, bills, and the inference worker passes on what it told."""
        self.billed_micros += bill_micros(inputs, outputs)
        completion = {"dispatch_id": dispatch.id, "origin_partition": 0, "llm": dispatch.llm, "status": "ok", **told}
        self.lane.commit(self._events("completions", self._completions, completion))
        self._completions += 1

    @property
    def spent_micros(self) -> int:
        """What the books have as spent, over all LLMs."""
        return sum(account.spent for account in self.lane.router.view.accounts)

    def proof(self) -> Verified:
        """What `verify` says of the topics."""
        log = Log()
        log.load(record for records in self.lane.topics().values() for record in records)
        topics = PartitionTopics(MemoryReader(log), 0)
        assert read_ledger(topics, NAMES.ledger).row is not None, "the lane has committed"
        return verify(0, NAMES, self.estimator.manifest.llms, topics)

    def _events(self, topic: str, offset: int, fields: dict[str, Any]) -> list[Event]:
        record = StoredRecord(topic, 0, offset, 0, None, msgspec.msgpack.encode(fields), ())
        return [
            msgspec.structs.replace(one.event, at_ms=offset) for one in self.intake.prepare([record], lambda _: False)
        ]


@pytest.fixture(scope="module")
def estimator(directory: Path) -> Estimator:
    """The estimator of a made-up history of short prompts."""
    return index.load(directory)


def embedding(seed: int) -> list[float]:
    """Some embedding of the index's 16 numbers."""
    draw = Random(seed)
    return [draw.gauss(0, 1) for _ in range(16)]


def test_floats_cannot_spend_more_than_a_budget(estimator: Estimator) -> None:
    """A provider release that sends 100.0 for 100 does not switch a budget of one cent off."""
    company = Company(estimator, budget_micros=10_000)
    dispatched = 0
    for offset in range(400):
        for dispatch in company.ask(offset, embedding=embedding(offset), input_tokens=100):
            company.answer(dispatch, 100, 50, {"usage": {"prompt_tokens": 100.0, "completion_tokens": 50.0}})
            dispatched += 1
    assert company.spent_micros == company.billed_micros
    assert 0 < dispatched < 100, "four budgets of a cent pay some 38 calls of a tenth of a cent"
    assert company.spent_micros <= 4 * (10_000 + bill_micros(100, 50))


def test_long_system_prompts_are_reserved(estimator: Estimator) -> None:
    """60 requests with a system prompt of some 40,000 tokens do not spend a multiple of their budget."""
    words = "policy " * 40_000
    company = Company(estimator, budget_micros=1_000_000)
    for offset in range(60):
        body = {"messages": [{"role": "system", "content": words}, {"role": "user", "content": "Why?"}]}
        for dispatch in company.ask(offset, embedding=embedding(offset), body=body):
            assert dispatch.reserved_micros >= 40_000 * INPUT_MICROS
            company.answer(dispatch, 40_004, 200, {"usage": {"prompt_tokens": 40_004, "completion_tokens": 200}})
    assert company.spent_micros == company.billed_micros
    assert company.billed_micros <= 4 * (1_000_000 + bill_micros(40_004, 200))


def test_a_request_beyond_history_is_reserved_in_proportion(estimator: Estimator) -> None:
    """128,000 stated tokens cost at least their input, and more than 2,000 tokens do."""
    company = Company(estimator, budget_micros=10**9)
    [short] = company.ask(0, embedding=embedding(1), input_tokens=2_000)
    [long] = company.ask(1, embedding=embedding(1), input_tokens=128_000)
    assert long.reserved_micros >= 128_000 * INPUT_MICROS
    assert long.reserved_micros >= 50 * short.reserved_micros


ODD: list[tuple[str, Tell]] = [
    ("OpenAI", lambda i, o: {"usage": {"prompt_tokens": i, "completion_tokens": o, "total_tokens": i + o}}),
    ("floats", lambda i, o: {"usage": {"prompt_tokens": float(i), "completion_tokens": float(o)}}),
    ("text", lambda i, o: {"usage": {"prompt_tokens": str(i), "completion_tokens": str(o)}}),
    ("a list", lambda i, o: {"usage": [{"input_tokens": i, "output_tokens": o}]}),
    ("a whole response", lambda i, o: {"usage": {"id": "x", "usage": {"input_tokens": i, "output_tokens": o}}}),
    ("Gemini", lambda i, o: {"usage": {"promptTokenCount": i, "candidatesTokenCount": o - 9, "thoughtsTokenCount": 9}}),
    ("reasoning outside", lambda i, o: {"usage": {"prompt_tokens": i, "completion_tokens": 1, "total_tokens": i + o}}),
    ("Bedrock", lambda i, o: {"usage": {"inputTokens": i, "outputTokens": o, "totalTokens": i + o}}),
    ("Ollama", lambda i, o: {"usage": {"prompt_eval_count": i, "eval_count": o}}),
    ("dollars", lambda i, o: {"cost_usd": bill_micros(i, o) / 1_000_000}),
    ("micro-dollars as text", lambda i, o: {"cost_micros": str(bill_micros(i, o))}),
    ("a cost of 0 beside", lambda i, o: {"cost_micros": 0, "usage": {"prompt_tokens": i, "completion_tokens": o}}),
    ("a negative cost beside", lambda i, o: {"cost_micros": -7, "usage": {"input_tokens": i, "output_tokens": o}}),
    ("vendor's fields", lambda i, o: {"model": "x", "id": 7, "cost_micros": bill_micros(i, o), "quality": 85}),
]
UNKNOWN: list[tuple[str, Tell]] = [
    ("nothing", lambda i, o: {}),
    ("zeros", lambda i, o: {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}),
    ("half", lambda i, o: {"usage": {"completion_tokens": o}}),
    ("a fraction", lambda i, o: {"cost_micros": bill_micros(i, o) / 1_000_000}),
    ("a timeout", lambda i, o: {"status": "error", "error": "timeout"}),
]


def day(company: Company, ways: list[tuple[str, Tell]], queries: int, seed: int) -> Iterator[tuple[Dispatch, int]]:
    """Queries whose answers are told in all these ways, some twice; yields dispatches and what was billed."""
    draw = Random(seed)
    for offset in range(queries):
        inputs, outputs = draw.randrange(50, 500), draw.randrange(10, 200)
        for dispatch in company.ask(offset, embedding=embedding(offset), input_tokens=inputs):
            _, tell = ways[offset % len(ways)]
            for _ in range(1 + (draw.random() < 0.1)):
                company.answer(dispatch, inputs, outputs, tell(inputs, outputs))
                yield dispatch, bill_micros(inputs, outputs)


@pytest.mark.parametrize("seed", range(3))
def test_the_books_of_an_odd_day_are_the_bill(estimator: Estimator, seed: int) -> None:
    """However usage is told, and if an answer comes twice: `verify` has what was billed, to the micro-dollar."""
    company = Company(estimator, budget_micros=10**9)
    assert sum(billed for _, billed in day(company, ODD, 300, seed)) == company.billed_micros
    proof = company.proof()
    assert proof.findings == []
    assert sum(account.spent for account in proof.books.accounts.values()) == company.billed_micros


@pytest.mark.parametrize("seed", range(3))
def test_what_is_not_told_is_booked_as_reserved(estimator: Estimator, seed: int) -> None:
    """An answer whose cost nobody can know books its whole reservation, each time it comes."""
    company = Company(estimator, budget_micros=10**9)
    answers = [dispatch for dispatch, _ in day(company, UNKNOWN, 200, seed)]
    assert company.proof().findings == []
    assert company.spent_micros == sum(ceil(dispatch.reserved_micros) for dispatch in answers)
