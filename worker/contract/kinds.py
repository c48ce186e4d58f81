"""Kinds of queries, as frozen types of the wire contract: what a lane forecasts with."""

from __future__ import annotations

from msgspec import Struct


class Kinds(Struct, frozen=True):
    """K kinds of queries by the estimates of M LLMs, found in `rows` rows of history.

    `centres` [K, 2M] are over quality and scaled cost; `scale` [M] times micro-dollars is a cost that can be compared
    with quality. Of history, `shares` [K] were of each kind, 1 in sum.
    """

    centres: tuple[tuple[float, ...], ...]
    scale: tuple[float, ...]
    shares: tuple[float, ...]
    rows: int


class KindCounts(Struct, frozen=True):
    """How many queries came of each kind.

    `trust`, from 0 to 1, says how far it is still believed that all queries will be as in history; it only falls.
    `order`, from 0 to 1, says how much of their order was no chance; it only rises.
    """

    counts: tuple[int, ...]
    trust: float = 1.0
    order: float = 0.0
