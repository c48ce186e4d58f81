"""Drives a router as a lane would, against a simulated compacted ledger: a crash is one more element of the input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from worker.contract.messages import Configuration, Decision, Deferred, Dispatch
from worker.core.events import Arrived, Completed, Effects, Event, Reconfigured, Refused
from worker.core.router import Prior, Router
from worker.core.snapshot import restore

CRASH = "crash"
LLMS = ("large", "medium", "small")
PRIOR = Prior(
    np.array([[0.9, 0.6, 0.2], [0.8, 0.7, 0.5], [0.95, 0.4, 0.4]]), np.array([[900.0, 300.0, 50.0]]).repeat(3, 0)
)
QUERY = msgspec.Raw(msgspec.msgpack.encode({"text": "x"}))
decode = msgspec.msgpack.Decoder(Decision).decode


def config(**changes: object) -> Configuration:
    """A configuration of three LLMs, with `changes`."""
    defaults = {
        "llms": LLMS,
        "budget_micros": {"large": 20_000, "medium": 10_000, "small": 5_000},
        "margins": (1.2, 1.2, 1.2),
        "policy": "priced",
        "horizon_queries": 60,
        "horizon_floor_queries": 5,
        "resolve_every_queries": 7,
        "window_queries": 30,
        "observe_share": 0.1,
        "max_attempts": 2,
        "reservation_ms": 10_000,
        "checkpoint_every": 4,
        "seed": 1,
        "index": "index",
    }
    return Configuration(**{**defaults, **changes})


def query(offset: int, *, at_ms: int | None = None, query_id: str | None = None, **changes: object) -> Arrived:
    """A query whose estimates vary with its offset, in a way that needs no random numbers."""
    quality = [0.5 + (offset * 7 % 50) / 100, 0.3 + (offset * 11 % 60) / 100, 0.1 + (offset * 13 % 40) / 100]
    cost = [600 + offset * 37 % 700, 200 + offset * 53 % 300, 20 + offset * 17 % 60]
    fields = {"quality": quality, "cost_micros": cost, "deadline_ms": None, "query": QUERY}
    at_ms = offset * 100 if at_ms is None else at_ms
    return Arrived(offset=offset, at_ms=at_ms, query_id=query_id or f"q{offset}", **{**fields, **changes})


def completion(offset: int, dispatch_id: str, llm: str, **changes: object) -> Completed:
    """A good answer that cost 100 micro-dollars, with `changes`."""
    fields = {"at_ms": offset * 100, "ok": True, "cost_micros": 100, "basis": "cost", "quality": 1.0}
    return Completed(offset=offset, dispatch_id=dispatch_id, llm=llm, **{**fields, **changes})


class Drive:
    """One lane and its topics. `run` feeds batches; CRASH forgets the router and restores it from the ledger."""

    def __init__(self, settings: Configuration | None = None) -> None:
        self.rows: dict[str, bytes] = {}
        self.dispatches: list[Dispatch] = []
        self.deferred: list[Deferred] = []
        self.decisions: list[Decision] = []
        self.refused: list[Refused] = []
        self.unmatched: list[tuple[int, str]] = []
        self.router = Router(0, PRIOR)
        self.commit([Reconfigured(0, settings or config())])

    def commit(self, events: Sequence[Event]) -> Effects:
        """Apply one batch and publish its effects."""
        effects = self.router.handle(events)
        for key, row in effects.rows.items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        self.dispatches += effects.dispatches
        self.deferred += effects.deferred
        self.refused += effects.refused
        self.unmatched += effects.unmatched
        self.decisions += [decode(record) for _, record in effects.decisions]
        return effects

    def run(self, inputs: Iterable[object]) -> Drive:
        """Feed events one batch each (a list is one batch), crashing where the input says so."""
        for item in inputs:
            if item is CRASH:
                self.router = restore(0, PRIOR, self.rows)
            else:
                self.commit(item if isinstance(item, list) else [item])
            self.router.ledger.check()
        return self

    def outcome(self) -> tuple[object, ...]:
        """Everything that must not depend on batches and crashes."""
        outputs = self.dispatches, self.deferred, self.refused, self.unmatched
        return *outputs, self.router.ledger.accounts, self.router.prices
