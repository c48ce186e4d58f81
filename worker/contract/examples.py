"""One example of each message: a query that is routed, fails once, is answered and settled. For schemas/ and tests."""

from __future__ import annotations

from decimal import Decimal

from msgspec import Raw, Struct, json, msgpack

from worker.contract import codec, dead_letters, sentences
from worker.contract.accounts import Account, Budget, Hold
from worker.contract.answers import Answer, Begun, Unavailable
from worker.contract.asks import Asks
from worker.contract.codes import Lack, Rejection, Remedy
from worker.contract.dead_letters import DeadLetter
from worker.contract.decisions import (
    Cause,
    ChargedAgain,
    Checkpoint,
    Closed,
    Configured,
    Ignored,
    Missed,
    Priced,
    Rejected,
    Routed,
    Switched,
)
from worker.contract.judgements import Judgement
from worker.contract.kinds import Kinds
from worker.contract.messages import (
    FORMAT,
    AccountRow,
    ClosedDispatch,
    Completion,
    Configuration,
    Deferred,
    Dispatch,
    Fit,
    Home,
    Offsets,
    Origin,
    Query,
    Reservation,
    TagTotal,
    WindowBlock,
)
from worker.contract.record import StoredRecord
from worker.contract.token_costs import PriceList
from worker.contract.usage import Usage

TAGS = {"team": "search"}
AT_MS = 1_760_000_000_000
LLMS = ("gpt-4o", "claude-3-haiku")
UNKNOWN_FIELD = Rejection("unknown_field", detail="txt")
QUERY, ANSWER = Cause("queries", 1_234), Cause("completions", 980)
PRICES = (0.00004, 0.000025, 0.0)
PREV = bytes(range(16))
FIT = Fit(status="converged", objective=412.5, gap=0.0003, iterations=18, code="solved")
JUDGEMENT = Judgement(0.8, dispatch_id="1-1234-2", by="support-team")
ACCOUNTS = (
    Account("gpt-4o", "usd", 2_500_000, 5_340, 128_770, 310),
    Account("search-team", "usd", 5_000_000, 5_340, 401_220),
    Account("gpt-4o-open", "open", 16, 1),
)
BUDGETS = (
    Budget("gpt-4o", "usd", 2_500_000, ("gpt-4o",)),
    Budget("search-team", "usd", 5_000_000, tags=TAGS),
    Budget("gpt-4o-open", "open", 16, ("gpt-4o",)),
)
HOLDS = (Hold("gpt-4o", 5_340), Hold("search-team", 5_340), Hold("gpt-4o-open", 1))


def messages() -> dict[str, Struct]:
    """An example by the name of its schema."""
    return inputs() | outputs() | ledger_rows() | decisions()


def inputs() -> dict[str, Struct]:
    """What is read from outside."""
    return {
        "query": _query(),
        "completion": _completion(),
        "unavailable": Unavailable("gpt-4o", "auth", "host-0"),
        "judgement": JUDGEMENT,
    }


def outputs() -> dict[str, Struct]:
    """What inference workers and producers of queries read."""
    return {"dispatch": _dispatch(), "deferred": _deferred(), "answer": _answer(), "begun": _begun()}


def _answer() -> Answer:
    usage = {"prompt_tokens": 412, "completion_tokens": 288, "total_tokens": 700}
    message = {"role": "assistant", "content": "Paris."}
    response = {"model": "gpt-4o-2024-08-06", "choices": [{"index": 0, "message": message}], "usage": usage}
    return Answer(
        query_id="order-2042",
        dispatch_id="1-1234-2",
        origin=Origin(1, 1_234),
        attempt=2,
        llm="gpt-4o",
        model="gpt-4o-2024-08-06",
        cost="known",
        cost_micros=3_910,
        usage=usage,
        latency_ms=1_840,
        at_ms=AT_MS,
        remarks=(),
        response=Raw(json.encode(response)),
        tags=TAGS,
    )


def _begun() -> Begun:
    return Begun("1-1234-2", "gpt-4o", "host-0", AT_MS)


def dead_letter() -> DeadLetter:
    """A query that could not be read: as it was received, with headers that say why."""
    headers = (("content-type", b"application/json"),)
    received = StoredRecord("queries", 1, 1_235, AT_MS, b"order-2043", b'{"id": "order-2043", "txt": "Why?"}', headers)
    return dead_letters.dead_letter(received, UNKNOWN_FIELD, max_bytes=1_000, max_header_bytes=1_000)


def ledger_rows() -> dict[str, Struct]:
    """The rows of the ledger topic."""
    return {
        "account-row": _account_row(),
        "configuration": _configuration(),
        "budget-account": ACCOUNTS[0],
        "reservation": _reservation(),
        "closed-dispatch": _closed_dispatch(),
        "window-block": WindowBlock(bytes(8), bytes(16)),
    }


def decisions() -> dict[str, Struct]:
    """One record of each kind on `decisions`."""
    return {
        "decision-configured": Configured(b"", Cause("settings", 0), AT_MS, FORMAT, 1, _configuration()),
        "decision-priced": Priced(PREV, QUERY, AT_MS, 250, PRICES, FIT),
        "decision-routed": _routed(),
        "decision-rejected": Rejected(PREV, Cause("queries", 1_235), AT_MS, "unknown_field", detail="txt"),
        "decision-missed": Missed(PREV, Cause("completions", 980), AT_MS, 900),
        "decision-closed": _closed(),
        "decision-switched": Switched(PREV, ANSWER, AT_MS + 2_300, "gpt-4o", "out", AT_MS + 22_300, "quota"),
        "decision-charged_again": _charged_again(),
        "decision-ignored": Ignored(PREV, Cause("completions", 981), AT_MS, "unmatched", "1-900-1", "gpt-4o", 4_100),
        "decision-checkpoint": _checkpoint(),
    }


def _query() -> Query:
    return Query(
        id="order-2041",
        text="Which of these two contracts renews by itself?",
        embedding=bytes.fromhex("0000003f 000000bf 0000003f 000000bf"),
        input_tokens=412,
        max_output_tokens=300,
        deadline_ms=AT_MS + 60_000,
        parameters={"temperature": 0.2},
        deny=("claude-3-haiku",),
        tags=TAGS,
    )


def _dispatch() -> Dispatch:
    return Dispatch(
        id="1-1234-1",
        query_id="order-2041",
        llm="gpt-4o",
        origin=Origin(1, 1_234),
        attempt=1,
        reserved_micros=5_340,
        quality=0.8125,
        cost_micros=4_450,
        charge=0.28925,
        deadline_ms=AT_MS + 60_000,
        query=codec.dispatched_query(Raw(msgpack.encode(_query())), "msgpack"),
        tags=TAGS,
    )


def _deferred() -> Deferred:
    remedy = Remedy("raise_budget", {"gpt-4o": (Lack("search-team", "usd", 1_740),)})
    return Deferred(
        query_id="order-2042",
        origin=Origin(1, 1_236),
        attempt=1,
        reason="exhausted",
        remedy=remedy,
        best_llm="gpt-4o",
        best_score=0.6345,
        text=sentences.deferral("exhausted", remedy),
        query=Raw(msgpack.encode(Query(id="order-2042", text="And which of them is cheaper?"))),
    )


def _completion() -> Completion:
    return Completion(
        dispatch_id="1-1234-1",
        origin_partition=1,
        llm="gpt-4o",
        status="ok",
        usage={"input_tokens": 412, "output_tokens": 288},
        quality=0.9,
    )


def _account_row() -> AccountRow:
    return AccountRow(
        format=FORMAT,
        offsets=Offsets(1_236, 980),
        prices={budget.name: price for budget, price in zip(BUDGETS, PRICES, strict=True)},
        fit=FIT,
        seen=1_190,
        clock_ms=AT_MS,
        sequence=402,
        decisions=2_230,
        dispatches=1_187,
        head=PREV,
        digest=PREV[::-1],
        window_from=190,
        group="tollgate",
        settings="5c1f0e9ab7d2c364",
        tags={"team=search": TagTotal(118, 401_220)},
    )


def _reservation() -> Reservation:
    return Reservation("1-1234-1", "order-2041", "gpt-4o", 1_234, 1, 5_340, AT_MS, AT_MS + 60_000, (), TAGS, HOLDS)


def _closed_dispatch() -> ClosedDispatch:
    booked = (Hold("gpt-4o", 4_980), Hold("search-team", 4_980), Hold("gpt-4o-open", 0))
    return ClosedDispatch("1-1200-1", "order-2007", "gpt-4o", 5_100, 4_980, "settled", 2_190, TAGS, booked)


def _charged_again() -> ChargedAgain:
    return ChargedAgain(
        prev=PREV,
        cause=Cause("completions", 982),
        at_ms=AT_MS,
        dispatch_id="1-1180-1",
        query_id="order-1987",
        llm="gpt-4o",
        reason="late",
        spent_micros=3_910,
        basis="usage",
        usage=Usage(412, 288),
    )


def _configuration() -> Configuration:
    return Configuration(
        llms=LLMS,
        budgets=BUDGETS,
        margins=(1.2, 1.3),
        policy="priced",
        horizon_queries=25_000,
        horizon_floor_queries=1_000,
        resolve_every_queries=250,
        window_queries=1_000,
        observe_share=0.025,
        max_attempts=2,
        reservation_ms=600_000,
        checkpoint_every=1_000,
        seed=0,
        index="9f2c51d0a7b3",
        max_cost_micros=1_000_000_000,
        unanswered_ms=(180_000, 180_000),
        first_probe_ms=20_000,
        probe_ms=40_000,
        defers_filtered=True,
        price_lists={"gpt-4o": PriceList(Decimal("2.5"), Decimal(10), cached_input_usd_per_mtok=Decimal("1.25"))},
        home=_home(),
        settings="5c1f0e9ab7d2c364",
        features={"claude-3-haiku": ("tools",)},
        context_tokens={"claude-3-haiku": 200_000},
        dialects={"gpt-4o": ("chat", "responses"), "claude-3-haiku": ("messages",)},
        unknown_model="ignore",
        kinds=Kinds(((0.9, 0.8, 0.1, 0.2), (0.4, 0.2, 0.3, 0.6)), (0.0001, 0.0005), (0.7, 0.3), 1_000),
    )


def _home() -> Home:
    ids = {
        "queries": "JfsVh8cTRdGrZkkCoO8XZQ",
        "completions": "0a5lmHZ9TJ2Kp6yOpjPjnA",
        "ledger": "Vd0mJ8dSQYmLJXXuIYg1Hw",
        "decisions": "pI8PpJHUS5-x0Hk2mMjG3g",
    }
    return Home("tollgate", 4, ids)


def _checkpoint() -> Checkpoint:
    return Checkpoint(
        prev=PREV,
        cause=Cause("checkpoint", 2_230),
        at_ms=AT_MS,
        part=0,
        parts=1,
        row=_account_row(),
        config=_configuration(),
        window=[WindowBlock(bytes(8), bytes(16))],
        accounts=list(ACCOUNTS),
        reservations=[_reservation()],
        closed=[_closed_dispatch()],
    )


def _routed() -> Routed:
    return Routed(
        prev=PREV,
        cause=QUERY,
        at_ms=AT_MS,
        query_id="order-2041",
        offset=1_234,
        attempt=1,
        quality=[0.8125, 0.6875],
        cost_micros=[4_450, 390],
        charges=[0.28925, 0.00975],
        llm="gpt-4o",
        reason="best_score",
        reserved_micros=5_340,
        deadline_ms=AT_MS + 60_000,
        query_deadline_ms=AT_MS + 60_000,
        asks=Asks(deny=("claude-3-haiku",)),
        excluded={"claude-3-haiku": "denied"},
        tags=TAGS,
        input_tokens=412,
    )


def _closed() -> Closed:
    return Closed(
        prev=PREV,
        cause=ANSWER,
        at_ms=AT_MS + 2_300,
        dispatch_id="1-1234-1",
        query_id="order-2041",
        llm="gpt-4o",
        outcome="settled",
        reserved_micros=5_340,
        spent_micros=3_910,
        basis="usage",
        quality=0.9,
        usage=Usage(412, 288),
    )
