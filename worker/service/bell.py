"""Says once when an alarm comes into force and once when it is over."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from worker.core.alarms import MEANINGS

log = structlog.get_logger()


class Bell:
    """Remembers what it has told."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def ring(self, alarms: Mapping[tuple[str, str], str]) -> None:
        """Log what is new among the alarms in force, (name, partition) -> detail, and what is no longer."""
        for name, partition in alarms.keys() - self._told:
            detail = alarms[name, partition]
            log.warning("alarm", name=name, partition=partition, detail=detail, meaning=MEANINGS[name])
        for name, partition in self._told - alarms.keys():
            log.info("alarm_over", name=name, partition=partition)
        self._told = set(alarms)
