"""What an audit finds: counts, money and whatever is wrong, for people and for programs. Pure."""

from __future__ import annotations

from msgspec import Struct


class Finding(Struct, frozen=True):
    """One row that is wrong: where it is, and what about it."""

    topic: str
    partition: int
    offset: int | None
    wrong: str

    def __str__(self) -> str:
        place = "" if self.offset is None else f" offset {self.offset}"
        return f"{self.topic}/{self.partition}{place}: {self.wrong}"


class Counts(Struct, frozen=True):
    """Of all partitions. Always: queries = dispatched + deferred + dead_letters, by their first decision.

    `dispatches` and `deferrals` count later attempts too; `waiting` are records not yet decided when the audit read.
    """

    queries: int = 0
    dispatched: int = 0
    deferred: int = 0
    dead_letters: int = 0
    dispatches: int = 0
    deferrals: int = 0
    completions: int = 0
    settled: int = 0
    released: int = 0
    expired: int = 0
    ignored: int = 0
    refused_completions: int = 0
    open: int = 0
    decisions: int = 0
    transactions: int = 0
    waiting_queries: int = 0
    waiting_completions: int = 0


class LlmTotals(Struct, frozen=True):
    """One LLM over all partitions. `mean_quality` is of the answers that somebody judged; None if nobody did."""

    budget_micros: int = 0
    spent_micros: int = 0
    reserved_micros: int = 0
    overrun_micros: int = 0
    dispatched: int = 0
    judged: int = 0
    mean_quality: float | None = None


class Report(Struct, frozen=True):
    """The result of an audit. `ok` says that nothing is wrong; `notes` are what could not be looked at, and why.

    `findings` are the first of each partition, in the order of their reading; `wrong` counts all.
    """

    ok: bool
    counts: Counts
    llms: dict[str, LlmTotals]
    wrong: int
    findings: list[Finding]
    notes: list[str]
