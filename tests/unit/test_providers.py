"""What providers do on their bad days, over real HTTP: the class, the next step, the cost and the LLM's fate of each.

Each case runs twice. *Hurried*, the dispatch has no time for a repeat, so its outcome is that of the first request.
*Patient*, it has, and where the first request may have cost something, the router makes a second dispatch.
"""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import NamedTuple

import pytest

from tests.provider import Asked, Provider, providing
from worker.contract.codes import Dialect, ErrorClass
from worker.contract.messages import Query
from worker.contract.settings import LlmSettings
from worker.contract.token_costs import Cost, PriceList, cost_of
from worker.inference import outcomes
from worker.inference.calls import Caller, Ended
from worker.inference.outcomes import Fate, Next, Outcome

# Real waits of real calls.
pytestmark = pytest.mark.long

SLOW_SECONDS = 12.0
# Of the cases that are cut, and of all others: long, so that a busy machine changes no outcome.
CUT_SECONDS, LONG_SECONDS = 4.0, 60.0
CUT = ("33", "34", "35", "67")
# Less than the shortest pause before a repeat, 0.5 s, and more than a busy machine takes to begin a call.
HURRIED_MS, PATIENT_MS = 400, 60_000
PRICES = PriceList(Decimal(3), Decimal(15))
QUESTION, LONG_QUESTION = "What is two and two?", "What is two and two, and why is it so? " * 10


def micros(usage: object) -> int:
    """What a provider's usage costs."""
    cost = cost_of(usage, PRICES)
    assert isinstance(cost, Cost), f"{usage} has no price"
    return cost.micros


class Case(NamedTuple):
    """`first` is the class of the first request (None: an answer), and what follows from it. `micros` is the known cost
    of the patient run, None where a part of it is unknown. `requests` are those of the patient run, in all dispatches.
    `wait_ms` is the least wait that the provider asks for."""

    id: str
    first: ErrorClass | None
    step: Next
    cost: str
    fate: Fate
    requests: int = 1
    last: ErrorClass | None = None
    micros: int | None = 0
    wait_ms: int | None = None
    remark: str | None = None
    bill: int | None = None


GOOD = 486
CASES = [
    Case("01", None, "done", "known", "stays", micros=GOOD),
    Case("02", "rate_limited", "repeat", "zero", "waits", 2, None, GOOD, wait_ms=1_000),
    Case("03", "rate_limited", "repeat", "zero", "waits", 2, None, GOOD, wait_ms=1_000),
    Case("04", "rate_limited", "repeat", "zero", "waits", 2, None, GOOD, wait_ms=600),
    Case("05", "rate_limited", "repeat", "zero", "waits", 2, None, GOOD, wait_ms=600),
    Case("06", "rate_limited", "repeat", "zero", "waits", 3, None, GOOD),
    Case("07", "rate_limited", "next_llm", "zero", "out", 1, "rate_limited", wait_ms=86_400_000),
    Case("08", "quota", "next_llm", "zero", "out", 1, "quota"),
    Case("09", "refused_request", "next_llm", "zero", "stays", 1, "refused_request", remark="above_rate_limit"),
    Case("10", "rate_limited", "repeat", "zero", "waits", 2, None, GOOD, wait_ms=600),
    Case("11", "overloaded", "repeat", "zero", "counts", 2, None, GOOD, wait_ms=1_000),
    Case("12", "overloaded", "repeat", "zero", "counts", 2, None, GOOD),
    Case("13", "overloaded", "next_llm", "zero", "out", 1, "overloaded", remark="loading"),
    Case("14", "overloaded", "attempt", "unknown", "counts", 2, None, None),
    Case("15", "timeout", "attempt", "unknown", "counts", 2, None, None, bill=2 * GOOD),
    Case("16", "overloaded", "attempt", "unknown", "counts", 2, None, None),
    Case("17", "quota", "next_llm", "zero", "out", 1, "quota"),
    Case("18", "quota", "next_llm", "zero", "out", 1, "quota"),
    Case("19", "rate_limited", "repeat", "zero", "waits", 2, None, GOOD),
    Case("20", "bad_answer", "next_llm", "known", "counts", 1, "bad_answer", 141),
    Case("21", "bad_answer", "next_llm", "known", "counts", 1, "bad_answer", 111),
    Case("22", "bad_answer", "next_llm", "unknown", "counts", 1, "bad_answer", None, bill=36),
    Case("23", "bad_answer", "next_llm", "known", "stays", 1, "bad_answer", 3_036, remark="limit_reached"),
    Case("24", None, "done", "known", "stays", 1, None, 171, remark="refusal"),
    Case("25", "content_filter", "by_settings", "known", "stays", 1, "content_filter", 246),
    Case("26", "content_filter", "by_settings", "unknown", "stays", 1, "content_filter", None, bill=276),
    Case("27", None, "done", "known", "stays", 1, None, 306),
    Case("28", None, "done", "known", "stays", 1, None, 51, remark="empty"),
    Case("29", "bad_answer", "next_llm", "unknown", "counts", 1, "bad_answer", None, bill=GOOD),
    Case("30", "unreachable", "attempt", "unknown", "counts", 2, None, None, bill=2 * GOOD),
    Case("31", "unreachable", "attempt", "unknown", "counts", 2, None, None, bill=2 * GOOD),
    Case("33", "timeout", "attempt", "unknown", "counts", 2, "timeout", None, bill=2 * GOOD),
    Case("34", "timeout", "attempt", "unknown", "counts", 2, "timeout", None, bill=2 * GOOD),
    Case("35", "timeout", "attempt", "unknown", "counts", 2, "timeout", None, bill=2 * GOOD),
    Case("36", None, "done", "known", "stays", micros=GOOD),
    Case("37", None, "done", "known", "stays", micros=GOOD),
    Case("38", None, "done", "known", "stays", micros=GOOD),
    Case("39", "misconfigured", "next_llm", "unknown", "out", 1, "misconfigured", None, remark="page"),
    Case("40", None, "done", "known", "stays", micros=GOOD, remark="not_a_number"),
    Case("41", None, "done", "known", "stays", micros=GOOD, remark="not_utf8"),
    Case("42", None, "done", "known", "stays", micros=GOOD),
    Case("43", None, "done", "unknown", "stays", micros=None, remark="joined_events", bill=GOOD),
    Case("44", "bad_answer", "next_llm", "known", "stays", 1, "bad_answer", 61_476, remark="limit_reached"),
    Case("45", None, "done", "unknown", "stays", micros=None, bill=GOOD),
    Case("46", None, "done", "unknown", "stays", micros=None, bill=GOOD),
    Case("50", None, "done", "unknown", "stays", micros=None, remark="model_differs", bill=GOOD),
    Case("51", None, "done", "known", "stays", micros=1_386),
    Case("52", None, "done", "known", "stays", micros=462, remark="prompt_cut"),
    Case("53", "context_length", "more_context", "zero", "stays", 1, "context_length"),
    Case("54", "context_length", "more_context", "zero", "stays", 1, "context_length"),
    Case("55", "context_length", "more_context", "zero", "stays", 1, "context_length"),
    Case("56", "context_length", "more_context", "zero", "stays", 1, "context_length"),
    Case("57", "context_length", "more_context", "zero", "stays", 1, "context_length"),
    Case("58", "context_length", "more_context", "zero", "stays", 1, "context_length"),
    Case("59", "refused_request", "next_llm", "zero", "stays", 1, "refused_request", remark="parameter:max_tokens"),
    Case("60", "refused_request", "next_llm", "zero", "stays", 1, "refused_request", remark="parameter:store"),
    Case("61", "misconfigured", "next_llm", "zero", "out", 1, "misconfigured"),
    Case("62", "auth", "leave", "zero", "out", 2, "auth"),
    Case("64", "misconfigured", "next_llm", "zero", "out", 1, "misconfigured"),
    Case("65", "misconfigured", "next_llm", "zero", "out", 1, "misconfigured", remark="redirect"),
    Case("66", "timeout", "attempt", "unknown", "counts", 2, None, None, bill=36 + GOOD),
]
# Usage that only the reader of usage can price goes to the lane as it came.
ODD_USAGE = [
    ("47", {"prompt_tokens": "12", "completion_tokens": 30.0}),
    ("48", {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 42}),
    (
        "49",
        {
            "prompt_tokens": 12,
            "completion_tokens": 30,
            "total_tokens": 42,
            "cost": 0,
            "is_byok": True,
            "cost_details": {"upstream_inference_cost": 0.000486},
        },
    ),
]
# Anthropic's own form has answers without any content, no field for a refusal, and no usage of OpenAI's names.
ONLY_CHAT = {"21", "24", "43", "46", "51"}
DIALECTS: tuple[Dialect, ...] = ("chat", "messages")
RUNS = [(case, dialect) for case in CASES for dialect in DIALECTS if dialect == "chat" or case.id not in ONLY_CHAT]
IDS = [f"{case.id}-{dialect}" for case, dialect in RUNS]


class Run(NamedTuple):
    """What came of one case: the hurried dispatch, and all dispatches of the patient one."""

    hurried: Outcome
    patient: list[Ended]
    asked: list[Asked]
    billed: int


def llm(provider: Provider, model: str, dialect: Dialect = "chat", **more: object) -> LlmSettings:
    """The settings of an LLM of the provider."""
    seconds = CUT_SECONDS if model in CUT else LONG_SECONDS
    fields = {"model": model, "base_url": provider.base_url, "dialects": (dialect,), "timeout_seconds": seconds}
    return LlmSettings.model_validate({"budget_usd": 1, "api_key": "k-secret", **fields, **more})


def query(user: str, dialect: Dialect = "chat", question: str = QUESTION) -> Query:
    """A request of one user."""
    who = {"metadata": {"user_id": user}, "max_tokens": 99} if dialect == "messages" else {"user": user}
    return Query(body={"messages": [{"role": "user", "content": question}], **who})


def later_ms(more_ms: int, seconds: float) -> int:
    """A deadline that leaves a call of `seconds` so much more."""
    return int((time.time() + seconds) * 1_000) + more_ms


async def run_case(caller: Caller, name: str, case: Case, dialect: Dialect, provider: Provider) -> Run:
    seconds = caller.llms[name].timeout_seconds
    question = LONG_QUESTION if case.id == "52" else QUESTION
    asked = query(f"h-{name}", dialect, question)
    hurried = await caller.call(name, asked, f"h-{name}", later_ms(HURRIED_MS, seconds))
    user, patient = f"p-{name}", list[Ended]()
    for attempt in (1, 2):
        deadline_ms = later_ms(PATIENT_MS, seconds)
        patient.append(await caller.call(name, query(user, dialect, question), f"{user}-{attempt}", deadline_ms))
        if outcomes.next_step(patient[-1].outcome) != "attempt":
            break
    requests = [one for one in provider.asked if one.query == user]
    return Run(hurried.outcome, patient, requests, provider.billed[user])


async def run_all() -> dict[str, Run]:
    """Every case in both dialects, all at once."""
    async with providing(SLOW_SECONDS) as provider:
        # A session of its own for each: one case's wait holds no other up, and none gets another's connection.
        named = {f"{case.id}-{dialect}": llm(provider, case.id, dialect) for case, dialect in RUNS}
        # The longest waits: a hurried dispatch has no time for a repeat.
        async with Caller(named, jitter=lambda: 1.0) as caller:
            runs = await asyncio.gather(
                *(run_case(caller, f"{case.id}-{dialect}", case, dialect, provider) for case, dialect in RUNS)
            )
        return dict(zip(named, runs, strict=True))


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    return asyncio.run(run_all())


@pytest.mark.parametrize(("case", "dialect"), RUNS, ids=IDS)
def test_first_request(runs: dict[str, Run], case: Case, dialect: Dialect) -> None:
    """The class, the next step, the cost and the LLM's fate after the first request."""
    outcome = runs[f"{case.id}-{dialect}"].hurried
    assert outcome.error_class == case.first, outcome.error
    assert outcomes.next_step(outcome) == case.step
    assert outcome.cost == case.cost
    assert outcomes.fate(outcome) == case.fate
    assert list(outcome.remarks) == ([case.remark] if case.remark else [])
    if case.wait_ms is not None:
        assert outcome.retry_after_ms is not None
        assert case.wait_ms * 0.5 <= outcome.retry_after_ms <= case.wait_ms * 1.5


@pytest.mark.parametrize(("case", "dialect"), RUNS, ids=IDS)
def test_what_follows(runs: dict[str, Run], case: Case, dialect: Dialect) -> None:
    """A patient dispatch ends as it should, after as many requests, and not before the provider's wait."""
    run = runs[f"{case.id}-{dialect}"]
    assert run.patient[-1].outcome.error_class == case.last, run.patient[-1].outcome.error
    assert len(run.asked) == case.requests
    assert len(run.patient) == (2 if case.step == "attempt" else 1), "dispatches"
    if case.wait_ms is not None and case.requests > 1:
        assert run.patient[0].latency_ms >= case.wait_ms * 0.5


@pytest.mark.parametrize(("case", "dialect"), RUNS, ids=IDS)
def test_money(runs: dict[str, Run], case: Case, dialect: Dialect) -> None:
    """A known cost is the provider's bill. A bill that the provider does not tell is an unknown cost, never zero."""
    run = runs[f"{case.id}-{dialect}"]
    ended = [one.outcome for one in run.patient]
    assert run.billed == (case.bill if case.bill is not None else case.micros or run.billed), "the server's bill"
    if case.micros is None:
        assert any(one.cost == "unknown" for one in ended)
        return
    known = sum(micros(one.usage) for one in ended if one.cost == "known" and one.usage)
    assert known == case.micros
    assert run.billed == case.micros
    assert not any(one.cost == "unknown" for one in ended)


def asked_alone(model: str, times: int = 1, wait_seconds: float = 0.0, **more: object) -> tuple[list[Ended], Provider]:
    """Calls of one LLM, one after the other, in dispatches of their own for one query."""

    async def run() -> tuple[list[Ended], Provider]:
        async with providing(SLOW_SECONDS) as provider:
            settings = llm(provider, model, **more)  # type: ignore[arg-type]
            async with Caller({"x": settings}) as caller:
                ended = []
                for attempt in range(times):
                    deadline_ms = later_ms(PATIENT_MS, settings.timeout_seconds)
                    ended.append(await caller.call("x", query("u"), f"0-0-{attempt + 1}", deadline_ms))
                return ended, provider

    return asyncio.run(run())


@pytest.mark.parametrize(("model", "usage"), ODD_USAGE)
def test_odd_usage(model: str, usage: dict[str, object]) -> None:
    """47-49: usage in odd forms is known, and goes to the lane as it came."""
    (ended,), provider = asked_alone(model)
    assert ended.outcome.usage == usage
    assert ended.outcome.cost == "known"
    assert provider.billed["u"] == GOOD


def test_a_kept_connection_dies() -> None:
    """32: a connection that the server closes in that moment is no fault of the LLM; nobody sends the request again."""
    ended, provider = asked_alone("32", times=3)
    broke = ended[1].outcome
    assert [one.outcome.error_class for one in ended] == [None, "unreachable", None]
    assert broke.cost == "unknown"
    assert outcomes.next_step(broke) == "attempt"
    assert outcomes.fate(broke) == "stays"
    assert len(provider.asked) == 3


def test_a_rotated_key() -> None:
    """63: after one refusal of the key, the call is repeated with the key as its file has it then."""
    (ended,), provider = asked_alone("63")
    assert ended.outcome.ok
    assert ended.outcome.cost == "known"
    assert len(provider.asked) == 2


@pytest.mark.parametrize(("honours", "requests", "bill"), [(True, 1, GOOD), (False, 2, 2 * GOOD)])
def test_an_idempotency_key(honours: bool, requests: int, bill: int) -> None:
    """67: if the provider honours Idempotency-Key, a call that broke is repeated in its dispatch and billed once."""
    ended, provider = asked_alone("67", times=1 if honours else 2, honours_idempotency_key=honours)
    assert ended[-1].outcome.ok
    assert len(ended) == requests
    assert provider.billed["u"] == bill
    assert len({one.headers["idempotency-key"] for one in provider.asked}) == (1 if honours else 2)
    assert [one.outcome.cost for one in ended] == (["known"] if honours else ["unknown", "known"])
