"""Kinds of queries are found in history, and every machine counts them alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.contract.kinds import KindCounts, Kinds
from worker.core.forecast import Forecast, ordered, still_to_come, trusted, weights
from worker.estimation.clusters import MOST_KINDS, ROWS_PER_KIND, Clusters, find_kinds
from worker.estimation.features import Float64

LLMS = 3


def two_kinds(rows: int, seed: int = 1) -> tuple[Float64, Float64]:
    """Estimates [rows, LLMS] of easy and cheap queries, then of as many hard and dear ones."""
    generator = np.random.default_rng(seed)
    hard = np.repeat([0.0, 1.0], rows // 2)[:, None]
    noise = generator.normal(0, 0.01, (rows, LLMS))
    return np.clip(0.9 - 0.7 * hard + noise, 0, 1), 1_000.0 + 9_000.0 * hard + 10 * generator.random((rows, LLMS))


def test_different_queries_are_of_different_kinds() -> None:
    """No kind has rows of both halves."""
    quality, cost = two_kinds(400)
    kinds = Clusters(find_kinds(quality, cost, 7)).of(quality, cost)
    assert not set(kinds[:200]) & set(kinds[200:])


@pytest.mark.parametrize(("rows", "kinds"), [(1, 1), (ROWS_PER_KIND, 1), (3 * ROWS_PER_KIND, 3), (5_000, MOST_KINDS)])
def test_few_rows_have_few_kinds(rows: int, kinds: int) -> None:
    """A kind needs rows enough to say how often it comes."""
    quality, cost = (table[:rows] for table in two_kinds(2 * rows))
    assert len(find_kinds(quality, cost, 7).centres) == kinds


def test_one_query_is_counted_as_in_a_batch() -> None:
    """A lane counts query by query, and an audit may count many at once."""
    quality, cost = two_kinds(500)
    clusters = Clusters(find_kinds(quality, cost, 7))
    alone = [int(clusters.of(q[None, :], c[None, :])[0]) for q, c in zip(quality, cost, strict=True)]
    assert alone == clusters.of(quality, cost).tolist()


def test_an_llm_without_history_changes_no_kind() -> None:
    """Its columns come last."""
    quality, cost = two_kinds(500)
    clusters = Clusters(find_kinds(quality, cost, 7))
    more = np.ones((500, 1))
    assert (clusters.of(np.hstack([quality, more]), np.hstack([cost, more])) == clusters.of(quality, cost)).all()


HISTORY = Kinds(((0.2, 0.2), (0.5, 0.2), (0.9, 0.2)), (0.001,), (0.5, 0.3, 0.2), 1_000)


@pytest.mark.parametrize(
    ("name", "seen", "horizon", "trust", "shares"),
    [
        ("nothing came yet", (0, 0, 0), 1_000, 1.0, (0.5, 0.3, 0.2)),
        ("one kind came first, and will not come again", (500, 0, 0), 1_000, 1.0, (0.0, 0.6, 0.4)),
        ("as in history", (250, 150, 100), 1_000, 1.0, (0.5, 0.3, 0.2)),
        ("no trust: as before", (700, 0, 0), 1_000, 0.0, (0.85, 0.09, 0.06)),
        ("nobody knows how many come: as before", (700, 0, 0), 0, 1.0, (0.85, 0.09, 0.06)),
        ("more came than were expected: as in history", (5_000, 3_000, 2_000), 1_000, 1.0, (0.5, 0.3, 0.2)),
    ],
)
def test_what_is_still_to_come(
    name: str, seen: tuple[int, ...], horizon: int, trust: float, shares: tuple[float, ...]
) -> None:
    """By what history has and what has come."""
    assert still_to_come(HISTORY, seen, horizon, trust) == pytest.approx(shares, abs=2e-3), name


@pytest.mark.parametrize(
    ("seen", "trust"),
    [
        ((0, 0, 0), 1.0),
        ((500, 0, 0), 1.0),
        # 500 and chance for 1.5 * sqrt(500 * 2) = 47 more.
        ((547, 0, 0), 1.0),
        ((553, 0, 0), pytest.approx(0.49, abs=0.01)),
        ((600, 0, 0), 0.0),
    ],
)
def test_trust_goes_with_what_history_does_not_have(seen: tuple[int, ...], trust: float) -> None:
    """Up to what chance explains, it is whole."""
    assert trusted(HISTORY, seen, 1_000) == trust


@given(st.lists(st.integers(0, 10_000), min_size=3, max_size=3), st.integers(0, 20_000), st.floats(0, 1))
def test_shares_are_shares(seen: list[int], horizon: int, trust: float) -> None:
    """They are 1 in sum, and each is above 0, whatever came: no query is priced as if its kind did not exist."""
    shares = still_to_come(HISTORY, seen, horizon, trust)
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) > 0


def test_rows_weigh_as_much_as_their_kind() -> None:
    """Ten rows of one kind and one of another share the weights as the kinds do."""
    kinds = np.array([0] * 10 + [1])
    found = weights([0.25, 0.75], kinds)
    assert found[:10].sum() == pytest.approx(0.25)
    assert found[10] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("seen", "order"),
    [
        ((0, 0, 0), 0.0),
        ((1, 0, 0), 0.0),
        ((250, 150, 100), 0.0),
        # A quarter of the queries are of another kind than history says: far beyond chance.
        ((500, 0, 0), pytest.approx(0.988, abs=0.001)),
        ((0, 0, 500), pytest.approx(0.997, abs=0.001)),
    ],
)
def test_an_order_is_what_chance_does_not_make(seen: tuple[int, ...], order: float) -> None:
    """Queries that come as history has them have no order."""
    assert ordered(HISTORY, seen) == order


@pytest.mark.parametrize("seed", range(5))
def test_random_arrivals_are_priced_as_before(seed: int) -> None:
    """At no time does chance look like an order: the rest of a mixture is noise then."""
    drawn = np.random.default_rng(seed).choice(3, 1_000, p=HISTORY.shares)
    counts = np.cumsum(np.eye(3, dtype=int)[drawn], axis=0)[99::100]
    assert max(ordered(HISTORY, tuple(seen)) for seen in counts.tolist()) < 0.7


def test_trust_does_not_come_back() -> None:
    """What came too often was no accident, however many others come later."""
    forecast = Forecast(HISTORY, np.empty((0, 1)), np.empty((0, 1)))
    forecast.seen = KindCounts((600, 0, 0))
    forecast.seen = forecast.look(1_000)
    assert forecast.seen.trust == 0.0
    forecast.seen = KindCounts((600, 600, 600), forecast.seen.trust)
    assert forecast.look(10_000).trust == 0.0


def test_a_query_is_counted_once() -> None:
    """By the centre that is nearest to its estimates."""
    forecast = Forecast(HISTORY, np.empty((0, 1)), np.empty((0, 1)))
    assert [forecast.count([quality], [200.0]) for quality in (0.1, 0.45, 1.0, 0.8)] == [0, 1, 2, 2]
    assert forecast.seen == KindCounts((1, 1, 2))
