"""Known ways in which routing on history goes wrong, each a named alarm that is seen from a lane's state. Pure.

The paper names them as its limits (arXiv 2509.02718, section 6): queries unlike history, budgets used up early, prices
that say nothing, too little history. `tollgate evaluate --experiment failures` shows which case raises which.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from worker.contract import sentences
from worker.contract.messages import Configuration
from worker.core.lane_view import LaneView
from worker.estimation.features import Float64
from worker.estimation.manifest import Manifest

# Under 500 rows, estimates are hardly better than each LLM's mean; an LLM needs 100 answers to be told from the others.
TINY_ROWS = 500
FEW_LLM_ROWS = 100
# A window of so many estimates tells a shift of half a standard deviation from chance seven times over.
FEWEST_QUERIES = 200
SHIFT_DEVIATIONS = 0.5
# 5 % of history's own rows are this far from the others; four times as many queries are something else.
OUTSIDE_SHARE = 0.2
# Prices pace a budget to its horizon; one that is all but gone in three quarters of it was not paced.
USED_SHARE, ELAPSED_SHARE = 0.95, 0.75
TAKES_ALL_SHARE = 0.95
OVERRUN_SHARE = 0.01
# Prices that are solved leave 0.1 to 2 %: the share that the smoothing of the solver costs.
WIDE_GAP = 0.05

# The meaning of each alarm and its remedy, as the log shows them (docs/reference/alarms.md says more).
MEANINGS = {
    "tiny_history": "the index has too few rows for good estimates; build it from more rows",
    "new_llm": "the index has few answers of an LLM; record more of its answers and build the index again",
    "outside_history": "many queries are unlike all past queries; add such queries to history, build the index again",
    "cost_drift": "an LLM's real costs differ from the estimates; build the index again, or raise its margin",
    "quality_drift": "an LLM's real quality differs from the estimates; build the index from recent answers",
    "answers_unusable": "the costs of many answers are not known and are booked as reserved; see odd_answer in the log",
    "records_lost": "records left an input before a worker read them; raise its retention.ms, see `tollgate verify`",
    "clock_drift": "the clocks of this machine and of a broker differ; look at NTP on both, nothing expires early",
    "two_settings": "lanes decide by different settings; restart all workers with the same settings",
    "topics_changed": "a topic is not as it was when this worker started; see `tollgate topics check`",
    "shift": "the estimates of recent queries differ from those of history; build the index from recent queries",
    "early_exhaustion": "a budget was used up before its horizon; raise the budget, or routing.horizon_queries",
    "past_horizon": "more queries came than routing.horizon_queries; raise it, or set it to 0",
    "prices_all_zero": "no budget is scarce, every query goes to the best estimate; lower budgets if you want less",
    "one_llm_takes_all": "one LLM is the best choice for nearly all queries; check its price list and its budget",
    "fit_kept": "the last price solution did not certify, older prices stay in force; look at fit in the account row",
    "wide_gap": "prices leave more than 5 % of the quality that the budgets allow; look at fit in the account row",
    "llm_out": "an LLM gets no queries but probes: its calls fail, or nobody answers; look at its inference worker",
    "overrun": "more than 1 % was spent beyond the budgets; raise llms.<name>.margin",
    "no_broker": "the broker does not answer this worker; look at the broker and at the network",
    "stalled": "records wait and nothing is decided though the broker answers; restart this worker",
    "quarantined": "a lane cannot be opened, its records wait; do what the detail says, the lane is tried again",
}
INDEX_ALARMS = ("tiny_history", "new_llm")
QUERY_ALARMS = ("outside_history", "cost_drift", "quality_drift", "answers_unusable")
SYSTEM_ALARMS = ("records_lost", "clock_drift", "two_settings", "topics_changed", "no_broker", "stalled")
LANE_ALARMS = tuple(name for name in MEANINGS if name not in INDEX_ALARMS + QUERY_ALARMS + SYSTEM_ALARMS)


class Alarm(NamedTuple):
    """One alarm in force; `detail` says whom it concerns and by how much."""

    name: str
    detail: str


def of_index(manifest: Manifest) -> list[Alarm]:
    """What an index is too small for."""
    alarms = [Alarm("tiny_history", f"{manifest.rows} rows")] if manifest.rows <= TINY_ROWS else []
    few = [
        f"{llm}: {rows} rows"
        for llm, rows in zip(manifest.llms, manifest.llm_rows, strict=True)
        if rows < min(FEW_LLM_ROWS, manifest.rows)
    ]
    return alarms + ([Alarm("new_llm", ", ".join(few))] if few else [])


def of_queries(outside_share: float) -> list[Alarm]:
    """Whether too many of a worker's recent queries lie outside of history (Manifest.similarity_quantiles)."""
    return [Alarm("outside_history", f"{outside_share:.0%} of them")] if outside_share > OUTSIDE_SHARE else []


def of_lane(lane: LaneView) -> list[Alarm]:
    """What is wrong with a lane now. None before its first configuration."""
    if lane.config is None:
        return []
    return [*_of_budgets(lane, lane.config), *_of_prices(lane, lane.config), *_of_breakers(lane)]


def _of_budgets(lane: LaneView, config: Configuration) -> Iterator[Alarm]:
    horizon, seen, budgets = config.horizon_queries, lane.seen, lane.budgets
    elapsed = seen / horizon if horizon else 1.0
    # Open dispatches come back, so they are not used up.
    lasting = {name: account for name, account in budgets.items() if account.resource != "open"}
    used = {name: (account.spent + account.reserved) / max(account.amount, 1) for name, account in lasting.items()}
    gone = [name for name, share in used.items() if share > USED_SHARE]
    if gone and elapsed < ELAPSED_SHARE:
        yield Alarm("early_exhaustion", f"at {elapsed:.0%} of the horizon: {', '.join(gone)}")
    if 0 < horizon < seen:
        yield Alarm("past_horizon", f"{seen} queries of {horizon}")
    money = [account for account in lane.accounts if account.resource == "usd"]
    over = sum(max(0, account.spent - account.amount) for account in money)
    if over > OVERRUN_SHARE * sum(account.amount for account in money):
        yield Alarm("overrun", f"by {over} micro-dollars")


def _of_prices(lane: LaneView, config: Configuration) -> Iterator[Alarm]:
    if lane.fit.status == "kept":
        yield Alarm("fit_kept", sentences.fit(lane.fit.code))
    if lane.fit.status != "observing" and lane.fit.gap > WIDE_GAP:
        yield Alarm("wide_gap", f"{lane.fit.gap:.1%}")
    quality, cost, charges = lane.recent()
    if len(quality) < FEWEST_QUERIES or not lane.prices:
        return
    if not any(lane.prices):
        yield Alarm("prices_all_zero", f"after {lane.seen} queries")
    best = (quality - charges).argmax(axis=1)
    counts = np.bincount(best, minlength=quality.shape[1])
    if len(counts) > 1 and counts.max() > TAKES_ALL_SHARE * len(best):
        yield Alarm("one_llm_takes_all", f"{config.llms[counts.argmax()]}: {counts.max() / len(best):.0%}")
    prior = lane.prior
    moved = max(_moved(quality, prior.quality), _moved(np.log1p(cost), np.log1p(prior.cost_micros)))
    if moved > SHIFT_DEVIATIONS:
        yield Alarm("shift", f"by {moved:.1f} standard deviations")


def _of_breakers(lane: LaneView) -> Iterator[Alarm]:
    out = {llm: breaker.error_class or "unanswered" for llm, breaker in lane.breakers.items() if breaker.is_open}
    if out:
        yield Alarm("llm_out", ", ".join(f"{llm}: {why}" for llm, why in sorted(out.items())))


def _moved(now: Float64, before: Float64) -> float:
    """By how many standard deviations of `before` [n, M] the means moved, in the median over LLMs."""
    if len(before) < 2:
        return 0.0
    return float(np.median(np.abs(now.mean(axis=0) - before.mean(axis=0)) / np.maximum(before.std(axis=0), 1e-3)))
