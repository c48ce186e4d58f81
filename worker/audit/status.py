"""The live state of a system, from its ledger topic alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from worker.audit.ledger_view import Witness
from worker.contract.messages import Account, Fit, Offsets


class PartitionStatus(Struct, frozen=True):
    """One partition as its ledger has it. `behind` are the offsets of each input that are not applied yet.

    `oldest_ms` is when the oldest open reservation was made, `clock_ms` the time of the last decision.
    """

    partition: int
    transactions: int
    decisions: int
    dispatches: int
    clock_ms: int
    open: int
    oldest_ms: int | None
    offsets: Offsets
    behind: Offsets
    accounts: dict[str, Account]
    prices: dict[str, float]
    fit: Fit


class LlmStatus(Struct, frozen=True):
    """One LLM over all partitions. `prices` are in quality per US dollar, one for each partition that has one."""

    budget_micros: int
    spent_micros: int
    reserved_micros: int
    overrun_micros: int
    prices: list[float]


class Status(Struct, frozen=True):
    """All partitions that have decided anything; `silent` are the others."""

    llms: dict[str, LlmStatus]
    partitions: list[PartitionStatus]
    silent: list[int]


def status(witnesses: Sequence[Witness], behind: Sequence[Offsets]) -> Status:
    """The status by the ledgers read so far; `behind` are the offsets not applied, of each."""
    found = (_partition(*one) for one in zip(witnesses, behind, strict=True))
    partitions = [partition for partition in found if partition is not None]
    llms = dict.fromkeys(llm for partition in partitions for llm in partition.accounts)
    return Status(
        llms={llm: _llm(llm, partitions) for llm in llms},
        partitions=partitions,
        silent=[witness.partition for witness in witnesses if witness.row is None],
    )


def _partition(witness: Witness, behind: Offsets) -> PartitionStatus | None:
    row = witness.row
    if row is None:
        return None
    return PartitionStatus(
        partition=witness.partition,
        transactions=row.sequence,
        decisions=row.decisions,
        dispatches=row.dispatches,
        clock_ms=row.clock_ms,
        open=len(witness.reservations),
        oldest_ms=min((reservation.at_ms for reservation in witness.reservations.values()), default=None),
        offsets=row.offsets,
        behind=behind,
        accounts=row.accounts,
        prices=row.prices,
        fit=row.fit,
    )


def _llm(llm: str, partitions: Sequence[PartitionStatus]) -> LlmStatus:
    accounts = [partition.accounts[llm] for partition in partitions if llm in partition.accounts]
    return LlmStatus(
        budget_micros=sum(account.budget_micros for account in accounts),
        spent_micros=sum(account.spent_micros for account in accounts),
        reserved_micros=sum(account.reserved_micros for account in accounts),
        overrun_micros=sum(account.overrun_micros for account in accounts),
        prices=[partition.prices[llm] * 1e6 for partition in partitions if llm in partition.prices],
    )
