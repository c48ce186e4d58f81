"""Which kinds of queries are still to come. Pure.

Prices are right for the queries that are still to come, and those are not like the newest ones where queries arrive
sorted by subject or by time of day. Two beliefs are mixed:

- As before. Each query is a draw from what was seen, with history for DOUBT queries: DOUBT * pi_k + s_k.
- The rest. In all, the N queries will be as in history: N * pi_k of kind k, of which s_k have come.

The rest is believed as far as both hold. The order was no chance: the counts differ from history's by more than draws
would (a chi-squared statistic, shrunk as James and Stein do). And no kind came more often than history's mixture and
chance allow: what came too often was no accident, so this trust never comes back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from worker.contract.kinds import KindCounts, Kinds
from worker.estimation.clusters import Clusters
from worker.estimation.features import Float64

# Queries of history that count beside those that were seen.
DOUBT = 300
# More of a kind than this many standard deviations is no chance.
CHANCE = 1.5
# The same for the whole mixture.
CHANCE_OF_ALL = 1.0
# If this share of the queries is beyond chance, nothing is left of the trust.
BEYOND = 0.02
# A kind that is used up may still come.
LEAST = 1e-3


class Forecast:
    """What a lane has seen of each kind, and what that says of the queries to come.

    `quality` and `cost_micros` [p, LLMs] are the rows of history that prices are solved on.
    """

    def __init__(self, kinds: Kinds, quality: Float64, cost_micros: Float64) -> None:
        self._kinds = kinds
        self._clusters = Clusters(kinds)
        self._quality, self._cost_micros = quality, cost_micros
        self.seen = KindCounts((0,) * len(kinds.shares))

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The kinds of the rows of history [p]. Rows of fewer LLMs, which nobody solves on, are of no kind: 0."""
        if self._quality.shape[1] < len(self._kinds.scale):
            return np.zeros(len(self._quality), np.int64)
        return self._clusters.of(self._quality, self._cost_micros)

    def count(self, quality: Sequence[float], cost_micros: Sequence[float]) -> int:
        """Count one query by its estimates [M]; returns its kind."""
        kind = int(self._clusters.of(np.array([quality]), np.array([cost_micros]))[0])
        counts = list(self.seen.counts)
        counts[kind] += 1
        self.seen = replace(self.seen, counts=tuple(counts))
        return kind

    def look(self, horizon: int) -> KindCounts:
        """What was seen, and what it says if `horizon` queries come in all; 0: nobody knows how many."""
        left = trusted(self._kinds, self.seen.counts, horizon) if horizon else 1.0
        order = ordered(self._kinds, self.seen.counts)
        return KindCounts(self.seen.counts, min(self.seen.trust, left), max(self.seen.order, order))

    def shares(self, horizon: int) -> tuple[float, ...]:
        """The share of each kind [K] among the queries to come, 1 in sum, by what was seen at the last look."""
        seen = self.seen
        return tuple(still_to_come(self._kinds, seen.counts, horizon, seen.trust * seen.order))


def ordered(kinds: Kinds, seen: Sequence[int]) -> float:
    """How much of the order in which queries came was no chance, from 0 to 1."""
    came, free = sum(seen), len(seen) - 1
    if not came or not free:
        return 0.0
    expected = [max(came * share, LEAST) for share in kinds.shares]
    scale = 1 + came / max(kinds.rows, 1)
    statistic = math.fsum((s - e) ** 2 / e for s, e in zip(seen, expected, strict=True)) / scale
    by_chance = free + CHANCE_OF_ALL * math.sqrt(2 * free)
    return max(0.0, 1.0 - by_chance / statistic) if statistic else 0.0


def trusted(kinds: Kinds, seen: Sequence[int], horizon: int) -> float:
    """How far `rest` can be believed after these counts, from 0 to 1."""
    expected = [horizon * share for share in kinds.shares]
    spread = [math.sqrt(max(each * (1 + horizon / max(kinds.rows, 1)), 1.0)) for each in expected]
    beyond = (max(s - e - CHANCE * d, 0.0) for s, e, d in zip(seen, expected, spread, strict=True))
    return max(0.0, 1.0 - math.fsum(beyond) / max(sum(seen), 1) / BEYOND)


def still_to_come(kinds: Kinds, seen: Sequence[int], horizon: int, belief: float) -> list[float]:
    """The share of each kind [K] among the queries that are still to come, if the rest is believed so far; `horizon`
    0: nobody knows how many will have come."""
    came = sum(seen)
    as_before = [(DOUBT * share + s) / (DOUBT + came) for share, s in zip(kinds.shares, seen, strict=True)]
    if not horizon:
        return as_before
    few = LEAST * max(horizon - came, 1)
    rest = [max(horizon * share - s, 0.0) + few * share for share, s in zip(kinds.shares, seen, strict=True)]
    left = math.fsum(rest)
    return [belief * r / left + (1 - belief) * a for r, a in zip(rest, as_before, strict=True)]


def weights(shares: Sequence[float], kinds: NDArray[np.int64]) -> Float64:
    """The weight of each row [n], 1 in sum: the share of its kind, spread over the rows of that kind."""
    counts = np.bincount(kinds, minlength=len(shares))
    each = (np.array(shares) / np.maximum(counts, 1))[kinds]
    weighted: Float64 = each / each.sum()
    return weighted
