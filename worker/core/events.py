"""What goes into a lane's router and what comes out. Internal to one process; the wire has messages.

Every event has `at_ms`, the time at which the lane took it up: the core has no clock of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from msgspec import Raw, Struct

from worker.contract.asks import NOTHING, Asks
from worker.contract.codes import ErrorClass, Rejection
from worker.contract.completions import UsableCompletion
from worker.contract.decisions import ChargedAgain, Closed, Ignored, Missed, Switched
from worker.contract.messages import Configuration, Deferred, Dispatch, Reservation


class Arrived(Struct, frozen=True, gc=False):
    """A query with its estimates, one number for each LLM. `query` is passed on and never looked into."""

    offset: int
    at_ms: int
    query_id: str
    quality: list[float]
    cost_micros: list[float]
    deadline_ms: int | None
    query: Raw
    asks: Asks = NOTHING
    tags: dict[str, str] = {}
    input_tokens: int = 0


class Completed(Struct, frozen=True, gc=False):
    """An answer to a dispatch. `retry` is the query with estimates of now, for an error that may be dispatched once
    more; None where the query has left its topic."""

    offset: int
    at_ms: int
    answer: UsableCompletion
    retry: Arrived | None = None


class Withdrawn(Struct, frozen=True):
    """An inference worker calls an LLM no more, because its provider refuses it for good."""

    offset: int
    at_ms: int
    llm: str
    error_class: ErrorClass
    worker: str


class Refused(Struct, frozen=True):
    """A record that cannot be used, and why. Its bytes go to `dead-letters`."""

    topic: Literal["queries", "completions"]
    offset: int
    at_ms: int
    rejection: Rejection


class Removed(Struct, frozen=True):
    """Records of an input have left their topic before the lane had read them. `before` is the first offset that is
    still there."""

    topic: Literal["queries", "completions"]
    before: int
    at_ms: int


class Unanswered(Struct, frozen=True, gc=False):
    """Nobody has answered attempt number `attempt` of the query at `offset` in time, and no answer waits in
    `completions`. `retry` is the query with estimates of now; None where it has left its topic."""

    at_ms: int
    offset: int
    attempt: int
    retry: Arrived | None = None


class Expiry(Struct, frozen=True, gc=False):
    """A reservation past its deadline that no record in `completions` can close. `begun`: its call is known to have
    begun, so it may have cost money."""

    dispatch_id: str
    begun: bool = False


class Ticked(Struct, frozen=True):
    """Time went by, and these reservations expire. Nothing else does that, so an answer that overtakes the tick
    settles."""

    at_ms: int
    expired: tuple[Expiry, ...] = ()


class Reconfigured(Struct, frozen=True):
    """The settings from here on."""

    at_ms: int
    config: Configuration


Event = Arrived | Completed | Withdrawn | Refused | Removed | Unanswered | Ticked | Reconfigured


@dataclass
class Effects:
    """All that one transaction publishes. `rows` maps ledger keys to values, None for a tombstone.

    `refused` are records that could not be used, `ignored` are completions that changed nothing: the bytes of both go
    to `dead-letters`. `closed` are reservations that closed, and `charged_again` are further answers. Ignored, closed
    and charged again are among the decisions too, and so are `missed` input records. `unanswered` are dispatches that
    their query waits for no longer, `switched` LLMs that were taken out, probed or taken back. `unknown_tags` are the
    names of tags of queries that no budget asks for.
    """

    dispatches: list[Dispatch] = field(default_factory=list)
    deferred: list[Deferred] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    closed: list[Closed] = field(default_factory=list)
    charged_again: list[ChargedAgain] = field(default_factory=list)
    missed: list[Missed] = field(default_factory=list)
    unanswered: list[Reservation] = field(default_factory=list)
    switched: list[Switched] = field(default_factory=list)
    unknown_tags: list[str] = field(default_factory=list)
    decisions: list[tuple[str, bytes]] = field(default_factory=list)
    rows: dict[str, bytes | None] = field(default_factory=dict)
