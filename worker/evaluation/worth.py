"""What policies would have been worth and cost on a log, beside what was really done. Pure.

`priced` chooses the LLM of the highest predicted quality - price x predicted cost, at one price for all rows. The price
that costs or is worth as much as what was really done is found on other folds than those that it is judged on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from worker.estimation.features import Float64
from worker.estimation.history import MICROS_PER_USD
from worker.evaluation.off_policy import (
    Interval,
    Log,
    Scores,
    Support,
    cost_scores,
    doubly_robust,
    known_scores,
    quality_scores,
    support,
)
from worker.evaluation.study import Finding, Point

PRICES = 80
Policy = Literal["done", "all_to_one", "priced_at_equal_cost", "priced_at_equal_quality"]
TITLES: dict[Policy, str] = {
    "done": "what was really done",
    "all_to_one": "all to {llm}",
    "priced_at_equal_cost": "priced at equal cost",
    "priced_at_equal_quality": "priced at equal quality",
}

Rows = NDArray[np.int64]


class Worth(Struct, frozen=True):
    """A policy on a log of n rows: its mean quality and its cost of all rows, in US dollars, and what it would have
    gained in mean quality and saved in US dollars. Each is an interval; None where the log does not tell.

    `llm` is the one LLM of `all_to_one`. `within_support`: the policy may choose only what the log supports.
    """

    policy: Policy
    support: Support
    quality: Interval | None
    cost_usd: Interval | None
    gained_quality: Interval | None = None
    saved_usd: Interval | None = None
    llm: str | None = None
    within_support: bool = False

    @property
    def title(self) -> str:
        """The policy in words."""
        title = TITLES[self.policy].format(llm=self.llm)
        return f"{title}, among LLMs that the log supports" if self.within_support else title


class Report(Struct, frozen=True):
    """Every policy on the `rows` of a log that one LLM answered. `guessed`: the table did not say how likely each LLM
    was asked."""

    rows: int
    guessed: bool
    policies: Sequence[Worth]


def report(log: Log, guessed: bool = True) -> Report:
    """What was really done, all rows to each LLM, and `priced` at equal cost and at equal quality."""
    rows = len(log.llm)
    done = Worth(
        "done",
        Support(rows, float(rows), 0.0),
        known_scores(log.quality).mean,
        _dollars(known_scores(log.cost_micros)),
    )
    alone = [_worth(log, "all_to_one", np.full(rows, number), llm) for number, llm in enumerate(log.llms)]
    return Report(rows, guessed, [done, *alone, *_priced(log)])


def _worth(log: Log, policy: Policy, choice: Rows, llm: str | None = None, within_support: bool = False) -> Worth:
    says = support(log, choice)
    if says.untold is not None:
        return Worth(policy, says, None, None, llm=llm, within_support=within_support)
    quality, cost = quality_scores(log, choice), cost_scores(log, choice)
    return Worth(
        policy,
        says,
        quality.mean,
        _dollars(cost),
        quality.minus(known_scores(log.quality)).mean,
        _dollars(known_scores(log.cost_micros).minus(cost)),
        llm,
        within_support,
    )


def _dollars(micros: Scores) -> Interval:
    """The sum of scores in micro-dollars, in US dollars."""
    of_all = len(micros.low) / MICROS_PER_USD
    return Interval(micros.mean.value * of_all, micros.mean.half_width * of_all)


def _priced(log: Log) -> Iterator[Worth]:
    """`priced` over all LLMs. If the log does not tell of that, `priced` over the LLMs that the log supports too."""
    everything = list(_priced_over(log, np.ones(log.likely.shape, dtype=bool)))
    yield from everything
    if any(worth.support.untold for worth in everything):
        yield from _priced_over(log, log.supported, within_support=True)


def _priced_over(log: Log, allowed: NDArray[np.bool_], within_support: bool = False) -> Iterator[Worth]:
    """At equal cost and at equal quality, with a choice of the LLMs that are `allowed` [n, M] for each row."""
    choices = np.array([_choice(log, price, allowed) for price in _prices(log)])
    quality = np.array([doubly_robust(log, choice, log.quality, log.predicted_quality) for choice in choices])
    cost = np.array([doubly_robust(log, choice, log.cost_micros, log.predicted_micros) for choice in choices])
    yield _worth(log, "priced_at_equal_cost", _at_equal_cost(log, choices, cost), within_support=within_support)
    yield _worth(
        log, "priced_at_equal_quality", _at_equal_quality(log, choices, quality), within_support=within_support
    )


def _prices(log: Log) -> Float64:
    """Quality per micro-dollar, ascending: from all rows to the best LLM to all rows to the cheapest."""
    costs = log.predicted_micros.mean(axis=0)
    usual = costs[costs > 0] if (costs > 0).any() else np.ones(1)
    prices: Float64 = np.geomspace(1e-3 / usual.max(), 10.0 / usual.min(), PRICES)
    return np.concatenate([[0.0], prices])


def _choice(log: Log, price: float, allowed: NDArray[np.bool_]) -> Rows:
    score = np.where(allowed, log.predicted_quality - price * log.predicted_micros, -np.inf)
    # Where nothing is allowed, what was done is done again.
    best: Rows = np.where(allowed.any(axis=1), score.argmax(axis=1), log.llm)
    return best


def _at_equal_cost(log: Log, choices: NDArray[np.int64], cost: Float64) -> Rows:
    """The choices at the lowest price that cost no more than what was done, by the other folds."""
    chosen = np.empty(len(log.llm), dtype=np.int64)
    for fold in np.unique(log.folds):
        here, others = log.folds == fold, log.folds != fold
        enough = cost[:, others].mean(axis=1) <= log.cost_micros[others].mean()
        chosen[here] = choices[int(enough.argmax()) if enough.any() else -1, here]
    return chosen


def _at_equal_quality(log: Log, choices: NDArray[np.int64], quality: Float64) -> Rows:
    """The choices at the highest price that are worth as much as what was done, by the other folds."""
    chosen = np.empty(len(log.llm), dtype=np.int64)
    for fold in np.unique(log.folds):
        here, others = log.folds == fold, log.folds != fold
        reached = quality[:, others].mean(axis=1)
        enough = np.flatnonzero(reached >= log.quality[others].mean())
        chosen[here] = choices[int(enough[-1]) if len(enough) else int(reached.argmax()), here]
    return chosen


def picture(found: Report) -> Finding:
    """Mean quality by US dollars, a dot for each policy that the log tells of; the errors are half the intervals."""
    dots = {
        worth.title: [Point(worth.cost_usd.value, worth.quality.value, worth.cost_usd[1], worth.quality[1])]
        for worth in found.policies
        if worth.quality is not None and worth.cost_usd is not None
    }
    paid = all(point.x > 0 for [point] in dots.values())
    axes = f"US dollars for {found.rows:,} rows", "mean quality"
    return Finding("policies on the log", (), [], dots, axes, log_x=paid, dots="a policy, with 95 % intervals")
