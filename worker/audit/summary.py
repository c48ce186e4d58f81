"""Adds up the proofs of all partitions to one report. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from worker.audit.books import Books
from worker.audit.report import Counts, LlmTotals, Report
from worker.audit.verify import Proof


def summary(proofs: Sequence[Proof]) -> Report:
    """The report of finished proofs."""
    wrong = sum(proof.wrong for proof in proofs)
    return Report(
        ok=wrong == 0,
        counts=_counts(proofs),
        llms=_totals([proof.books for proof in proofs]),
        wrong=wrong,
        findings=[finding for proof in proofs for finding in proof.findings],
        notes=[note for proof in proofs for note in proof.notes],
    )


def _counts(proofs: Sequence[Proof]) -> Counts:
    sums: Counter[str] = Counter()
    for proof in proofs:
        sums += proof.books.counts
        sums["open"] += len(proof.books.open)
        sums["decisions"] += proof.chain.count
        sums["transactions"] += proof.witness.row.sequence if proof.witness.row is not None else 0
        sums["queries"] += proof.queries.count
        sums["completions"] += proof.completions.count
        sums["waiting_queries"] += proof.queries.waiting
        sums["waiting_completions"] += proof.completions.waiting
    return Counts(**sums)


def _totals(books: Sequence[Books]) -> dict[str, LlmTotals]:
    llms = dict.fromkeys(llm for partition in books for llm in partition.accounts)
    return {llm: _total(llm, books) for llm in llms}


def _total(llm: str, books: Sequence[Books]) -> LlmTotals:
    accounts = [partition.accounts[llm] for partition in books if llm in partition.accounts]
    judged = [partition.quality[llm] for partition in books if llm in partition.quality]
    quality, count = sum(total for total, _ in judged), sum(count for _, count in judged)
    return LlmTotals(
        budget_micros=sum(account.budget_micros for account in accounts),
        spent_micros=sum(account.spent_micros for account in accounts),
        reserved_micros=sum(account.reserved_micros for account in accounts),
        overrun_micros=sum(account.overrun_micros for account in accounts),
        dispatched=sum(partition.dispatched[llm] for partition in books),
        judged=count,
        mean_quality=quality / count if count else None,
    )
