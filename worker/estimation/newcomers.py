"""LLMs without history: they start from the estimates of another LLM, at their own prices. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from msgspec import structs

from worker.estimation.estimator import Copied, Estimator
from worker.estimation.manifest import Manifest, Newcomer, sealed


class Like(NamedTuple):
    """The LLM of the index that a newcomer is like, and how many times its cost the newcomer's is."""

    llm: str
    cost_factor: float


def manifest_with(manifest: Manifest, likes: Mapping[str, Like]) -> Manifest:
    """The manifest with LLMs that history lacks, after its own in the order of their names.

    A newcomer has no rows, and the margin of the LLM that it is like. The hash covers it, so a replay knows whether its
    newcomers are those of then.
    """
    if not likes:
        return manifest
    added = sorted(likes)
    places = [manifest.llms.index(likes[name].llm) for name in added]
    return sealed(
        structs.replace(
            manifest,
            llms=(*manifest.llms, *added),
            llm_rows=(*manifest.llm_rows, *(0 for _ in added)),
            margins=(*manifest.margins, *(manifest.margins[place] for place in places)),
            newcomers=tuple(Newcomer(name, *likes[name]) for name in added),
        )
    )


def with_newcomers(estimator: Estimator, likes: Mapping[str, Like]) -> Estimator:
    """The estimator with these LLMs too. Each is estimated as the LLM that it is like, times its cost factor."""
    if not likes:
        return estimator
    known = estimator.manifest.llms
    copied = tuple(Copied(known.index(likes[name].llm), likes[name].cost_factor) for name in sorted(likes))
    return replace(
        estimator,
        manifest=manifest_with(estimator.manifest, likes),
        prior=estimator.prior.with_copies(copied),
        copied=copied,
    )
