"""What prices are solved on: estimates, what each query uses of each budget, and the budgets per query. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from worker.contract.codes import Resource
from worker.core.draws import Cell, Draws
from worker.core.window import Sample
from worker.estimation.features import Float64

PRICED: tuple[Resource, ...] = ("usd", "tokens", "requests")


@dataclass(frozen=True)
class Use:
    """One resource: how much of it each query uses of each LLM, `amount` [M, n], and which budgets that is taken from.

    Row k * M + i of `draws` [K * M, B] is of LLM i and the queries of cell k. It has 1 for each budget that they draw
    on, in the unit of the budget's price.
    """

    amount: Float64
    draws: sparse.csr_matrix


@dataclass(frozen=True)
class Market:
    """`quality` [M, n] of n queries and M LLMs, ordered by their cells; `starts` [K] is where each of K cells begins.
    `weight` [n] says how often a query like this will come, 1 in sum.

    `budget` [B] is what each budget has per query, in units of its mean use. `unit` [B] is 1 / mean use, 0 for a budget
    that no query uses: a price per micro-dollar, token or request is a price here times `unit`.
    """

    quality: Float64
    weight: Float64
    starts: NDArray[np.int64]
    uses: tuple[Use, ...]
    budget: Float64
    unit: Float64

    @property
    def cells(self) -> NDArray[np.int64]:
        """The number of each query's cell [n]."""
        return np.repeat(np.arange(len(self.starts)), np.diff(self.starts, append=self.quality.shape[1]))

    def charge(self, prices: Float64) -> Float64:
        """What each query uses of the budgets for each LLM, at prices [B] in units of mean use: [M, n]."""
        llms, cells = len(self.quality), len(self.starts)
        total = np.zeros_like(self.quality)
        for use in self.uses:
            each = (use.draws @ prices).reshape(cells, llms).T
            total += use.amount * (each if cells == 1 else each[:, self.cells])
        return total

    def spent(self, use: Use, shares: Float64) -> Float64:
        """What routing in shares [M, n] uses of one resource per query, by cell and LLM: [K * M]."""
        return self.summed(shares * use.amount)

    def summed(self, values: Float64) -> Float64:
        """The sums of values [M, n] over the queries of each cell, per query of all: [K * M]."""
        sums: Float64 = np.add.reduceat(values * self.weight, self.starts, axis=1)
        return sums.T.ravel()


def market_of(sample: Sample, draws: Draws, per_query: Float64, weight: Float64 | None = None) -> Market:
    """The market of a sample, with what each budget has per query, [B] in whole units. `weight` [n] of its queries is
    1 in sum; None: they weigh the same.

    Open dispatches are no part of it: how many a query uses depends on how long an answer takes.
    """
    cells = sorted(set(sample.cells))
    numbers = {cell: number for number, cell in enumerate(cells)}
    of_query = np.array([numbers[cell] for cell in sample.cells], np.int64)
    order = np.argsort(of_query, kind="stable")
    starts = np.searchsorted(of_query[order], np.arange(len(cells)))
    weights = np.full(len(order), 1 / len(order)) if weight is None else weight[order]
    amounts = {resource: _amounts(resource, sample, draws)[:, order] for resource in _resources(draws)}
    incidences = {resource: _incidence(resource, cells, draws) for resource in amounts}
    unit = np.zeros(len(per_query))
    for resource, amount in amounts.items():
        unit += _units(amount, starts, incidences[resource])
    uses = tuple(Use(amounts[one], sparse.csr_matrix(incidences[one].multiply(unit))) for one in amounts)
    return Market(np.ascontiguousarray(sample.quality[order].T), weights, starts, uses, per_query * unit, unit)


def _resources(draws: Draws) -> Iterator[Resource]:
    for resource in PRICED:
        if any(budget.resource == resource for budget in draws.budgets):
            yield resource


def _amounts(resource: Resource, sample: Sample, draws: Draws) -> Float64:
    """What each query uses of a resource for each LLM: [M, n]."""
    if resource == "usd":
        return np.ascontiguousarray(sample.cost_micros.T)
    if resource == "requests":
        return np.ones(sample.cost_micros.T.shape)
    rows = zip(sample.cost_micros.tolist(), sample.input_tokens.tolist(), strict=True)
    return np.array([draws.tokens(cost, tokens) for cost, tokens in rows], np.float64).T


def _incidence(resource: Resource, cells: Sequence[Cell], draws: Draws) -> sparse.csr_matrix:
    """1 where the queries of a cell (and an LLM) draw on a budget: [K * M, B]."""
    rows, columns = [], []
    for first, cell in enumerate(cells):
        for llm, numbers in enumerate(draws.matching(cell)):
            for number in numbers:
                if draws.budgets[number].resource == resource:
                    rows.append(first * len(draws.llms) + llm)
                    columns.append(number)
    shape = len(cells) * len(draws.llms), len(draws.budgets)
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)


def _units(amount: Float64, starts: NDArray[np.int64], incidence: sparse.csr_matrix) -> Float64:
    """1 / mean use of each budget over the queries and the LLMs that draw on it; 0 for one that none draws on: [B]."""
    llms, queries = amount.shape
    sums = np.add.reduceat(amount, starts, axis=1).T.ravel()
    counts = np.repeat(np.diff(starts, append=queries), llms)
    total, count = incidence.T @ sums, incidence.T @ counts
    mean = np.maximum(total / np.maximum(count, 1), 1e-9)
    return np.where(count > 0, 1.0 / mean, 0.0)
