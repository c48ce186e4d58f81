"""Drives a router as a lane would, against a simulated compacted ledger: a crash is one more element of the input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self, TypedDict, TypeVar, Unpack

import msgspec
import numpy as np
from msgspec.structs import replace

from worker.contract.accounts import Budget
from worker.contract.asks import Asks
from worker.contract.codes import CostWord, Dialect, ErrorClass, Feature, Rejection
from worker.contract.completions import Remark, UsableCompletion
from worker.contract.decisions import Decision, Ignored
from worker.contract.kinds import Kinds
from worker.contract.messages import Configuration, Deferred, Dispatch, Home, UnknownModel
from worker.contract.token_costs import PriceList
from worker.contract.usage import Usage
from worker.core.events import Arrived, Completed, Effects, Event, Expiry, Reconfigured, Refused, Ticked
from worker.core.router import Prior, Router
from worker.core.snapshot import read_rows


class Crash:
    """An input of `Drive.run`: the process dies here, and the next owner restores the router."""


CRASH = Crash()
Input = Event | Sequence[Event] | Crash
Kind = TypeVar("Kind")

LLMS = ("large", "medium", "small")
PRIOR = Prior(
    np.array([[0.9, 0.6, 0.2], [0.8, 0.7, 0.5], [0.95, 0.4, 0.4]]), np.array([[900.0, 300.0, 50.0]]).repeat(3, 0)
)
QUERY = msgspec.Raw(msgspec.msgpack.encode({"text": "x"}))
NOT_A_QUERY = Rejection("format", detail="0x67")


def of_llms(micros: Mapping[str, int]) -> tuple[Budget, ...]:
    """A budget in US dollars for each LLM."""
    return tuple(Budget(llm, "usd", amount, (llm,)) for llm, amount in micros.items())


CONFIGURATION = Configuration(
    llms=LLMS,
    budgets=of_llms({"large": 20_000, "medium": 10_000, "small": 5_000}),
    margins=(1.2, 1.2, 1.2),
    policy="priced",
    horizon_queries=60,
    horizon_floor_queries=5,
    resolve_every_queries=7,
    window_queries=30,
    observe_share=0.1,
    max_attempts=2,
    reservation_ms=10_000,
    checkpoint_every=4,
    seed=1,
    index="index",
    max_cost_micros=1_000_000_000,
)

decode = msgspec.msgpack.Decoder(Decision).decode


class ConfigurationChanges(TypedDict, total=False):
    """Fields of a Configuration, and budgets of one LLM each in micro-dollars."""

    llms: tuple[str, ...]
    budget_micros: dict[str, int]
    budgets: tuple[Budget, ...]
    margins: tuple[float, ...]
    policy: str
    kinds: Kinds | None
    horizon_queries: int
    horizon_floor_queries: int
    resolve_every_queries: int
    window_queries: int
    observe_share: float
    max_attempts: int
    reservation_ms: int
    checkpoint_every: int
    seed: int
    index: str
    max_cost_micros: int
    price_lists: dict[str, PriceList]
    home: Home | None
    settings: str
    unanswered_ms: tuple[int, ...]
    first_probe_ms: int
    probe_ms: int
    defers_filtered: bool
    features: dict[str, tuple[Feature, ...]]
    context_tokens: dict[str, int]
    dialects: dict[str, tuple[Dialect, ...]]
    unknown_model: UnknownModel | None
    exploration_share: float


class QueryChanges(TypedDict, total=False):
    """Fields of an Arrived."""

    at_ms: int
    quality: list[float]
    cost_micros: list[float]
    deadline_ms: int | None
    query: msgspec.Raw
    asks: Asks
    tags: dict[str, str]
    input_tokens: int


class CompletionChanges(TypedDict, total=False):
    """Fields of a UsableCompletion, the time and the query that a failure brings back."""

    at_ms: int
    retry: Arrived | None
    ok: bool
    stated_micros: int | None
    cost: CostWord | None
    usage: Usage | None
    quality: float | None
    error: str | None
    remarks: tuple[Remark, ...]
    error_class: ErrorClass | None
    retry_after_ms: int | None


def kinds(llms: int) -> Kinds:
    """Three kinds of queries by the estimates of so many LLMs: hard, usual and easy ones."""
    centres = tuple((quality,) * llms + (cost,) * llms for quality, cost in ((0.2, 0.3), (0.4, 0.2), (0.7, 0.1)))
    return Kinds(centres, (0.0005,) * llms, (0.2, 0.5, 0.3), 40)


def config(**changes: Unpack[ConfigurationChanges]) -> Configuration:
    """A configuration of three LLMs, with `changes`. `budget_micros` are budgets of one LLM each."""
    of_one = changes.pop("budget_micros", None)
    if of_one is not None:
        changes["budgets"] = of_llms(of_one) + changes.get("budgets", ())
    return replace(CONFIGURATION, **changes)


def query(offset: int, *, query_id: str | None = None, **changes: Unpack[QueryChanges]) -> Arrived:
    """A query with `changes`. Its estimates vary with its offset, in a way that needs no random numbers."""
    arrived = Arrived(
        offset=offset,
        at_ms=offset * 100,
        query_id=query_id or f"q{offset}",
        quality=[0.5 + (offset * 7 % 50) / 100, 0.3 + (offset * 11 % 60) / 100, 0.1 + (offset * 13 % 40) / 100],
        cost_micros=[600 + offset * 37 % 700, 200 + offset * 53 % 300, 20 + offset * 17 % 60],
        deadline_ms=None,
        query=QUERY,
    )
    changed = replace(arrived, **changes)
    # As from an estimator: whole numbers are other bytes.
    return replace(changed, cost_micros=[float(cost) for cost in changed.cost_micros])


def completion(offset: int, dispatch_id: str, llm: str, **changes: Unpack[CompletionChanges]) -> Completed:
    """A good answer that cost 100 micro-dollars, with `changes`."""
    at_ms, retry = changes.pop("at_ms", offset * 100), changes.pop("retry", None)
    answer = replace(UsableCompletion(dispatch_id, llm, stated_micros=100, quality=1.0), **changes)
    return Completed(offset, at_ms, answer, retry)


def failure(offset: int, dispatch_id: str, llm: str, **changes: Unpack[CompletionChanges]) -> Completed:
    """An error that cost nothing, with `changes`."""
    free: CompletionChanges = {"ok": False, "stated_micros": None, "cost": "zero", "quality": None, **changes}
    return completion(offset, dispatch_id, llm, **free)


def tick(at_ms: int, begun: Iterable[str] = (), queries: int = 100) -> Ticked:
    """A tick that names every dispatch of the first queries: those that are open and due expire."""
    names = [f"0-{offset}-{attempt}" for offset in range(queries) for attempt in (1, 2, 3)]
    return Ticked(at_ms, tuple(Expiry(name, name in begun) for name in names))


class Drive:
    """One lane and its topics. `run` feeds batches; CRASH forgets the router and restores it from the ledger."""

    def __init__(self, settings: Configuration | None = None, prior: Prior = PRIOR) -> None:
        self.rows: dict[str, bytes] = {}
        self.dispatches: list[Dispatch] = []
        self.deferred: list[Deferred] = []
        self.decisions: list[Decision] = []
        self.refused: list[Refused] = []
        self.ignored: list[Ignored] = []
        self.router, self.prior = Router(0, prior), prior
        self.commit([Reconfigured(0, settings or config())])

    def commit(self, events: Sequence[Event]) -> Effects:
        """Apply one batch and publish its effects."""
        effects = self.router.handle(events)
        for key, row in effects.rows.items():
            self.rows.pop(key, None)
            if row is not None:
                self.rows[key] = row
        self.dispatches += effects.dispatches
        self.deferred += effects.deferred
        self.refused += effects.refused
        self.ignored += effects.ignored
        self.decisions += [decode(record) for _, record in effects.decisions]
        return effects

    def run(self, inputs: Iterable[Input]) -> Self:
        """Commit each event as a batch of its own, and each sequence of events as one batch; crash at a Crash."""
        for item in inputs:
            if isinstance(item, Crash):
                self.router = Router.restored(0, self.prior, read_rows(self.rows))
            else:
                self.commit(item if isinstance(item, Sequence) else [item])
            self.router._ledger.check()
        return self

    def decided(self, kind: type[Kind]) -> list[Kind]:
        """The decisions of one kind, in order."""
        return [decision for decision in self.decisions if isinstance(decision, kind)]

    def outcome(self) -> tuple[object, ...]:
        """Everything that must not depend on batches and crashes."""
        ignored = [(record.cause, record.code, record.dispatch_id) for record in self.ignored]
        outputs = self.dispatches, self.deferred, self.refused, ignored
        return *outputs, self.router.view.accounts, self.router.view.prices
