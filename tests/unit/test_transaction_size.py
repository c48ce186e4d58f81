"""How many inputs one transaction takes."""

from __future__ import annotations

from worker.service.transaction_size import MOST_BYTES, MOST_INPUTS, TransactionSize

SECONDS = 2.0


def taken(size: TransactionSize, waiting: int = 10_000, each_bytes: int = 100) -> int:
    """Of so many waiting inputs."""
    return size.take([each_bytes] * waiting)


def test_a_lane_begins_with_one_input_and_doubles() -> None:
    """If the process before it died of a record, that record is soon alone."""
    size, seen = TransactionSize(SECONDS), []
    for _ in range(14):
        seen.append(taken(size))
        size.committed(seen[-1], 0.01)
    assert seen == [min(2**step, MOST_INPUTS) for step in range(14)]


def test_an_aborted_transaction_is_halved_down_to_one() -> None:
    """And grows again."""
    size = TransactionSize(SECONDS)
    for _ in range(5):
        size.committed(taken(size), 0.01)
    seen = []
    for _ in range(7):
        seen.append(taken(size))
        size.failed(seen[-1])
    assert seen == [32, 16, 8, 4, 2, 1, 1]
    size.committed(1, 0.01)
    assert taken(size) == 2


def test_a_slow_transaction_is_followed_by_a_smaller_one() -> None:
    """A quota of the broker shows as time."""
    size = TransactionSize(SECONDS)
    for _ in range(5):
        size.committed(taken(size), 0.01)
    size.committed(32, SECONDS + 0.1)
    assert taken(size) == 16


def test_small_batches_do_not_let_it_grow() -> None:
    """What was never tried is not known to fit."""
    size = TransactionSize(SECONDS)
    for _ in range(100):
        size.committed(taken(size, waiting=3), 0.01)
    assert taken(size) == 4


def test_bytes_bound_it_too() -> None:
    """But one input is always taken, however large."""
    size = TransactionSize(SECONDS)
    for _ in range(12):
        size.committed(taken(size), 0.01)
    assert taken(size, each_bytes=MOST_BYTES // 10) == 10
    assert taken(size, each_bytes=2 * MOST_BYTES) == 1
