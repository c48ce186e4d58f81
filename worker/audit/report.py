"""The report of `verify`: counts, money and whatever is wrong, over all partitions. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from worker.audit import homes
from worker.audit.books import Books
from worker.audit.budget_totals import BudgetTotal, totals
from worker.audit.mismatch import Mismatch
from worker.audit.verify import Verified
from worker.contract.topic_names import TopicNames


class Counts(Struct, frozen=True):
    """Counts over all partitions. Always: queries = dispatched + deferred + dead_letters, by their first decision.

    `dispatches` and `deferrals` count later attempts too. `llm_out`, `llm_probed` and `llm_back` count how often an LLM
    was taken out, probed and taken back. `waiting_*` count records that were not decided yet, `missed_*` the offsets
    that left their topics undecided.
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
    unanswered: int = 0
    llm_out: int = 0
    llm_probed: int = 0
    llm_back: int = 0
    late: int = 0
    paid_twice: int = 0
    ignored: int = 0
    refused_completions: int = 0
    open: int = 0
    decisions: int = 0
    transactions: int = 0
    waiting_queries: int = 0
    waiting_completions: int = 0
    missed_queries: int = 0
    missed_completions: int = 0


class LlmTotals(Struct, frozen=True):
    """One LLM over all partitions. `mean_quality` is over its `judged` answers; None if there are none."""

    spent_micros: int = 0
    dispatched: int = 0
    judged: int = 0
    mean_quality: float | None = None


class Report(Struct, frozen=True):
    """The result of an audit. `ok` says that nothing is wrong; `notes` say what could not be looked at, and why.

    `findings` are the first of each partition, in the order of their reading; `wrong` counts all. `remarks` counts the
    answers that were odd, by what was odd about them.
    """

    ok: bool
    counts: Counts
    llms: dict[str, LlmTotals]
    budgets: list[BudgetTotal]
    wrong: int
    findings: list[Mismatch]
    notes: list[str]
    remarks: dict[str, int]


def report(partitions: Sequence[Verified]) -> Report:
    """The report of verified partitions."""
    configs = {one.partition: one.ledger.config for one in partitions if one.ledger.config is not None}
    names = partitions[0].names if partitions else TopicNames()
    between = [found.at(names.ledger, min(configs), None) for found in homes.disagreements(configs)]
    wrong = sum(partition.wrong for partition in partitions) + len(between)
    return Report(
        ok=wrong == 0,
        counts=_counts(partitions),
        llms=_totals([partition.books for partition in partitions]),
        budgets=totals(
            (account for partition in partitions for account in partition.books.accounts.values()),
            (partition.books.config for partition in partitions),
        ),
        wrong=wrong,
        findings=[*between, *(finding for partition in partitions for finding in partition.findings)],
        notes=[*homes.notes(configs), *(note for partition in partitions for note in partition.notes)],
        remarks=dict(sum((partition.books.remarks for partition in partitions), Counter[str]()).most_common()),
    )


def _counts(partitions: Sequence[Verified]) -> Counts:
    sums: Counter[str] = Counter()
    for partition in partitions:
        sums += partition.books.counts
        sums["open"] += len(partition.books.open)
        sums["decisions"] += partition.decisions
        sums["transactions"] += partition.ledger.row.sequence if partition.ledger.row is not None else 0
        sums["queries"] += partition.queries.count
        sums["completions"] += partition.completions.count
        sums["waiting_queries"] += partition.queries.waiting
        sums["waiting_completions"] += partition.completions.waiting
    return Counts(**sums)


def _totals(books: Sequence[Books]) -> dict[str, LlmTotals]:
    llms = dict.fromkeys(llm for partition in books for llm in (*partition.llms, *partition.dispatched))
    return {llm: _total(llm, books) for llm in llms}


def _total(llm: str, books: Sequence[Books]) -> LlmTotals:
    judged = [partition.quality[llm] for partition in books if llm in partition.quality]
    quality, count = sum(total for total, _ in judged), sum(count for _, count in judged)
    return LlmTotals(
        spent_micros=sum(partition.spent[llm] for partition in books),
        dispatched=sum(partition.dispatched[llm] for partition in books),
        judged=count,
        mean_quality=quality / count if count else None,
    )
