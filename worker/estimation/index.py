"""The files of an index: built once from history, then read only. A directory with manifest.json and what it names.

It is written under a temporary name beside its place and renamed, so a directory is whole or absent. Loading checks
every hash. Nothing is unpickled.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import faiss
import msgspec
import numpy as np
from msgspec import UNSET

from worker.contract.errors import FixSetting
from worker.estimation.calibration import Fitted, fit
from worker.estimation.clusters import find_kinds
from worker.estimation.embedder import DIMENSIONS
from worker.estimation.estimator import Estimates, Estimator
from worker.estimation.features import Float32, Float64, LinearMap
from worker.estimation.history import History, normalised
from worker.estimation.manifest import (
    FORMAT,
    Errors,
    Manifest,
    Parameters,
    Step,
    decode,
    encode,
    overall_hash,
    sealed,
    silent,
)
from worker.estimation.neighbours import EqualRows, exact_nearest

LINKS = 32
BUILD_EFFORT = 160
SEARCH_EFFORTS = (64, 96, 128, 192, 256, 512)
# As many rows as are added to the graph between two reports of the progress, at most.
ADD_ROWS = 20_000
RECALL = 0.98
RECALL_ROWS = 300
TIE = 1e-6
FEWEST_ROWS = 10
# Held-out errors of an estimate that knows nothing lie about this much above those of the mean.
WORSE = 1.01
MANIFEST = "manifest.json"
GRAPH = "graph.faiss"
IDS = "ids.json"


def build(
    history: History,
    directory: Path,
    embedder: str,
    neighbours: int | None = None,
    seed: int = 0,
    step: Step = silent,
) -> Manifest:
    """Calibrate on `history`, build the graph with one thread and write the index to `directory`, which must be new.

    `embedder` names what made the embeddings. `neighbours` fixes k; None chooses it. The same history, embedder,
    neighbours and seed give the same index hash. Raises FixSetting for a history too small, embeddings that are not the
    embedder's, or a directory that exists or cannot be made.
    """
    if directory.exists():
        raise FixSetting(f"{directory}: already exists; an index is never overwritten, name a new directory")
    _check_history(history, neighbours)
    _check_embedder(history, embedder)
    _make_parent(directory)
    equal_rows = EqualRows.of(history.embeddings)
    fitted = fit(history, equal_rows, neighbours, seed, step)
    llm_rows = _llm_rows(history)
    # The scores and costs of a million rows take 176 MB, if the caller does not hold them. The graph needs the room.
    nothing = np.empty((0, 0))
    history = replace(history, quality=nothing, cost_micros=nothing)
    graph, recall = make_graph(history.embeddings, equal_rows, fitted.shrinkage.neighbours, step)
    step("writing", 0, len(history.ids))
    with tempfile.TemporaryDirectory(prefix=".index-", dir=directory.parent) as place:
        work = Path(place) / "index"
        work.mkdir()
        _write_files(work, history, fitted, graph, equal_rows)
        manifest = sealed(_manifest(work, history, llm_rows, fitted, graph, embedder, recall, seed))
        (work / MANIFEST).write_bytes(encode(manifest))
        work.rename(directory)
    return manifest


def _check_history(history: History, neighbours: int | None) -> None:
    if len(history.ids) < FEWEST_ROWS:
        raise FixSetting(f"history: {len(history.ids)} rows are too few to calibrate on; give at least {FEWEST_ROWS}")
    unseen = [llm for llm, seen in zip(history.llms, _llm_rows(history), strict=True) if seen == 0]
    if unseen:
        raise FixSetting(f"history: no row has a score and a cost of {', '.join(unseen)}; add rows or leave it out")
    if neighbours is not None and not 1 <= neighbours < len(history.ids):
        raise FixSetting(f"neighbours: {neighbours} is not in 1..{len(history.ids) - 1}")


def doubts(manifest: Manifest) -> list[str]:
    """What to know of an index before routing by it: LLMs with few rows, and estimates that are worse than means."""
    found = [
        f"{llm}: only {seen} rows; its estimates are mostly those of the other LLMs, at its own level"
        for llm, seen in zip(manifest.llms, manifest.llm_rows, strict=True)
        if seen < FEWEST_ROWS
    ]
    columns = zip(manifest.llms, manifest.llm_rows, manifest.errors.by_llm, manifest.errors.means_by_llm, strict=False)
    for llm, seen, built, mean in columns:
        for what, error, of_mean in zip(("quality", "log cost"), built, mean, strict=True):
            if seen >= FEWEST_ROWS and error > WORSE * of_mean:
                found.append(
                    f"{llm}: estimates of {what} are worse than its mean (error {error:.4f}, of the mean "
                    f"{of_mean:.4f}); the prompts do not tell its answers apart, or the rows are too few"
                )
    return found


def _check_embedder(history: History, embedder: str) -> None:
    dimension = history.embeddings.shape[1]
    if (own := DIMENSIONS.get(embedder, dimension)) != dimension:
        raise FixSetting(
            f"embedder: {embedder} makes {own} dimensions, the embeddings have {dimension}; give its own, or "
            "--embedder supplied"
        )


def _make_parent(directory: Path) -> None:
    """Make what `directory` is to lie in. Checked before the work whose result it is to hold."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FixSetting(f"{directory}: cannot be made: {error.strerror}") from error
    if not os.access(directory.parent, os.W_OK | os.X_OK):
        raise FixSetting(f"{directory.parent}: cannot be written; change its permissions, or name another directory")


def _llm_rows(history: History) -> tuple[int, ...]:
    known = ~np.isnan(history.quality) & ~np.isnan(history.cost_micros)
    return tuple(int(seen) for seen in known.sum(axis=0))


def make_graph(embeddings: Float32, equal: EqualRows, k: int, step: Step = silent) -> tuple[Any, float]:
    """An HNSW graph over the distinct ones of embeddings [n, d] by inner product, searched as widely as RECALL of the
    true k needs.

    Built with one thread: several give another graph each time. Returns the graph and the recall reached.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        graph = faiss.IndexHNSWFlat(embeddings.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = BUILD_EFFORT
        block = _block_rows(len(equal))
        for start in range(0, len(equal), block):
            step("building the graph", start, len(equal))
            graph.add(equal.distinct(embeddings, start, start + block))
        step("checking the graph", 0, len(equal))
        return graph, _widen(graph, embeddings, equal, k)
    finally:
        faiss.omp_set_num_threads(threads)


def _block_rows(rows: int) -> int:
    """How many rows are added to the graph at once. FAISS doubles its memory when it is full; if the last block fills
    it, no memory is left over."""
    blocks = 1
    while rows > blocks * ADD_ROWS:
        blocks *= 2
    return -(-rows // blocks)


def _widen(graph: Any, embeddings: Float32, equal: EqualRows, k: int) -> float:
    """Sets the least search effort that finds RECALL of the k nearest; returns the recall.

    Asked with rows moved towards their k-th neighbour: a row itself stands in the graph and is found too easily.
    """
    distinct = EqualRows(equal.first, np.arange(len(equal) + 1))
    k = min(k, len(equal))
    spread = embeddings[equal.first[:: max(1, len(equal) // RECALL_ROWS)]]
    _, around = exact_nearest(embeddings, spread, k, distinct)
    asked = normalised(spread + embeddings[around[:, -1]])
    true, _ = exact_nearest(embeddings, asked, k, distinct)
    recall = 0.0
    for effort in SEARCH_EFFORTS:
        graph.hnsw.efSearch = max(effort, k)
        found, _ = graph.search(asked, k)
        recall = float((found >= true[:, -1:] - TIE).mean())
        if recall >= RECALL:
            break
    return recall


def _write_files(work: Path, history: History, fitted: Fitted, graph: Any, equal_rows: EqualRows) -> None:
    try:
        faiss.write_index(graph, str(work / GRAPH))
    except RuntimeError as error:
        # FAISS names its own source, and neither the disk nor the file.
        raise FixSetting(f"{work / GRAPH}: cannot be written ({error}); free some space, or name another") from error
    (work / IDS).write_bytes(msgspec.json.encode(history.ids))
    ridge, prior = fitted.predictor.map, fitted.prior
    arrays = {
        "group_rows": equal_rows.rows,
        "group_starts": equal_rows.starts,
        "landmarks": ridge.landmarks,
        "weights": ridge.weights,
        "scales": ridge.scales,
        "plain": ridge.plain,
        "tokens": np.array([ridge.token_mean, ridge.token_spread, ridge.token_base, ridge.token_most]),
        "residuals": fitted.residuals,
        "cost_bias": fitted.cost_bias,
        "prior_quality": prior.quality,
        "prior_cost_micros": prior.cost_micros,
        "prior_similarity": prior.similarity,
    }
    for name, values in arrays.items():
        np.save(work / f"{name}.npy", np.ascontiguousarray(values), allow_pickle=False)


def _manifest(
    work: Path,
    history: History,
    llm_rows: tuple[int, ...],
    fitted: Fitted,
    graph: Any,
    embedder: str,
    recall: float,
    seed: int,
) -> Manifest:
    return Manifest(
        format=FORMAT,
        embedder=embedder,
        dimension=history.embeddings.shape[1],
        llms=history.llms,
        rows=len(history.ids),
        llm_rows=llm_rows,
        parameters=_parameters(fitted, graph, seed),
        errors=_errors(fitted, recall),
        margins=fitted.margins,
        similarity_quantiles=fitted.similarity_quantiles,
        files={file.name: _digest(file) for file in sorted(work.iterdir())},
        kinds=find_kinds(fitted.prior.quality, fitted.prior.cost_micros, seed),
    )


def _parameters(fitted: Fitted, graph: Any, seed: int) -> Parameters:
    llms = len(fitted.cost_bias)
    return Parameters(
        neighbours=fitted.shrinkage.neighbours,
        temperature=fitted.shrinkage.temperature,
        links=LINKS,
        build_effort=BUILD_EFFORT,
        search_effort=graph.hnsw.efSearch,
        landmarks=fitted.predictor.map.landmarks.shape[1],
        kernel_width=fitted.predictor.map.kernel_width,
        quality_ridge=tuple(float(ridge) for ridge in fitted.predictor.ridges[:llms]),
        cost_ridge=tuple(float(ridge) for ridge in fitted.predictor.ridges[llms:]),
        quality_shrinkage=tuple(float(share) for share in fitted.shrinkage.share[:llms]),
        cost_shrinkage=tuple(float(share) for share in fitted.shrinkage.share[llms:]),
        seed=seed,
        common_ridge=fitted.predictor.common_ridges or UNSET,
    )


def _errors(fitted: Fitted, recall: float) -> Errors:
    llms = len(fitted.cost_bias)
    quality = {name: round(float(error[:llms].mean()), 5) for name, error in fitted.errors.items()}
    cost = {name: round(float(error[llms:].mean()), 5) for name, error in fitted.errors.items()}
    built, mean = fitted.errors["built"].round(5), fitted.errors["mean"].round(5)
    return Errors(
        quality_mean=quality["mean"],
        quality_neighbours=quality["neighbours"],
        quality=quality["built"],
        log_cost_mean=cost["mean"],
        log_cost_neighbours=cost["neighbours"],
        log_cost=cost["built"],
        recall=round(recall, 4),
        by_llm=_by_llm(built, llms),
        means_by_llm=_by_llm(mean, llms),
    )


def _by_llm(errors: Float64, llms: int) -> tuple[tuple[float, float], ...]:
    return tuple((float(q), float(c)) for q, c in zip(errors[:llms], errors[llms:], strict=True))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, sha256).hexdigest()


def inspect(directory: Path) -> Manifest:
    """The manifest of an index, its own hash checked. Raises FixSetting."""
    file = directory / MANIFEST
    try:
        manifest = decode(file.read_bytes())
    except OSError as error:
        raise FixSetting(f"{file}: cannot be read ({error.strerror}); build it with `tollgate index build`") from error
    except msgspec.DecodeError as error:
        raise FixSetting(f"{file}: is no manifest ({error}); build the index again") from error
    if manifest.format != FORMAT:
        raise FixSetting(f"{file}: has format {manifest.format}, this version reads {FORMAT}; build the index again")
    if manifest.index != overall_hash(manifest):
        raise FixSetting(f"{file}: was changed after it was built; build the index again or restore the file")
    return manifest


def load(directory: Path) -> Estimator:
    """The estimator in `directory`, every file checked against the manifest. Raises FixSetting naming the file.

    Graph and arrays are mapped, not read: the workers of one host share their pages, and find the same, as fast. So
    the files must not change while a worker runs; `build` never writes to a directory that exists.
    """
    manifest = inspect(directory)
    for name, expected in manifest.files.items():
        _check_file(directory / name, expected)
    graph: Any = faiss.read_index(str(directory / GRAPH), faiss.IO_FLAG_MMAP_IFC)
    graph.hnsw.efSearch = manifest.parameters.search_effort
    ids = msgspec.json.decode((directory / IDS).read_bytes(), type=list[str])
    prior = Estimates(*(_array(directory, f"prior_{part}") for part in ("quality", "cost_micros", "similarity")))
    residuals, bias = _array(directory, "residuals"), _array(directory, "cost_bias")
    equal_rows = EqualRows(_array(directory, "group_rows"), _array(directory, "group_starts"))
    return Estimator(manifest, graph, equal_rows, ids, _ridge(directory, manifest), residuals, bias, prior)


def _check_file(file: Path, expected: str) -> None:
    if not file.is_file():
        raise FixSetting(f"{file}: is missing from the index; build the index again or restore the file")
    if _digest(file) != expected:
        raise FixSetting(f"{file}: does not have the hash in {MANIFEST}; build the index again or restore the file")


def _array(directory: Path, name: str) -> Any:
    # A plain array over the mapped pages: NumPy's own class for them makes every operation slower.
    return np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def _ridge(directory: Path, manifest: Manifest) -> LinearMap:
    mean, spread, base, most = (float(value) for value in _array(directory, "tokens"))
    arrays = [_array(directory, name) for name in ("landmarks", "weights", "scales", "plain")]
    landmarks, weights, scales, plain = arrays
    return LinearMap(landmarks, manifest.parameters.kernel_width, weights, scales, plain, mean, spread, base, most)
