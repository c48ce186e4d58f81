"""What goes into a lane's router and what comes out. Internal to one process; the wire has messages.

Every event has `at_ms`, the time at which the lane took it up: the core has no clock of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from msgspec import Raw, Struct

from worker.contract.codes import Rejection
from worker.contract.messages import Closed, Configuration, Deferred, Dispatch, Ignored


class Arrived(Struct, frozen=True, gc=False):
    """A query with its estimates, one number for each LLM. `query` is passed on and never looked into."""

    offset: int
    at_ms: int
    query_id: str
    quality: list[float]
    cost_micros: list[int]
    deadline_ms: int | None
    query: Raw


class Completed(Struct, frozen=True, gc=False):
    """A completion, its usage already priced. `cost_micros` None is unknown. `retry` is the query estimated anew,
    for an error that may be dispatched once more; None where the query has left its topic."""

    offset: int
    at_ms: int
    dispatch_id: str
    llm: str
    ok: bool
    cost_micros: int | None
    basis: Literal["cost", "usage", "none"]
    quality: float | None = None
    error: str | None = None
    retry: Arrived | None = None


class Refused(Struct, frozen=True):
    """A record that cannot be used, and why. Its bytes go to `dead-letters`."""

    topic: Literal["queries", "completions"]
    offset: int
    at_ms: int
    rejection: Rejection


class Ticked(Struct, frozen=True):
    """Time went by: reservations past their deadline expire, at most router.EXPIRIES of them. Nothing else does that,
    so an answer that overtakes the tick settles."""

    at_ms: int


class Reconfigured(Struct, frozen=True):
    """The settings from here on."""

    at_ms: int
    config: Configuration


Event = Arrived | Completed | Refused | Ticked | Reconfigured


@dataclass
class Effects:
    """All that one transaction publishes. `rows` maps ledger keys to values, None for a tombstone.

    `refused` are records that could not be used, `ignored` are completions that changed nothing: the bytes of both go
    to `dead-letters`. `closed` are reservations that closed. Ignored and closed records are among the decisions too.
    """

    dispatches: list[Dispatch] = field(default_factory=list)
    deferred: list[Deferred] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    closed: list[Closed] = field(default_factory=list)
    decisions: list[tuple[str, bytes]] = field(default_factory=list)
    rows: dict[str, bytes | None] = field(default_factory=dict)
