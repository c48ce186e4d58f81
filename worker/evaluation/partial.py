"""What is lost by learning from logs with one answer a row, against rows that every LLM answered. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worker.evaluation.old_policies import OLD_POLICIES, OldPolicy, answered_by, drawn, probabilities
from worker.evaluation.scenario import Plan, Scenario, assembled, budgets, built, divide
from worker.evaluation.simulate import online, play_paper
from worker.evaluation.study import Finding, Study


def partial(study: Study) -> Finding:
    """Quality learned from logs with one answer a row, against as many answers in rows that every LLM answered."""
    found: dict[OldPolicy, list[tuple[float, int]]] = {policy: [] for policy in OLD_POLICIES}
    for seed in study.all_seeds:
        for policy, ratio, fewest in _of_seed(study, seed):
            found[policy].append((ratio, fewest))
    rows = []
    for policy, several in found.items():
        relative = np.array([ratio for ratio, _ in several])
        rows.append(
            (
                policy,
                f"{relative.mean():.3f}",
                f"{standard_error(relative):.3f}",
                f"{relative.min():.3f}",
                f"{np.mean([fewest for _, fewest in several]):,.0f}",
            )
        )
    title = f"quality of priced, relative to full rows with as many answers; {study.seeds} seeds"
    return Finding(title, ("old policy", "relative quality", "standard error", "worst seed", "fewest answers"), rows)


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean of independent values; nan for one value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _of_seed(study: Study, seed: int) -> Iterator[tuple[OldPolicy, float, int]]:
    """Each old policy, the quality that its log gives relative to full rows, and the fewest answers of an LLM."""
    past, live = divide(study.history, study.plan.test, seed)
    study.listener(f"seed {seed}: learning from full rows")
    few = past.rows(np.arange(len(past.ids) // len(past.llms)))
    scenario = assembled(built(few, seed, study.neighbours), few, live, Plan(), seed)
    granted = budgets(past, live, study.plan, seed, scenario.estimator.prior)
    scenario = replace(scenario, plan=study.plan, budget_micros=granted)
    full = _quality(scenario)
    for policy in OLD_POLICIES:
        study.listener(f"seed {seed}: learning from the log of {policy}")
        generator = np.random.default_rng(seed)
        log = answered_by(past, drawn(probabilities(past, policy, generator), generator))
        estimator = built(log, seed, study.neighbours)
        estimates = estimator.estimate(live.embeddings, live.input_tokens)
        routed = _quality(replace(scenario, estimator=estimator, estimates=estimates))
        yield policy, routed / full, int((~np.isnan(log.quality)).sum(axis=0).min())


def _quality(scenario: Scenario) -> float:
    return float(play_paper(scenario, online(scenario, "priced", scenario.estimates)).quality.sum())
