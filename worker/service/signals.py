"""Signals that end no process of ours. Called by commands that run on."""

from __future__ import annotations

import signal
from typing import Any

import structlog

log = structlog.get_logger()

# By default each of them kills. Faust would open a debugger at SIGUSR2, and print all stacks at SIGUSR1.
IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def ignore() -> None:
    """From here on, the process logs these signals and goes on."""
    for number in IGNORED:
        signal.signal(number, _ignored)


def _ignored(number: int, _: Any) -> None:
    log.info("signal_ignored", signal=signal.Signals(number).name, remedy="settings are read at start: restart")
