"""Experiments that look into the estimates and the prices themselves. Pure but for their timing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from worker.contract.messages import Fit
from worker.core import solver
from worker.core.draws import Draws
from worker.core.market import Market, market_of
from worker.core.window import Sample
from worker.estimation.estimator import Estimates
from worker.estimation.features import Float64
from worker.estimation.manifest import Manifest
from worker.evaluation.scenario import Scenario
from worker.evaluation.simulate import online, play_paper
from worker.evaluation.study import Finding, Point, Study, of_reference

BINS = 10
SAMPLES = (50, 100, 250, 500, 1000)
DRAWS = 10
NUDGES = (1e-9, 1e-6, 1e-3)
TIMED_ROWS = 500
DECILES = tuple(step / 20 for step in range(21))


def estimator(study: Study) -> Finding:
    """Estimates against held-out truth, LLM by LLM; the picture is the calibration of quality."""
    scenario = study.scenario(study.all_seeds[0])
    quality, cost, true = scenario.estimates.quality, _costs(scenario.estimates), scenario.live
    mean = np.nanmean(scenario.past.quality, axis=0)
    margins = np.array(scenario.estimator.manifest.margins)
    rows = [
        (
            llm,
            f"{true.quality[:, i].mean():.3f}",
            f"{quality[:, i].mean():.3f}",
            f"{_error(true.quality[:, i], mean[i]):.3f}",
            f"{_error(true.quality[:, i], quality[:, i]):.3f}",
            f"{true.cost_micros[:, i].mean():,.1f}",
            f"{cost[:, i].mean():,.1f}",
            f"{_error(np.log1p(true.cost_micros[:, i]), np.log1p(cost[:, i])):.3f}",
            f"{(true.cost_micros[:, i] <= np.ceil(cost[:, i] * margins[i])).mean():.1%}",
        )
        for i, llm in enumerate(true.llms)
    ]
    columns = ("LLM", "quality", "estimated", "error of mean", "error", "cost µ$", "estimated", "log error", "covered")
    lines = {
        "estimates": _calibration(quality.ravel(), true.quality.ravel()),
        "perfect": [Point(0.0, 0.0), Point(1.0, 1.0)],
    }
    title = "held-out estimates; error is root mean square, covered is the share of costs within the reservation"
    return Finding(title, columns, rows, lines, ("estimated quality", "true quality"))


def additions(study: Study) -> Finding:
    """What each part of the estimator adds to quality, and what it costs in microseconds a query."""
    parts: dict[str, Callable[[Scenario], tuple[Estimates, float]]] = {
        "means of 5 neighbours": lambda scenario: (scenario.plain, _search_us(scenario)),
        "ridge alone": lambda scenario: (scenario.ridge, _ridge_us(scenario)),
        "ridge + weighted neighbours": lambda scenario: (scenario.estimates, _whole_us(scenario)),
    }
    rows = []
    for name, of in parts.items():
        found = [(*of(scenario), scenario) for scenario in study.scenarios()]
        reached = [
            of_reference(study, scenario, online(scenario, "priced", estimates)) for estimates, _, scenario in found
        ]
        rows.append((name, f"{np.mean(reached):.1%}", f"{np.median([took for _, took, _ in found]):.0f}"))
    return Finding("priced on three kinds of estimates", ("estimates", "priced", "µs a query"), rows)


def _timed_us(scenario: Scenario, work: Callable[[NDArray[np.float32], Float64], object]) -> float:
    rows = np.arange(min(TIMED_ROWS, scenario.queries))
    embeddings, tokens = scenario.live.embeddings[rows], scenario.live.input_tokens[rows]
    work(embeddings, tokens)
    started = perf_counter()
    work(embeddings, tokens)
    return (perf_counter() - started) / len(rows) * 1e6


def _search_us(scenario: Scenario) -> float:
    return _timed_us(scenario, lambda embeddings, _: scenario.estimator.search(embeddings))


def _ridge_us(scenario: Scenario) -> float:
    return _timed_us(scenario, scenario.estimator.ridge)


def _whole_us(scenario: Scenario) -> float:
    return _timed_us(scenario, scenario.estimator.estimate)


def similarity(study: Study) -> Finding:
    """How like history the queries are, and how well the less alike are estimated; noise is like nothing."""
    scenario = study.scenario(study.all_seeds[0])
    manifest, near = scenario.estimator.manifest, scenario.estimates.similarity
    noise = np.random.default_rng(0).normal(size=(500, scenario.live.embeddings.shape[1])).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    drawn = scenario.estimator.estimate(noise, np.full(len(noise), np.nan))
    rows = [_band(scenario, name, rows) for name, rows in _bands(manifest, near)]
    spread = drawn.quality.std(axis=0).mean() / max(scenario.estimates.quality.std(axis=0).mean(), 1e-12)
    note = f"estimates vary {spread:.0%} as much as those of queries"
    rows.append(("noise", f"{len(noise):,}", f"{drawn.similarity.mean():.2f}", note, ""))
    lines = {
        "queries": [
            Point(float(value), share) for value, share in zip(np.quantile(near, DECILES), DECILES, strict=True)
        ]
    }
    columns = ("nearest row is", "queries", "mean similarity", "quality error", "log cost error")
    return Finding("similarity to history", columns, rows, lines, ("similarity to the nearest row", "share of queries"))


def _bands(manifest: Manifest, near: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    _, _, outside, low, _, high = manifest.similarity_quantiles
    edges = [("outside history", -2.0, outside), ("far", outside, low), ("usual", low, high), ("close", high, 2.0)]
    for name, least, most in edges:
        rows = np.flatnonzero((near >= least) & (near < most))
        if len(rows):
            yield name, rows


def _band(scenario: Scenario, name: str, rows: NDArray[np.int64]) -> tuple[str, ...]:
    estimates, true = scenario.estimates.rows(rows), scenario.live.rows(rows)
    cost = _error(np.log1p(true.cost_micros), np.log1p(_costs(estimates)))
    quality = _error(true.quality, estimates.quality)
    return name, f"{len(rows):,}", f"{estimates.similarity.mean():.2f}", f"{quality:.3f}", f"{cost:.3f}"


def optimisation(study: Study) -> Finding:
    """Whether the prices are found: certificates and spread by size of sample, then live; and a fit that fails."""
    scenario = study.scenario(study.all_seeds[0])
    rows, line = [], []
    for size in [size for size in SAMPLES if size <= len(scenario.estimator.prior.quality)]:
        fits = [_solved(scenario, size, draw) for draw in range(DRAWS)]
        found = np.array([price for price, _, _ in fits])
        spread = float(np.median(found.std(axis=0)[found.any(axis=0)] / found.mean(axis=0)[found.any(axis=0)]))
        line.append(Point(size, spread))
        rows.append(_fit_row(f"{DRAWS} samples of {size}", [fit for _, fit, _ in fits], [s for *_, s in fits], spread))
    live = play_paper(scenario, online(scenario, "priced", scenario.estimates))
    rows.append(_fit_row(f"live, {len(live.fits)} solutions", list(live.fits), [], None))
    rows.append(_fit_row("estimates that are no numbers", [_failed(scenario)], [], None))
    columns = ("prices solved on", "converged", "iterations", "dual objective", "gap", "slackness", "spread of prices")
    title = "the price solution; gap is between the dual objective and what routing by it reaches"
    return Finding(title, columns, rows, {"priced": line}, ("sample", "spread of prices"))


def conditioning(study: Study) -> Finding:
    """How far quality moves when every estimated cost is moved by a millionth, say: whether a fit can be relied on."""
    rows = [(f"{size:g}", _nudged(study, "port", size), _nudged(study, "priced", size)) for size in NUDGES]
    title = f"quality, and its deviation over {DRAWS} draws of estimates with costs moved by a share"
    return Finding(title, ("costs moved by", "port", "priced"), rows)


def _nudged(study: Study, policy: str, size: float) -> str:
    reached = np.array(
        [[_nudge(study, scenario, policy, size, draw) for draw in range(DRAWS)] for scenario in study.scenarios()]
    )
    return f"{reached.mean():.1%} ± {reached.std(axis=1).mean():.1%}"


def _nudge(study: Study, scenario: Scenario, policy: str, size: float, draw: int) -> float:
    estimates = scenario.exact if policy == "port" else scenario.estimates
    nudge = 1.0 + size * np.random.default_rng(draw).normal(size=estimates.cost_micros.shape)
    moved = replace(estimates, cost_micros=estimates.cost_micros * nudge)
    return of_reference(study, scenario, online(scenario, policy, moved))


def _fit_row(name: str, fits: list[Fit], slack: list[float], spread: float | None) -> tuple[str, ...]:
    converged = [fit for fit in fits if fit.status == "converged"]
    return (
        name,
        f"{len(converged)} of {len(fits)}",
        f"{np.median([fit.iterations for fit in fits]):.0f}",
        f"{np.mean([fit.objective for fit in converged]):.4f}" if converged else "",
        f"{np.mean([fit.gap for fit in converged]):.2%}" if converged else "prices kept",
        f"{np.mean(slack):.5f}" if slack else "",
        "" if spread is None else f"{spread:.1%}",
    )


def _solved(scenario: Scenario, size: int, draw: int) -> tuple[tuple[float, ...], Fit, float]:
    prior = scenario.estimator.prior
    rows = np.random.default_rng(draw).permutation(len(prior.quality))[:size]
    here = _market(scenario, prior.quality[rows], _costs(prior)[rows])
    found, fit = solver.solve(here, (0.0,) * len(scenario.live.llms))
    return found, fit, solver.certificate(here, solver.in_units(here, found)).slackness


def _failed(scenario: Scenario) -> Fit:
    prior = scenario.estimator.prior
    here = _market(scenario, np.full_like(prior.quality, np.nan), _costs(prior))
    return solver.solve(here, (1e-6,) * len(scenario.live.llms))[1]


def _market(scenario: Scenario, quality: Float64, cost_micros: Float64) -> Market:
    draws = Draws(scenario.configuration("priced"))
    return market_of(Sample.untagged(quality, cost_micros), draws, scenario.budget_micros / scenario.queries)


def _costs(estimates: Estimates) -> Float64:
    return estimates.cost_micros.astype(np.float64)


def _error(true: Float64, estimated: Float64 | float) -> float:
    return float(np.sqrt(np.mean((true - estimated) ** 2)))


def _calibration(estimated: Float64, true: Float64) -> list[Point]:
    """Mean estimate and mean truth in each tenth of the estimates."""
    order = np.argsort(estimated, kind="stable")
    tenths = [rows for rows in np.array_split(order, BINS) if len(rows)]
    return [Point(float(estimated[rows].mean()), float(true[rows].mean())) for rows in tenths]
