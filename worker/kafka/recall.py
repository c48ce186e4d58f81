"""Reads queries again by their offset, for dispatches that are attempted once more.

The query stays in its topic and not in the ledger: a reservation row is a tenth of a query, and retries are rare.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.kafka import clients

# Reading through a gap this small is cheaper than another read.
GAP_RECORDS = 500


class Recall:
    """Safe to call from several threads, one read at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()

    def fetch(self, partition: int, offsets: Iterable[int]) -> dict[int, StoredRecord]:
        """The queries at these offsets; those that have left the topic are missing. Raises CheckBroker."""
        wanted = sorted(set(offsets))
        found: dict[int, StoredRecord] = {}
        with self._lock:
            for run in _runs(wanted):
                topic = self._settings.topics.queries
                for record in clients.read_partition(self._settings, topic, partition, run[0], run[-1] + 1):
                    if record.offset in run:
                        found[record.offset] = record
        return found


def _runs(offsets: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for offset in offsets:
        if runs and offset - runs[-1][-1] <= GAP_RECORDS:
            runs[-1].append(offset)
        else:
            runs.append([offset])
    return runs
