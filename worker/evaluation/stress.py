"""Known failures of routing on history: the quality and the alarms in each case. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worker.core import alarms
from worker.core.drift import Drift
from worker.core.events import Effects, Event
from worker.core.lane_view import LaneView
from worker.estimation.features import Float64
from worker.estimation.history import History
from worker.evaluation.scenario import Order, Plan, Scenario, divide, make_scenario
from worker.evaluation.scores import reference
from worker.evaluation.simulate import Simulated, play_router
from worker.evaluation.study import Finding, Study

WARM_QUERIES = 200
NEW_LLM_ROWS = 20


def shift(study: Study) -> Finding:
    """Queries, prices or quality that change while the system runs."""
    return _table(study, "what changes midway", SHIFTS)


def failures(study: Study) -> Finding:
    """Budgets, prices and histories that are not as they should be."""
    return _table(study, "what is wrong", FAILURES)


Make = Callable[[Study, int], Scenario]


def _table(study: Study, title: str, cases: dict[str, Make]) -> Finding:
    rows = []
    for name, make in cases.items():
        scenarios = [make(study, seed) for seed in study.all_seeds]
        against = [float(reference(scenario).quality.sum()) for scenario in scenarios]
        port = [_quality(play_router(scenario, "port", scenario.exact)) for scenario in scenarios]
        priced, alarmed = zip(*(_alarmed(scenario) for scenario in scenarios), strict=True)
        shares = (f"{np.mean(np.array(reached) / against):.1%}" for reached in (port, priced))
        raised = sorted(set().union(*alarmed), key=list(alarms.MEANINGS).index)
        rows.append((name, *shares, ", ".join(raised) or "none"))
    return Finding(f"{title}, by Tollgate's rule", (title, "port", "priced", "alarms of priced"), rows)


def _quality(outcome: Simulated) -> float:
    return float(outcome.quality.sum())


def _alarmed(scenario: Scenario) -> tuple[float, set[str]]:
    """The quality of `priced`, and every alarm that was raised."""
    manifest = scenario.estimator.manifest
    outside = float((scenario.estimates.similarity < manifest.similarity_quantiles[2]).mean())
    raised = {alarm.name for alarm in [*alarms.of_index(manifest), *alarms.of_queries(outside)]}

    drift = Drift()

    def look(lane: LaneView, _: Sequence[Event], effects: Effects) -> None:
        drift.see(effects.dispatches, effects.closed)
        if lane.seen >= WARM_QUERIES:
            raised.update(alarm.name for alarm in [*alarms.of_lane(lane), *drift.alarms()])

    return _quality(play_router(scenario, "priced", scenario.estimates, look)), raised


# Changes midway


def _sorted(study: Study, seed: int) -> Scenario:
    return study.scenario(seed, replace(study.plan, order=_order(study)))


def _order(study: Study) -> Order:
    return "hardest-last" if study.history.categories is None else "source"


def _new_subject(study: Study, seed: int) -> Scenario:
    """The most frequent category is in no row of history and comes in the second half only."""
    past, live = divide(study.history, study.plan.test, seed)
    if past.categories is None or live.categories is None:
        return study.scenario(seed)
    names, counts = np.unique(live.categories, return_counts=True)
    is_new = np.array(live.categories) == names[counts.argmax()]
    known = np.flatnonzero(np.array(past.categories) != names[counts.argmax()])
    order = np.argsort(is_new, kind="stable")
    return make_scenario(past.rows(known), live.rows(order), Plan(), seed, study.neighbours)


def _favourite(scenario: Scenario) -> int:
    """The LLM that serves most queries when nothing changes."""
    return int(np.bincount(_choices(scenario), minlength=len(scenario.live.llms)).argmax())


def _choices(scenario: Scenario) -> NDArray[np.int64]:
    chosen = play_router(scenario, "priced", scenario.estimates).llm
    return chosen[chosen >= 0]


def _second_half(scenario: Scenario, change: Callable[[History, int, slice], tuple[Float64, Float64]]) -> Scenario:
    quality, cost = change(scenario.live, _favourite(scenario), slice(scenario.queries // 2, None))
    return replace(scenario, live=replace(scenario.live, quality=quality, cost_micros=cost))


def _dearer(study: Study, seed: int) -> Scenario:
    def change(live: History, llm: int, rows: slice) -> tuple[Float64, Float64]:
        cost = live.cost_micros.copy()
        cost[rows, llm] *= 3
        return live.quality, cost

    return _second_half(study.scenario(seed), change)


def _worse(study: Study, seed: int) -> Scenario:
    def change(live: History, llm: int, rows: slice) -> tuple[Float64, Float64]:
        quality = live.quality.copy()
        quality[rows, llm] = 0.0
        return quality, live.cost_micros

    return _second_half(study.scenario(seed), change)


def _unlike(study: Study, seed: int) -> Scenario:
    """The second half has embeddings of noise: texts of a kind that history does not know."""
    scenario = study.scenario(seed)
    embeddings = scenario.live.embeddings.copy()
    half = scenario.queries // 2
    noise = np.random.default_rng(seed).normal(size=embeddings[half:].shape).astype(np.float32)
    embeddings[half:] = noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return make_scenario(scenario.past, replace(scenario.live, embeddings=embeddings), Plan(), seed, study.neighbours)


SHIFTS: dict[str, Make] = {
    "nothing": lambda study, seed: study.scenario(seed),
    "arrivals sorted by category": _sorted,
    "a subject that history does not know": _new_subject,
    "texts unlike any": _unlike,
    "the favourite's price, times 3": _dearer,
    "the favourite answers nothing right": _worse,
}


# Wrong from the start


def _planned(**changes: object) -> Make:
    return lambda study, seed: study.scenario(seed, replace(study.plan, **changes))  # type: ignore[arg-type]


def _dominant(study: Study, seed: int) -> Scenario:
    """One LLM answers everything at a tenth of the price of the cheapest."""
    past, live = (_with_dominant(rows) for rows in divide(study.history, study.plan.test, seed))
    return make_scenario(past, live, Plan(), seed, study.neighbours)


def _with_dominant(rows: History) -> History:
    quality, cost = rows.quality.copy(), rows.cost_micros.copy()
    quality[:, 0], cost[:, 0] = 1.0, np.nanmin(cost, axis=1) / 10
    return replace(rows, quality=quality, cost_micros=cost)


def _tiny(count: int) -> Make:
    def make(study: Study, seed: int) -> Scenario:
        past, live = divide(study.history, study.plan.test, seed)
        return make_scenario(past.rows(np.arange(count)), live, Plan(), seed, None)

    return make


def _newcomer(study: Study, seed: int) -> Scenario:
    past, live = divide(study.history, study.plan.test, seed)
    quality, cost = past.quality.copy(), past.cost_micros.copy()
    quality[NEW_LLM_ROWS:, 0] = cost[NEW_LLM_ROWS:, 0] = np.nan
    return make_scenario(replace(past, quality=quality, cost_micros=cost), live, Plan(), seed, study.neighbours)


FAILURES: dict[str, Make] = {
    "nothing": lambda study, seed: study.scenario(seed),
    "a horizon of a third of the queries": _planned(horizon=1 / 3),
    "a horizon of three times the queries": _planned(horizon=3.0),
    "more budget than can be spent": _planned(budget=1e4),
    "one LLM best and cheapest": _dominant,
    "50 rows of history": _tiny(50),
    "500 rows of history": _tiny(500),
    f"an LLM with {NEW_LLM_ROWS} rows": _newcomer,
}
