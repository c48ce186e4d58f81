"""The index on disk: the same history is the same hash, and damage is refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.quality.instances import history, without_answers
from worker.contract.errors import FixSetting
from worker.estimation import index
from worker.estimation.history import History
from worker.estimation.manifest import FORMAT, Errors, Manifest, Parameters

FEW = history(60, seed=1)


def test_the_same_history_gives_the_same_hash(tmp_path: Path) -> None:
    """An index that is built again with the same seed has the same manifest, and so the same bytes in every file."""
    first, again = (index.build(FEW, tmp_path / name, "supplied") for name in ("first", "again"))
    assert again == first


@pytest.mark.parametrize(
    ("embedder", "neighbours", "seed"),
    [("other", None, 0), ("supplied", 5, 0), ("supplied", None, 1)],
    ids=["embedder", "neighbours", "seed"],
)
def test_anything_else_gives_another_hash(tmp_path: Path, embedder: str, neighbours: int | None, seed: int) -> None:
    """The hash covers everything that an estimate depends on."""
    first = index.build(FEW, tmp_path / "first", "supplied")
    other = index.build(FEW, tmp_path / "other", embedder, neighbours, seed)
    assert other.index != first.index


def flip(file: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["a flipped bit", "a missing file"])
@pytest.mark.parametrize(
    "name", ["graph.faiss", "ids.json", "weights.npy", "residuals.npy", "prior_quality.npy", "manifest.json"]
)
def test_a_damaged_index_is_refused_by_the_name_of_its_file(
    directory: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    """An index with one damaged or missing file is refused, and the error names the file."""
    copy = tmp_path / "index"
    shutil.copytree(directory, copy)
    damage(copy / name)
    with pytest.raises(FixSetting, match=name):
        index.load(copy)


def test_an_index_of_another_format_is_refused(directory: Path, tmp_path: Path) -> None:
    """The error names the format of the index and the format that this version reads."""
    copy = tmp_path / "index"
    shutil.copytree(directory, copy)
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"format": {FORMAT}', '"format": 1'))
    with pytest.raises(FixSetting, match=f"has format 1, this version reads {FORMAT}"):
        index.load(copy)


@pytest.mark.parametrize(
    ("given", "neighbours", "message"),
    [
        (history(9, seed=1), None, "9 rows are too few"),
        (without_answers(FEW, 2, rows=0), None, "no row has a score and a cost of writer"),
        (FEW, 60, "60 is not in 1..59"),
    ],
    ids=["few rows", "no row of one LLM", "more neighbours than rows"],
)
def test_a_history_that_cannot_be_learned_from_is_refused(
    given: History, neighbours: int | None, message: str, tmp_path: Path
) -> None:
    """The history is refused before anything is written."""
    with pytest.raises(FixSetting, match=message):
        index.build(given, tmp_path / "index", "supplied", neighbours)
    assert not (tmp_path / "index").exists()


def test_embeddings_of_another_embedder_are_refused(tmp_path: Path) -> None:
    """Embeddings whose dimension is not that of the embedder are refused: texts could not be compared with them."""
    with pytest.raises(FixSetting, match="wordllama makes 256 dimensions, the embeddings have 16"):
        index.build(FEW, tmp_path / "index", "wordllama")


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """The error names the directory."""
    (tmp_path / "file").touch()
    with pytest.raises(FixSetting, match="file/index: cannot be made: "):
        index.build(FEW, tmp_path / "file" / "index", "supplied")


@pytest.mark.parametrize("rows", [index.FEWEST_ROWS, 16, 17])
def test_the_smallest_histories_make_an_index(tmp_path: Path, rows: int) -> None:
    """If history has fewer rows than the usual k, all other rows are neighbours."""
    made = index.build(history(rows, seed=1), tmp_path / "index", "supplied")
    estimates = index.load(tmp_path / "index").estimate(FEW.embeddings, FEW.input_tokens)
    assert made.parameters.neighbours == min(rows - 1, 16)
    assert np.isfinite(estimates.quality).all(), estimates.quality


def test_an_index_is_never_overwritten(past: History, directory: Path) -> None:
    """`build` refuses to overwrite an index: a worker may have mapped it."""
    with pytest.raises(FixSetting, match="already exists"):
        index.build(past, directory, "supplied")


@pytest.fixture(scope="module")
def manifest(directory: Path) -> Manifest:
    """The manifest of the made-up index."""
    return index.inspect(directory)


def test_the_manifest_records_what_was_chosen(manifest: Manifest) -> None:
    """The manifest has the chosen parameters and the errors, one for each LLM where LLMs differ."""
    parameters = manifest.parameters
    assert parameters.neighbours in (16, 32, 64)
    assert 0.0 < parameters.temperature <= 0.5
    assert manifest.errors.recall > 0.97
    assert manifest.llm_rows == (400,) * 4
    for by_llm in (manifest.margins, manifest.errors.by_llm, parameters.quality_ridge, manifest.llms):
        assert len(by_llm) == 4, by_llm


def test_an_llm_that_few_rows_know_is_learned_from_them(tmp_path: Path) -> None:
    """The manifest counts the rows that know an LLM, and the LLM's estimates stay near its own mean."""
    gappy = without_answers(history(300, seed=1), 1, rows=30)
    index.build(gappy, tmp_path / "index", "supplied")
    estimator = index.load(tmp_path / "index")
    found = estimator.estimate(gappy.embeddings[100:200], gappy.input_tokens[100:200]).quality[:, 1].mean()
    assert estimator.manifest.llm_rows == (300, 30, 300, 300)
    assert found == pytest.approx(0.55, abs=0.2)


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_an_llm_with_very_few_rows_is_a_warning(rows: int, tmp_path: Path) -> None:
    """The index is built, the warning names the LLM, and its estimates are within their ranges."""
    gappy = without_answers(history(300, seed=1), 1, rows)
    doubts = index.doubts(index.build(gappy, tmp_path / "index", "supplied"))
    found = index.load(tmp_path / "index").estimate(gappy.embeddings, gappy.input_tokens)
    assert [doubt for doubt in doubts if doubt.startswith(f"coder: only {rows} ")] != [], doubts
    assert ((found.quality >= 0) & (found.quality <= 1)).all(), "a quality is outside of 0..1"
    assert found.cost_micros[:, 1].max() < 100 * np.nanmax(gappy.cost_micros[:, 1]), "a cost is far from every other"


def test_estimates_that_are_worse_than_means_are_said() -> None:
    """By LLM, for quality and for cost; estimates that are better are not named."""
    errors = Errors(0.4, 0.4, 0.4, 1.0, 1.0, 1.0, 1.0, ((0.5, 0.2), (0.3, 1.2)), ((0.4, 1.0), (0.4, 1.0)))
    parameters = Parameters(16, 0.1, 32, 160, 64, 16, 0.6, (), (), (), (), 0)
    manifest = Manifest(3, "supplied", 2, ("a", "b"), 50, (50, 50), parameters, errors, (), (), {})
    said = [doubt.split(" (")[0] for doubt in index.doubts(manifest)]
    assert said == [
        "a: estimates of quality are worse than its mean",
        "b: estimates of log cost are worse than its mean",
    ]


def test_a_graph_that_is_built_in_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Progress is told between blocks, and every row is found."""
    monkeypatch.setattr(index, "ADD_ROWS", 100)
    past, told = history(350, seed=1), list[tuple[str, int, int]]()
    index.build(past, tmp_path / "index", "supplied", step=lambda *step: told.append(step))
    _, rows = index.load(tmp_path / "index").nearest(past.embeddings, 1)
    assert [step for step in told if step[0] == "building the graph"] == [
        ("building the graph", done, 350) for done in (0, 88, 176, 264)
    ]
    assert rows[:, 0].tolist() == list(range(350))


ODD = {
    "equal embeddings": replace(FEW, embeddings=np.repeat(FEW.embeddings[:1], 60, axis=0)),
    "two embeddings": replace(FEW, embeddings=np.repeat(FEW.embeddings[:2], 30, axis=0)),
    "nobody ever right": replace(FEW, quality=np.zeros((60, 4))),
    "all free": replace(FEW, cost_micros=np.zeros((60, 4))),
    "tokens unknown": replace(FEW, input_tokens=np.full(60, np.nan)),
    "tokens all the same": replace(FEW, input_tokens=np.full(60, 100.0)),
    "one token known": replace(FEW, input_tokens=np.array([50.0] + [np.nan] * 59)),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_odd_histories_still_make_an_index(odd: History, tmp_path: Path) -> None:
    """Estimates are finite and in their ranges, whatever is constant, missing or equal in history."""
    index.build(odd, tmp_path / "index", "supplied")
    found = index.load(tmp_path / "index").estimate(FEW.embeddings, FEW.input_tokens)
    assert found.quality.min() >= 0
    assert found.quality.max() <= 1
    assert found.cost_micros.min() >= 0
    assert found.cost_micros.max() < 1e9


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel does not say what is mapped")
def test_workers_share_the_pages_of_an_index(directory: Path) -> None:
    """The graph and the arrays are mapped from their files, so workers share their pages."""
    estimator = index.load(directory)
    mapped = {Path(line.split()[-1]).name for line in Path("/proc/self/maps").read_text().splitlines()}
    assert estimator.manifest.rows > 0
    assert {"graph.faiss", "residuals.npy", "weights.npy"} - mapped == set(), "files that are not mapped"
