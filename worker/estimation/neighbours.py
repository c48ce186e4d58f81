"""The nearest rows of history, the same on every machine: equally similar rows come in the order of their numbers.

Some rows of history have equal embeddings, for example if their prompts share a long beginning and the embedder reads
no further. A search that stops after k rows must then choose among equal rows. FAISS chooses by the instructions of the
processor, so the same history gave other figures on another machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from worker.estimation.features import Float32, Float64

Rows = NDArray[np.int64]

BLOCK_ROWS = 256
# A product of unit vectors in single precision is wrong by less than this, whatever the order of its sum.
SINGLE_ERROR = np.float32(1e-4)
# The order of a sum moves a product in double precision by 1e-15. Rounded to these steps, equal products are equal.
SIMILARITY_STEPS = float(2**40)
NO_ROW, NO_SIMILARITY = -1, -1.0

Similarity = TypeVar("Similarity", Float32, Float64)


@dataclass(frozen=True)
class EqualRows:
    """The rows of history, grouped by equal embedding.

    Groups are numbered by their first row. `rows` int64 [n] holds the row numbers group by group, each group
    ascending; group g is `rows[starts[g]:starts[g + 1]]`, and `starts` int64 [groups + 1].
    """

    rows: Rows
    starts: Rows

    @classmethod
    def of(cls, embeddings: Float32) -> EqualRows:
        """Group the rows of embeddings [n, d] whose bytes are equal."""
        groups: dict[bytes, list[int]] = {}
        for row, embedding in enumerate(embeddings):
            groups.setdefault(embedding.tobytes(), []).append(row)
        sizes = [len(group) for group in groups.values()]
        rows = [row for group in groups.values() for row in group]
        return cls(np.array(rows, dtype=np.int64), np.cumsum([0, *sizes], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def first(self) -> Rows:
        """The first row of each group, int64 [groups]."""
        return self.rows[self.starts[:-1]]

    def nearest(self, similarity: Float32, groups: Rows, k: int) -> tuple[Float32, Rows]:
        """The k nearest rows of the nearest groups [n, j], best first -> similarities and row numbers [n, k].

        A missing group is NO_ROW. If the groups hold fewer than k rows, the missing rows are NO_ROW.
        """
        ties = bool((similarity[:, 1:] == similarity[:, :-1]).any())
        if groups.shape[1] == k and not ties and (self.sizes(groups) == 1).all():
            return similarity, self.rows[self.starts[groups]]
        query, place = np.nonzero(groups >= 0)
        found = self.expanded(query, similarity[query, place], groups[query, place], k)
        return _first_rows(*(_sorted(*found) if ties else found), (len(groups), k))

    def sizes(self, groups: Rows) -> Rows:
        """How many rows each group holds; a missing group holds none."""
        return np.where(groups < 0, 0, self.starts[groups + 1] - self.starts[groups])

    def expanded(self, query: Rows, similarity: Similarity, groups: Rows, k: int) -> tuple[Rows, Similarity, Rows]:
        """Groups [c] found for these queries [c] -> their rows, at most k rows of each group."""
        sizes = np.minimum(self.sizes(groups), k)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows = self.rows[np.repeat(self.starts[groups], sizes) + within]
        return np.repeat(query, sizes), np.repeat(similarity, sizes), rows


def _sorted(query: Rows, similarity: Similarity, rows: Rows) -> tuple[Rows, Similarity, Rows]:
    order = np.lexsort((rows, -similarity, query))
    return query[order], similarity[order], rows[order]


def _first_rows(query: Rows, similarity: Similarity, rows: Rows, shape: tuple[int, int]) -> tuple[Similarity, Rows]:
    """Rows [c] in order, query by query -> the first k similarities and rows of each query, of `shape` [n, k]."""
    found = np.bincount(query, minlength=shape[0])
    place = np.arange(len(query)) - np.repeat(np.cumsum(found) - found, found)
    kept = place < shape[1]
    near, table = np.full(shape, NO_SIMILARITY, similarity.dtype), np.full(shape, NO_ROW)
    near[query[kept], place[kept]] = similarity[kept]
    table[query[kept], place[kept]] = rows[kept]
    return near, table


def exact_nearest(embeddings: Float32, asked: Float32, k: int) -> tuple[Float32, Rows]:
    """The k rows of embeddings [n, d] most similar to each of asked [q, d], by exact search; all are unit vectors.

    Returns similarities float32 and row numbers int64, [q, k] each, best first.
    """
    equal = EqualRows.of(embeddings)
    distinct = embeddings[equal.first]
    blocks = [asked[start : start + BLOCK_ROWS] for start in range(0, len(asked), BLOCK_ROWS)]
    similarity, rows = zip(*(_nearest_of_block(equal, distinct, block, k) for block in blocks), strict=True)
    return np.concatenate(similarity).astype(np.float32), np.concatenate(rows)


def _nearest_of_block(equal: EqualRows, distinct: Float32, asked: Float32, k: int) -> tuple[Float64, Rows]:
    """Single precision finds every group that may be among the k nearest; double precision puts them in order."""
    rough = asked @ distinct.T
    at = len(distinct) - min(k, len(distinct))
    least = np.partition(rough, at, axis=1)[:, at, None]
    query, group = np.nonzero(rough >= least - 2 * SINGLE_ERROR)
    products = np.einsum("cd,cd->c", asked[query].astype(np.float64), distinct[group].astype(np.float64))
    similarity = np.rint(products * SIMILARITY_STEPS) / SIMILARITY_STEPS
    return _first_rows(*_sorted(*equal.expanded(query, similarity, group, k)), (len(asked), k))
