"""The nearest rows of history, the same on every machine: equally similar rows come in the order of their numbers.

Some rows of history have equal embeddings, for example if their prompts share a long beginning and the embedder reads
no further. A search that stops after k rows must then choose among equal rows. FAISS chooses by the instructions of the
processor, so the same history gave other figures on another machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from worker.estimation.features import Float32, Float64

Rows = NDArray[np.int64]

BLOCK_ROWS = 256
# So many distinct rows of history are compared with a block at once: the products take 20 MB.
HISTORY_ROWS = 20_000
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
    def of(cls, embeddings: Float32, seen_as: Callable[[Float32], NDArray[Any]] = np.asarray) -> EqualRows:
        """Group the rows of embeddings [n, d] whose bytes are equal, after `seen_as` has changed each block of rows.

        Bytes are compared by a hash of 128 bits, so that a million rows need 16 MB.
        """
        high, low = _hashes(embeddings, seen_as)
        # Stable: equal rows stay in the order of their numbers.
        order = np.lexsort((low, high))
        begins = np.ones(len(order), dtype=bool)
        begins[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
        starts = np.flatnonzero(begins)
        by_first_row = np.argsort(order[starts])
        sizes = np.diff(starts, append=len(order))[by_first_row]
        ends = np.cumsum(sizes)
        places = np.arange(len(order)) + np.repeat(starts[by_first_row] - (ends - sizes), sizes)
        return cls(order[places], np.concatenate([[0], ends]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def first(self) -> Rows:
        """The first row of each group, int64 [groups]."""
        return self.rows[self.starts[:-1]]

    def distinct(self, embeddings: Float32, start: int, stop: int) -> Float32:
        """The embeddings of the groups from `start` to `stop`, [groups, d]. It copies only if rows are equal."""
        if len(self) == len(embeddings):
            return embeddings[start:stop]
        return embeddings[self.first[start:stop]]

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


def _hashes(embeddings: Float32, seen_as: Callable[[Float32], NDArray[Any]]) -> NDArray[np.uint64]:
    """A hash of each row as two integers, uint64 [2, n]."""
    hashes = bytearray()
    for start in range(0, len(embeddings), HISTORY_ROWS):
        block = np.ascontiguousarray(seen_as(embeddings[start : start + HISTORY_ROWS]))
        hashes += b"".join(blake2b(row, digest_size=16).digest() for row in block)
    return np.ascontiguousarray(np.frombuffer(hashes, np.uint64).reshape(-1, 2).T)


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


def exact_nearest(embeddings: Float32, asked: Float32, k: int, equal: EqualRows | None = None) -> tuple[Float32, Rows]:
    """The k rows of embeddings [n, d] most similar to each of asked [q, d], by exact search; all are unit vectors.

    `equal` groups the rows, if that is known already. Returns similarities float32 and row numbers int64, [q, k] each,
    best first.
    """
    equal = EqualRows.of(embeddings) if equal is None else equal
    blocks = [asked[start : start + BLOCK_ROWS] for start in range(0, len(asked), BLOCK_ROWS)]
    similarity, rows = zip(*(_nearest_of_block(embeddings, equal, block, k) for block in blocks), strict=True)
    return np.concatenate(similarity).astype(np.float32), np.concatenate(rows)


def _nearest_of_block(embeddings: Float32, equal: EqualRows, asked: Float32, k: int) -> tuple[Float64, Rows]:
    """Single precision finds every group that may be among the k nearest; double precision puts them in order."""
    query, group = _candidates(embeddings, equal, asked, k)
    distinct = embeddings[equal.first[group]]
    products = np.einsum("cd,cd->c", asked[query].astype(np.float64), distinct.astype(np.float64))
    similarity = np.rint(products * SIMILARITY_STEPS) / SIMILARITY_STEPS
    return _first_rows(*_sorted(*equal.expanded(query, similarity, group, k)), (len(asked), k))


def _candidates(embeddings: Float32, equal: EqualRows, asked: Float32, k: int) -> tuple[Rows, Rows]:
    """Pairs of a query and a group that may be among its k nearest: in single precision, within the error of the k-th.

    History is read in blocks. `least` is the k-th best product of each query so far.
    """
    found = _Found(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    least = np.full(len(asked), -np.inf, np.float32)
    for start in range(0, len(equal), HISTORY_ROWS):
        rough = asked @ equal.distinct(embeddings, start, start + HISTORY_ROWS).T
        if start == 0:
            at = rough.shape[1] - min(k, rough.shape[1])
            least = np.partition(rough, at, axis=1)[:, at]
        query, group = np.nonzero(rough >= (least - 2 * SINGLE_ERROR)[:, None])
        found = found.joined(_Found(query, group + start, rough[query, group])).by_query()
        least = found.least(len(asked), k)
        found = found.where(found.product >= least[found.query] - 2 * SINGLE_ERROR)
    return found.query, found.group


@dataclass(frozen=True)
class _Found:
    """Products of queries and groups, [c] each."""

    query: Rows
    group: Rows
    product: Float32

    def joined(self, other: _Found) -> _Found:
        query, group = np.concatenate([self.query, other.query]), np.concatenate([self.group, other.group])
        return _Found(query, group, np.concatenate([self.product, other.product]))

    def where(self, which: NDArray[Any]) -> _Found:
        return _Found(self.query[which], self.group[which], self.product[which])

    def by_query(self) -> _Found:
        """Query by query, the best product first."""
        return self.where(np.lexsort((-self.product, self.query)))

    def least(self, queries: int, k: int) -> Float32:
        """The k-th best product of each query, [queries]; minus infinity if there are fewer than k."""
        counts = np.bincount(self.query, minlength=queries)
        places = np.minimum(np.cumsum(counts) - counts + k - 1, len(self.product) - 1)
        least: Float32 = np.where(counts < k, -np.inf, self.product[places]).astype(np.float32)
        return least
