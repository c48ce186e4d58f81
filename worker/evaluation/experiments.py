"""Every experiment of `tollgate evaluate --experiment`, by name. Their first lines are its help."""

from __future__ import annotations

from collections.abc import Callable

from worker.evaluation.coverage import off_policy
from worker.evaluation.diagnostics import additions, conditioning, estimator, optimisation, similarity
from worker.evaluation.many_budgets import many_budgets
from worker.evaluation.partial import partial
from worker.evaluation.price_sizes import price_sizes
from worker.evaluation.stress import failures, shift
from worker.evaluation.study import Finding, Study
from worker.evaluation.sweeps import (
    arrivals,
    budget,
    forecast,
    frontier,
    llms,
    observation,
    partitions,
    queries,
    resolve,
    splits,
)

EXPERIMENTS: dict[str, Callable[[Study], Finding]] = {
    "estimator": estimator,
    "additions": additions,
    "similarity": similarity,
    "optimisation": optimisation,
    "conditioning": conditioning,
    "frontier": frontier,
    "budget": budget,
    "arrivals": arrivals,
    "forecast": forecast,
    "queries": queries,
    "observation": observation,
    "resolve": resolve,
    "shift": shift,
    "failures": failures,
    "llms": llms,
    "splits": splits,
    "partitions": partitions,
    "partial": partial,
    "many_budgets": many_budgets,
    "price_sizes": price_sizes,
    "off_policy": off_policy,
}
