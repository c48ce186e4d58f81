"""The nearest rows of history where many rows are equally near: those of the lowest numbers, on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.quality.instances import history
from worker.estimation import index, neighbours
from worker.estimation.estimator import Estimator
from worker.estimation.features import Float32
from worker.estimation.history import normalised
from worker.estimation.neighbours import NO_ROW, EqualRows, exact_nearest

# Coordinates of 0 and 1 alone: rows repeat, and different rows are equally similar.
CORNERS = normalised(np.random.default_rng(0).integers(0, 2, (300, 6)).astype(np.float32) + np.eye(6)[0])


def by_hand(embeddings: Float32, asked: Float32, k: int) -> list[list[int]]:
    """The k nearest rows of each, sorted by falling similarity and then by row number."""
    similarity = (asked.astype(float) @ embeddings.T.astype(float)).round(9)
    return [np.lexsort((np.arange(len(embeddings)), -row))[:k].tolist() for row in similarity]


def test_equal_rows_are_grouped_in_order() -> None:
    """Groups are numbered by their first row, and each lists its rows in their order."""
    a, b, c = np.eye(3, dtype=np.float32)
    found = EqualRows.of(np.stack([b, a, b, c, a, b]))
    assert found.rows.tolist() == [0, 2, 5, 1, 4, 3]
    assert found.starts.tolist() == [0, 3, 5, 6]
    assert found.first.tolist() == [0, 1, 3]


def test_rows_that_look_equal_are_grouped() -> None:
    """Rows are compared as `seen_as` changes them."""
    rows = np.array([[1.1, 2.0], [0.9, 2.1], [3.0, 0.0]], dtype=np.float32)
    assert EqualRows.of(rows, np.rint).first.tolist() == [0, 2]


@pytest.mark.parametrize("k", [1, 5, 40, 300])
def test_history_in_blocks_gives_the_same_rows(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a block has fewer rows than are asked for."""
    groups = EqualRows.of(CORNERS)
    monkeypatch.setattr(neighbours, "HISTORY_ROWS", 17)
    blocks = EqualRows.of(CORNERS)
    assert (blocks.rows.tolist(), blocks.starts.tolist()) == (groups.rows.tolist(), groups.starts.tolist())
    assert exact_nearest(CORNERS, CORNERS[:50], k)[1].tolist() == by_hand(CORNERS, CORNERS[:50], k)


@pytest.mark.parametrize("k", [1, 5, 40, 300])
def test_exact_search_breaks_ties_by_row_number(k: int) -> None:
    """Among equally similar rows the lowest numbers come first, also where the list is cut."""
    similarity, rows = exact_nearest(CORNERS, CORNERS[:50], k)
    assert rows.tolist() == by_hand(CORNERS, CORNERS[:50], k)
    assert similarity == pytest.approx((CORNERS[:50, None] * CORNERS[rows]).sum(axis=2), abs=1e-6)


CASES = {
    "a group that is cut": ([[0, 1]], [[0.9, 0.5]], 2, [[0, 2]]),
    "a group that is not": ([[1, 2, 0]], [[0.9, 0.6, 0.5]], 4, [[1, 4, 3, 0]]),
    "two groups equally near": ([[1, 0]], [[0.9, 0.9]], 4, [[0, 1, 2, 4]]),
    "too few rows": ([[2, NO_ROW]], [[0.9, -9.0]], 2, [[3, NO_ROW]]),
    "one query of two": ([[2, 1], [2, 0]], [[0.9, 0.8], [0.9, 0.8]], 2, [[3, 1], [3, 0]]),
}


@pytest.mark.parametrize(("groups", "similarity", "k", "expected"), CASES.values(), ids=CASES)
def test_groups_become_rows(groups: list[list[int]], similarity: list[list[float]], k: int, expected: object) -> None:
    """Groups {0, 2, 5}, {1, 4} and {3}: each is replaced by its rows, and ties follow the row numbers."""
    a, b, c = np.eye(3, dtype=np.float32)
    equal = EqualRows.of(np.stack([b, a, b, c, a, b]))
    _, rows = equal.nearest(np.array(similarity, dtype=np.float32), np.array(groups), k)
    assert rows.tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_the_order_in_which_equals_are_found_does_not_matter(seed: int) -> None:
    """A search may list equally similar groups in any order: the same rows follow."""
    equal, random = EqualRows.of(CORNERS), np.random.default_rng(seed)
    groups = np.arange(len(equal))[None, :]
    similarity = np.round(CORNERS[:1] @ CORNERS[equal.first].T, 5)
    found = []
    for _ in range(2):
        shuffled = random.permutation(len(equal))
        order = shuffled[np.argsort(-similarity[0, shuffled], kind="stable")]
        found.append(equal.nearest(similarity[:, order], groups[:, order], 40)[1].tolist())
    assert found[0] == found[1], "another order of equals gave other rows"


def test_the_order_of_the_queries_does_not_matter() -> None:
    """Equal queries in shuffled order: each finds the rows that it finds in the order of history."""
    order = np.random.default_rng(0).permutation(len(CORNERS))
    _, rows = exact_nearest(CORNERS, CORNERS, 20)
    _, shuffled = exact_nearest(CORNERS, CORNERS[order], 20)
    assert shuffled.tolist() == rows[order].tolist()


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Estimator:
    """An index of a history that holds every embedding several times."""
    place = tmp_path_factory.mktemp("index") / "index"
    index.build(replace(history(300, seed=1), embeddings=CORNERS), place, "supplied", neighbours=20)
    return index.load(place)


def test_the_graph_breaks_ties_by_row_number(estimator: Estimator) -> None:
    """The estimator finds the same rows through the graph as exact search: no row is lost among equals."""
    _, rows = estimator.search(CORNERS[:50])
    assert rows.tolist() == by_hand(CORNERS, CORNERS[:50], 20)


def test_one_query_alone_finds_the_same_rows(estimator: Estimator) -> None:
    """A query finds the same rows alone and in a batch, whether the batch has ties or not."""
    mixed = np.concatenate([CORNERS[:10], normalised(np.random.default_rng(1).normal(size=(10, 6)).astype(np.float32))])
    alone = np.concatenate([estimator.search(query[None])[1] for query in mixed])
    assert alone.tolist() == estimator.search(mixed)[1].tolist()


PROGRAM = """
import numpy as np
from worker.estimation.history import normalised
from worker.estimation.neighbours import exact_nearest
rows = np.random.default_rng(0).normal(size=(400, 384)).astype(np.float16).astype(np.float32)
rows[100:300] = rows[0]
rows = normalised(rows)
print(exact_nearest(rows, rows, 5)[1].tolist())
"""
OLD_PROCESSOR = {
    "OPENBLAS_CORETYPE": "Prescott",
    "FAISS_OPT_LEVEL": "generic",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512_SKX",
}


def nearest_rows_with(environment: dict[str, str]) -> str:
    """The nearest rows that a process with these variables finds among 200 equal ones."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout


def test_the_rows_are_the_same_on_every_processor() -> None:
    """The libraries, told to use the instructions of a processor of 2004, find the same rows as on this processor."""
    assert nearest_rows_with(OLD_PROCESSOR) == nearest_rows_with({})
