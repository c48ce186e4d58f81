"""The manifest of an index: how it was built, how well it estimates, and the hashes of its files."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import msgspec
from msgspec import UNSET, Struct, UnsetType

from worker.contract.kinds import Kinds

FORMAT = 4


# Told while an index is built: the name of the step, and how many of its parts are done, of how many.
Step = Callable[[str, int, int], None]


def silent(step: str, done: int, parts: int) -> None:
    """A Step that says nothing."""


class Parameters(Struct, frozen=True):
    """Everything chosen at build, by leave-one-out and cross-fitting on history alone.

    `neighbours` weigh exp(similarity / temperature). `links`, `build_effort`, `search_effort` are HNSW's M,
    efConstruction and efSearch. The kernel is exp((similarity - 1) / kernel_width) to each of `landmarks` rows, its
    ridges are per row of history. Ridges and shrinkages [M] belong to principal components of the LLMs, the least
    first. A shrinkage times the neighbours' residuals is added to the ridge's prediction.

    An LLM that did not answer every row is no part of a component: its ridge is that of its contrast to the other LLMs,
    and `common_ridge` holds those of the common part, of quality and of log cost. It is absent if there is no such LLM.
    """

    neighbours: int
    temperature: float
    links: int
    build_effort: int
    search_effort: int
    landmarks: int
    kernel_width: float
    quality_ridge: tuple[float, ...]
    cost_ridge: tuple[float, ...]
    quality_shrinkage: tuple[float, ...]
    cost_shrinkage: tuple[float, ...]
    seed: int
    common_ridge: tuple[float, float] | UnsetType = UNSET


class Errors(Struct, frozen=True):
    """Root mean square errors on held-out rows of history, means over LLMs: of quality, and of log cost.

    `*_mean`: predicting each LLM's mean; `*_neighbours`: neighbours alone; `*`: the estimator as built. `recall` is
    the share of the true nearest neighbours that the graph finds. `by_llm` lists (quality, log cost) per LLM, and
    `means_by_llm` the same of predicting its mean.
    """

    quality_mean: float
    quality_neighbours: float
    quality: float
    log_cost_mean: float
    log_cost_neighbours: float
    log_cost: float
    recall: float
    by_llm: tuple[tuple[float, float], ...]
    means_by_llm: tuple[tuple[float, float], ...] = ()


class Newcomer(Struct, frozen=True):
    """An LLM without history, the LLM that it is like, and how many times the cost of that one its cost is."""

    llm: str
    like: str
    cost_factor: float


class Manifest(Struct, frozen=True):
    """manifest.json of an index. `index` is the hash of all the rest, and so of every file in `files`.

    `llm_rows` [M] counts the rows each LLM was seen on. `margins` [M] times an estimated cost is a reservation that
    covers nine of ten true costs. `similarity_quantiles` are the 0, 1, 5, 25, 50 and 75 % quantiles of the similarity
    of history rows to their nearest other row: below the 5 % one, a query lies outside history.

    `newcomers` are LLMs that the settings add to an index in memory, absent if there are none and in every file. An
    index that an older version built has no `kinds` of queries: then nothing is forecast.
    """

    format: int
    embedder: str
    dimension: int
    llms: tuple[str, ...]
    rows: int
    llm_rows: tuple[int, ...]
    parameters: Parameters
    errors: Errors
    margins: tuple[float, ...]
    similarity_quantiles: tuple[float, ...]
    files: dict[str, str]
    index: str = ""
    newcomers: tuple[Newcomer, ...] | UnsetType = UNSET
    kinds: Kinds | UnsetType = UNSET


def encode(manifest: Manifest) -> bytes:
    """Canonical JSON: the same manifest is the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2)


def decode(data: bytes) -> Manifest:
    """The manifest in `data`. Raises msgspec.DecodeError when it is none."""
    return msgspec.json.decode(data, type=Manifest)


def overall_hash(manifest: Manifest) -> str:
    """sha256 over the manifest without its own `index` field."""
    return sha256(encode(msgspec.structs.replace(manifest, index=""))).hexdigest()


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with its `index` hash filled in."""
    return msgspec.structs.replace(manifest, index=overall_hash(manifest))
