"""What goes into the treasury and what comes out. Internal to one process; the wire has messages."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from worker.contract.budgets import BudgetDefinition
from worker.contract.codes import Rejection
from worker.contract.control import Control
from worker.contract.leases import GrantMessage, LaneReport


class Reported(Struct, frozen=True, gc=False):
    """A report of lane `lane`, from its partition of `asks`. `at_ms` is the time that the broker gave it."""

    lane: int
    offset: int
    at_ms: int
    report: LaneReport


class Controlled(Struct, frozen=True):
    """A record of `control`, or why it cannot be used. `at_ms` is the time that the broker gave it."""

    offset: int
    at_ms: int
    record: Control | Rejection


class SettingsRead(Struct, frozen=True):
    """The budgets of the settings file, when an owner begins. `at_ms` is the time of the newest record it can see."""

    at_ms: int
    budgets: tuple[BudgetDefinition, ...]


class Silence(Struct, frozen=True):
    """An ask has waited for the answers to recall number `recall` for so long that nobody waits any longer."""

    recall: int


class Publish(Struct, frozen=True):
    """Lanes may be told now which budgets have money again."""


TreasuryEvent = Reported | Controlled | SettingsRead | Silence | Publish


@dataclass
class TreasuryEffects:
    """All that one transaction publishes: a message to each of some lanes, decisions with their keys, and rows by key
    (None: a tombstone). `rejected` are control records that changed nothing, by offset: they become dead letters."""

    messages: dict[int, GrantMessage] = field(default_factory=dict)
    decisions: list[tuple[str, bytes]] = field(default_factory=list)
    rows: dict[str, bytes | None] = field(default_factory=dict)
    rejected: list[tuple[int, Rejection]] = field(default_factory=list)
