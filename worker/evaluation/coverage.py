"""Whether off-policy intervals cover the truth, on logs made from rows whose every answer is known. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.estimation.features import Float64
from worker.estimation.history import History
from worker.estimation.neighbours import exact_nearest
from worker.evaluation.off_policy import MOST_UNSUPPORTED, Log, quality_scores, read_log, support
from worker.evaluation.old_policies import OLD_POLICIES, OldPolicy, answered_by, drawn, probabilities
from worker.evaluation.study import Finding, Study

DRAWS = 100
LOG_ROWS = 4_000
SHORTER_SHARE = 0.6
COST_WEIGHT = 0.3
ROUTER_ROWS, ROUTER_NEIGHBOURS = 800, 32
# One small model for all draws: what a model misses, the estimate corrects.
PENALTIES, LANDMARKS = ((30.0,), (300.0,)), 96

Rows = NDArray[np.int64]


class _Drawn(NamedTuple):
    """One target policy on one log: whether its interval covers the truth, and what the log says of its support."""

    covered: bool
    half_width: float
    told: bool
    flagged: bool


def off_policy(study: Study) -> Finding:
    """Whether intervals of a policy's worth, from a log with one answer a row, cover the truth."""
    rows: list[tuple[str, ...]] = []
    for name, policy, history in _worlds(study.history):
        likely = probabilities(history, policy, np.random.default_rng(study.all_seeds[0]))
        targets = target_policies(history)
        for known in (True, False):
            study.listener(f"{name}, probabilities {'known' if known else 'guessed'}")
            found = list(_draws(history, likely, known, targets, study.plan.test or LOG_ROWS))
            rows.extend(_row(name, known, target, [draw[target] for draw in found]) for target in targets)
    columns = ("old policy", "probabilities", "target", "flagged", "covered", "half width", "told", "covered if told")
    return Finding(f"intervals of a policy's quality from {DRAWS} logs; 95 % should cover the truth", columns, rows)


def _worlds(history: History) -> Iterator[tuple[str, OldPolicy, History]]:
    """The old policies on all LLMs; and `default` on three, because few LLMs leave enough answers of each."""
    for policy in OLD_POLICIES:
        yield policy, policy, history
    if len(history.llms) > len(three := _three(history)):
        yield "default, 3 LLMs", "default", history.columns(three)


def _three(history: History) -> list[int]:
    """The best LLM, that with the most quality for its cost, and the next best."""
    quality, cost = history.quality.mean(axis=0), history.cost_micros.mean(axis=0)
    best, cheap = int(quality.argmax()), int((quality / np.maximum(cost, 1.0)).argmax())
    others = [int(llm) for llm in np.argsort(-quality) if llm not in {best, cheap}]
    return [best, cheap, others[0] if others else cheap]


def target_policies(history: History) -> Mapping[str, Rows]:
    """The LLM of each row under three policies: all to one; the shorter rows to a cheap LLM; the best for its cost."""
    best, cheap, other = _three(history)
    shorter = history.input_tokens <= np.quantile(history.input_tokens, SHORTER_SHARE)
    cost = history.cost_micros.mean(axis=0)
    return {
        "all to one": np.full(len(history.ids), other),
        "two tiers": np.where(shorter, cheap, best),
        "router": (_taught(history) - COST_WEIGHT * cost / cost.max()).argmax(axis=1),
    }


def _taught(history: History) -> Float64:
    """Quality [n, M] by the rows of a sample that are nearest: what a router may have learned elsewhere."""
    some = np.random.default_rng(0).permutation(len(history.ids))[:ROUTER_ROWS]
    _, near = exact_nearest(history.embeddings[some], history.embeddings, min(ROUTER_NEIGHBOURS, len(some)))
    mean: Float64 = history.quality[some][near].mean(axis=1)
    return mean


def _draws(
    history: History, likely: Float64, known: bool, targets: Mapping[str, Rows], size: int
) -> Iterator[dict[str, _Drawn]]:
    """Each log that the old policy may have left, and what is estimated from it of each target."""
    truth = {name: float(history.quality[np.arange(len(llm)), llm].mean()) for name, llm in targets.items()}
    for draw in range(DRAWS):
        generator = np.random.default_rng(draw)
        rows = generator.integers(0, len(history.ids), size)
        part = answered_by(history.rows(rows), drawn(likely[rows], generator))
        log = read_log(replace(part, likely=likely[rows] if known else None), draw, PENALTIES, LANDMARKS)
        yield {name: _judged(log, llm[rows], truth[name]) for name, llm in targets.items()}


def _judged(log: Log, choice: Rows, truth: float) -> _Drawn:
    found, says = quality_scores(log, choice).mean, support(log, choice)
    return _Drawn(found.covers(truth), found.half_width, says.untold is None, says.unsupported > MOST_UNSUPPORTED)


def _row(policy: str, known: bool, target: str, draws: list[_Drawn]) -> tuple[str, ...]:
    told = [draw.covered for draw in draws if draw.told]
    return (
        policy,
        "known" if known else "guessed",
        target,
        f"{sum(draw.flagged for draw in draws)} of {len(draws)}",
        f"{np.mean([draw.covered for draw in draws]):.0%}",
        f"{np.mean([draw.half_width for draw in draws]):.3f}",
        f"{len(told)} of {len(draws)}",
        f"{np.mean(told):.0%}" if told else "-",
    )
