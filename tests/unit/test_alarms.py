"""Each known way in which routing goes wrong raises its alarm, and the healthy state beside it raises none."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Literal

import msgspec
import numpy as np
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from tests.drive import LLMS, PRIOR, QUERY, ConfigurationChanges, Drive, QueryChanges, completion, config, query
from worker.contract import sentences
from worker.contract.decisions import Cause, Closed
from worker.contract.messages import Dispatch, Fit, Origin
from worker.core import alarms
from worker.core.drift import Drift
from worker.core.events import Event
from worker.estimation.manifest import Manifest
from worker.service.metrics import AlarmLog, Metrics

WINDOW = 400
RICH = dict.fromkeys(LLMS, 100_000_000)
Change = Callable[[int], QueryChanges]


def as_history(number: int) -> QueryChanges:
    """The rows of the prior in tests/drive.py, in turn."""
    row = number % len(PRIOR.quality)
    return {"quality": PRIOR.quality[row].tolist(), "cost_micros": [int(cost) for cost in PRIOR.cost_micros[row]]}


def driven(settings: ConfigurationChanges, change: Change = as_history, queries: int = WINDOW) -> Drive:
    """A lane that has routed so many queries; every dispatch is settled at what was estimated."""
    merged: ConfigurationChanges = {"window_queries": WINDOW, "horizon_queries": 2 * WINDOW, **settings}
    drive = Drive(config(**merged))
    for number in range(queries):
        effects = drive.commit([query(number, **change(number))])
        drive.commit([completion(number, d.id, d.llm, stated_micros=ceil(d.cost_micros)) for d in effects.dispatches])
    return drive


def budgets(per_query: int) -> ConfigurationChanges:
    """Budgets that pay each LLM for a part of the queries."""
    return {"budget_micros": {"large": 300 * per_query, "medium": 100 * per_query, "small": 17 * per_query}}


LANES: list[tuple[str, ConfigurationChanges, Change, set[str]]] = [
    ("healthy", budgets(2 * WINDOW), as_history, set()),
    ("more budget than can be spent", {"budget_micros": RICH}, as_history, {"prices_all_zero", "one_llm_takes_all"}),
    (
        "more queries than the horizon",
        {**budgets(2 * WINDOW), "horizon_queries": WINDOW - 1},
        as_history,
        {"past_horizon"},
    ),
    (
        "one LLM better than all others",
        {"budget_micros": {"large": 900, "medium": 300, "small": 75 * WINDOW}},
        lambda number: {"quality": [0.05, 0.06, 0.95], "cost_micros": [900, 300, 50]},
        {"one_llm_takes_all", "shift"},
    ),
    (
        "other queries than in history",
        budgets(2 * WINDOW),
        lambda number: {**as_history(number), "quality": [0.4 + number % 2 / 10, 0.3, 0.1]},
        {"shift"},
    ),
]


@pytest.mark.parametrize(("settings", "change", "expected"), [case[1:] for case in LANES], ids=[c[0] for c in LANES])
def test_alarms_of_a_lane(settings: ConfigurationChanges, change: Change, expected: set[str]) -> None:
    """After as many queries as the window holds."""
    drive = driven(settings, change)
    assert {alarm.name for alarm in alarms.of_lane(drive.router.view)} == expected


def test_a_budget_that_is_gone_early() -> None:
    """The paper's policy does not pace: its favourite is used up long before the horizon."""
    drive = driven({"policy": "port", **budgets(WINDOW), "horizon_queries": 20 * WINDOW, "observe_share": 0.001})
    assert "early_exhaustion" in {alarm.name for alarm in alarms.of_lane(drive.router.view)}


def test_prices_that_were_not_adopted() -> None:
    """What the fit says is what the alarm says."""
    drive = driven(budgets(2 * WINDOW))
    drive.router._in_force.fit = Fit("kept", 0.0, 0.05, 3, "line_search")
    assert alarms.of_lane(drive.router.view) == [alarms.Alarm("fit_kept", sentences.fit("line_search"))]


@pytest.mark.parametrize("status", ["kept", "converged"])
def test_prices_that_leave_quality_behind(status: Literal["kept", "converged"]) -> None:
    """A gap of more than 5 % is an alarm, whatever the solver says of itself."""
    drive = driven(budgets(2 * WINDOW))
    drive.router._in_force.fit = Fit(status, 0.5, 0.051, 3, "solved")
    assert alarms.Alarm("wide_gap", "5.1%") in alarms.of_lane(drive.router.view)


@pytest.mark.parametrize(
    ("cost_micros", "expected"), [(900, set()), (90_000, {"overrun"})], ids=["as reserved", "more"]
)
def test_charges_beyond_the_budget(cost_micros: int, expected: set[str]) -> None:
    """A provider that charges a hundred times its estimate overruns the budget."""
    drive = Drive(config(budget_micros={"large": 2_000, "medium": 0, "small": 0}, horizon_queries=1))
    [dispatch] = drive.commit([query(0, quality=[0.9, 0.1, 0.1], cost_micros=[900, 1, 1])]).dispatches
    drive.commit([completion(0, dispatch.id, dispatch.llm, stated_micros=cost_micros)])
    assert {alarm.name for alarm in alarms.of_lane(drive.router.view)} == expected


def test_a_lane_without_configuration_has_no_alarms() -> None:
    """Nor one that has seen nothing yet."""
    drive = Drive(config())
    drive.router._pricing = None
    assert alarms.of_lane(drive.router.view) == []


MANIFEST = Manifest(
    format=2,
    embedder="supplied",
    dimension=2,
    llms=("a", "b", "c", "d"),
    rows=5_000,
    llm_rows=(5_000,) * 4,
    parameters=None,  # type: ignore[arg-type] # alarms do not look at it
    errors=None,  # type: ignore[arg-type] # nor at these
    margins=(1.0,) * 4,
    similarity_quantiles=(0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
    files={},
)


def answered(
    dispatch_id: str, cost_micros: int, quality: float, basis: Literal["cost", "reservation"] = "cost"
) -> Closed:
    """A reservation that this answer settled."""
    return Closed(
        b"", Cause("completions", 0), 1, dispatch_id, "q", "large", "settled", 120, cost_micros, basis, quality=quality
    )


def answers(count: int, cost_micros: int, quality: float) -> Drift:
    """So many dispatches estimated at 100 micro-dollars and quality 0.6, with their answers."""
    drift = Drift()
    for number in range(count):
        dispatch = Dispatch(f"0-{number}-1", "q", "large", Origin(0, number), 1, 120, 0.6, 100, 0.0, 1, QUERY)
        drift.see([dispatch], [answered(dispatch.id, cost_micros, quality)])
    return drift


DRIFTS: list[tuple[str, Drift, set[str]]] = [
    ("as estimated", answers(300, 110, 0.55), set()),
    ("three times the cost", answers(300, 300, 0.6), {"cost_drift"}),
    ("a third of the cost", answers(300, 30, 0.6), {"cost_drift"}),
    ("worse", answers(300, 100, 0.2), {"quality_drift"}),
    ("too few answers to say", answers(99, 300, 0.0), set()),
]


@pytest.mark.parametrize(("drift", "expected"), [case[1:] for case in DRIFTS], ids=[case[0] for case in DRIFTS])
def test_llms_that_changed(drift: Drift, expected: set[str]) -> None:
    """By the means of what they were estimated at and of what they answered."""
    assert {alarm.name for alarm in drift.alarms()} == expected


def test_costs_that_are_unknown_are_no_answer() -> None:
    """An answer of unknown cost is booked at its reservation, which says nothing of what the LLM costs. Many of them
    are an alarm of their own."""
    drift = answers(300, 100, 0.6)
    drift.see([], [answered(f"0-{number}-2", 900, 0.6, "reservation") for number in range(300)])
    assert [alarm.name for alarm in drift.alarms()] == ["answers_unusable"]


def test_forged_and_repeated_completions_say_nothing() -> None:
    """However many there are, under whatever names: alarms and memory are of what settled."""
    drive, metrics = Drive(config(budget_micros=RICH)), Metrics()
    batches: list[list[Event]] = [[query(offset) for offset in range(3)]]
    batches.append([completion(n, "0-0-1", f"llm-{n}", stated_micros=10**6) for n in range(2_000)])
    batches.append([completion(n, "0-9-1", "large", stated_micros=10**6) for n in range(2_000, 4_000)])
    for batch in batches:
        metrics.committed(drive.commit(batch), len(batch), 0.01)
    assert set(metrics._drift._means) <= set(LLMS)
    assert metrics.alarms() == {}


INDEXES: list[tuple[str, dict[str, object], set[str]]] = [
    ("large enough", {"rows": 5_000, "llm_rows": (5_000, 4_000, 300, 100)}, set()),
    ("500 rows", {"rows": 500, "llm_rows": (500, 500, 500, 500)}, {"tiny_history"}),
    ("a new LLM", {"rows": 5_000, "llm_rows": (5_000, 99, 5_000, 5_000)}, {"new_llm"}),
    ("50 rows", {"rows": 50, "llm_rows": (50, 50, 50, 20)}, {"tiny_history", "new_llm"}),
]


@pytest.mark.parametrize(("change", "expected"), [case[1:] for case in INDEXES], ids=[case[0] for case in INDEXES])
def test_alarms_of_an_index(change: dict[str, object], expected: set[str]) -> None:
    """By rows of history, in all and of each LLM."""
    changed = msgspec.structs.replace(MANIFEST, **change)
    assert {alarm.name for alarm in alarms.of_index(changed)} == expected


@pytest.mark.parametrize(("similarity", "expected"), [(0.99, 0.0), (0.25, 1.0)], ids=["like history", "unlike it"])
def test_queries_outside_history(similarity: float, expected: float) -> None:
    """Queries less similar to history than its own rows are to each other raise the alarm, and the metric shows it."""
    metrics = Metrics()
    metrics.describe("1", "priced", MANIFEST)
    router = driven({"budget_micros": RICH}, queries=1).router
    metrics.watch(lambda: [router.view])
    for _ in range(5):
        metrics.similar(np.full(1_000, similarity, dtype=np.float32))
    [family] = [f for f in text_string_to_metric_families(metrics.exposition().decode()) if f.name == "tollgate_alarm"]
    values = {(s.labels["name"], s.labels["partition"]): s.value for s in family.samples}
    places = {name: "0" if name in alarms.LANE_ALARMS else "" for name in alarms.MEANINGS}
    assert (values["outside_history", ""], set(values)) == (expected, set(places.items()))


def test_an_alarm_is_logged_once() -> None:
    """One warning when an alarm comes, one line when it is over; nothing while it lasts."""
    alarm_log, ring = AlarmLog(), {("shift", "3"): "by 0.7 standard deviations"}
    with structlog.testing.capture_logs() as logs:
        for now in (ring, ring, {}, {}):
            alarm_log.update(now)
    assert [(line["log_level"], line["event"], line["name"], line["partition"]) for line in logs] == [
        ("warning", "alarm", "shift", "3"),
        ("info", "alarm_over", "shift", "3"),
    ]
