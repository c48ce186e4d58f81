"""The state of a system now, from its ledger topic alone, and again every second."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from msgspec import Struct

from worker.audit import in_force
from worker.audit.budget_totals import BudgetTotal, totals
from worker.audit.ledger_view import LedgerView
from worker.contract.accounts import Account
from worker.contract.messages import AccountRow, Fit, Offsets, TagTotal
from worker.contract.settings import Settings
from worker.contract.topic_names import TopicNames
from worker.contract.usage import MICROS_PER_USD
from worker.kafka.reader import KafkaReader, OpenReader, Reader, silent

EVERY_SECONDS = 1.0


class PartitionStatus(Struct, frozen=True):
    """One partition as its ledger has it. `behind` counts the offsets of each input that are not applied yet.

    `oldest_ms` is the time of the oldest open reservation, `clock_ms` the time of the last decision.
    `unanswered` counts, by LLM, open dispatches that were not answered in time. `out` are the LLMs that were taken out,
    each with the class of the error, or `unanswered`.
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
    accounts: list[Account]
    prices: dict[str, float]
    fit: Fit
    unanswered: dict[str, int]
    out: dict[str, str] = {}


class LlmStatus(Struct, frozen=True):
    """One LLM over all partitions. `open` counts its open dispatches, and `reserved_micros` is the money held for them.

    `unanswered` counts those that were not answered in time. `out` says in which partitions the LLM was taken out, and
    why.
    """

    open: int
    reserved_micros: int
    unanswered: int
    out: dict[int, str] = {}


class Status(Struct, frozen=True):
    """All partitions with a decision in `partitions`, the numbers of the others in `silent`. `prices` are, for each
    budget, those of the partitions that have one, in quality per US dollar, token or request. `tags` are the totals of
    queries by `<name>=<value>`.

    `changed_settings` are the settings that are not those of the file any more, each with the partitions that decide by
    another value. Where the index is not here (`index_is_here`), index.directory and margins are not compared.
    """

    budgets: list[BudgetTotal]
    prices: dict[str, list[float]]
    llms: dict[str, LlmStatus]
    partitions: list[PartitionStatus]
    silent: list[int]
    changed_settings: dict[str, list[int]]
    index_is_here: bool
    tags: dict[str, TagTotal] = {}


def statuses(settings: Settings, open_reader: OpenReader = KafkaReader) -> Iterator[Status]:
    """The status now, and again every EVERY_SECONDS for as long as the caller asks. Raises CheckBroker."""
    topics, partitions = settings.topics, range(settings.kafka.partitions)
    ledgers = [LedgerView() for _ in partitions]
    manifest = in_force.manifest_of(settings)
    prices = settings.price_lists(datetime.now(UTC))
    with open_reader(settings, silent) as reader:
        starts = reader.oldest((topics.ledger, partition) for partition in partitions)
        while True:
            for record in reader.read(starts):
                ledgers[record.partition].add(record)
                starts[record.topic, record.partition] = record.offset + 1
            changed = in_force.changed(settings, manifest, prices, [ledger.config for ledger in ledgers])
            behind = [_behind(reader, topics, *numbered) for numbered in enumerate(ledgers)]
            yield status(ledgers, behind, changed, manifest is not None)
            time.sleep(EVERY_SECONDS)


def _behind(reader: Reader, topics: TopicNames, partition: int, ledger: LedgerView) -> Offsets:
    """How many offsets of its inputs a partition has not applied.

    A commit marker takes an offset too, so one may remain for good.
    """
    applied = Offsets() if ledger.row is None else ledger.row.offsets
    queries, completions = (topics.queries, partition), (topics.completions, partition)
    ends = reader.ends((queries, completions))
    return Offsets(max(0, ends[queries] - applied.queries - 1), max(0, ends[completions] - applied.completions - 1))


def status(
    ledgers: Sequence[LedgerView],
    behind: Sequence[Offsets],
    changed_settings: Mapping[str, list[int]],
    index_is_here: bool,
) -> Status:
    """The status by the ledgers of all partitions; `behind` are the offsets that each has not applied."""
    found = [_partition(*one) for one in zip(range(len(ledgers)), ledgers, behind, strict=True)]
    partitions = [partition for partition in found if partition is not None]
    llms = dict.fromkeys(llm for ledger in ledgers for llm in _llms_of(ledger))
    accounts = (account for partition in partitions for account in partition.accounts)
    budgets = totals(accounts, (ledger.config for ledger in ledgers))
    return Status(
        budgets=budgets,
        prices={one.budget: _prices(one, partitions) for one in budgets},
        llms={llm: _llm(llm, ledgers, partitions) for llm in llms},
        partitions=partitions,
        silent=[number for number, ledger in enumerate(ledgers) if ledger.row is None],
        changed_settings=dict(changed_settings),
        index_is_here=index_is_here,
        tags=_tags([ledger.row for ledger in ledgers if ledger.row is not None]),
    )


def _tags(rows: Sequence[AccountRow]) -> dict[str, TagTotal]:
    totals: dict[str, TagTotal] = {}
    for row in rows:
        for tag, total in row.tags.items():
            old = totals.get(tag, TagTotal())
            totals[tag] = TagTotal(old.queries + total.queries, old.spent_micros + total.spent_micros)
    return dict(sorted(totals.items()))


def _partition(partition: int, ledger: LedgerView, behind: Offsets) -> PartitionStatus | None:
    row = ledger.row
    if row is None:
        return None
    return PartitionStatus(
        partition=partition,
        transactions=row.sequence,
        decisions=row.decisions,
        dispatches=row.dispatches,
        clock_ms=row.clock_ms,
        open=len(ledger.reservations),
        oldest_ms=min((reservation.at_ms for reservation in ledger.reservations.values()), default=None),
        offsets=row.offsets,
        behind=behind,
        accounts=list(ledger.accounts.values()),
        prices=row.prices,
        fit=row.fit,
        out={llm: one.error_class or "unanswered" for llm, one in row.breakers.items() if one.is_open},
        unanswered=Counter(one.llm for one in ledger.reservations.values() if one.is_unanswered),
    )


def _llms_of(ledger: LedgerView) -> Iterator[str]:
    """The LLMs of the configuration, and those that still have open dispatches."""
    yield from () if ledger.config is None else ledger.config.llms
    yield from (one.llm for one in ledger.reservations.values())


def _prices(total: BudgetTotal, partitions: Sequence[PartitionStatus]) -> list[float]:
    unit = MICROS_PER_USD if total.resource == "usd" else 1
    return [partition.prices[total.budget] * unit for partition in partitions if total.budget in partition.prices]


def _llm(llm: str, ledgers: Sequence[LedgerView], partitions: Sequence[PartitionStatus]) -> LlmStatus:
    held = [one for ledger in ledgers for one in ledger.reservations.values() if one.llm == llm]
    return LlmStatus(
        open=len(held),
        reserved_micros=sum(one.reserved_micros for one in held),
        unanswered=sum(one.is_unanswered for one in held),
        out={partition.partition: partition.out[llm] for partition in partitions if llm in partition.out},
    )
