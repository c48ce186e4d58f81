"""Finds a short run that fails as a long one does: steps are deleted, and the run is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.simulation.world import SOUND, Parts, Step, plan, simulate

SECONDS = 60.0

AnyStep = TypeVar("AnyStep")


def failure_of(seed: int, parts: Parts = SOUND, steps: Sequence[Step] | None = None) -> Exception | None:
    """The error of a run; None if every invariant held."""
    try:
        simulate(seed, parts, steps)
    except Exception as error:
        return error
    return None


def shrink(seed: int, parts: Parts = SOUND, seconds: float = SECONDS) -> list[Step]:
    """The steps that are left of a failing seed after `seconds`, or when no single step can be deleted.

    A shorter run counts if its error is of the same class.
    """
    steps = plan(seed)
    kind = type(failure_of(seed, parts, steps))
    return shortest(steps, lambda fewer: type(failure_of(seed, parts, fewer)) is kind, seconds)


def shortest(steps: Sequence[AnyStep], fails: Callable[[Sequence[AnyStep]], bool], seconds: float) -> list[AnyStep]:
    """The steps that still fail after others were deleted for `seconds`, or until no single step can be deleted."""
    kept, end = list(steps), time.monotonic() + seconds
    size = len(kept) // 2
    while size >= 1:
        before = len(kept)
        start = 0
        while start < len(kept) and time.monotonic() < end:
            fewer = kept[:start] + kept[start + size :]
            if fails(fewer):
                kept = fewer
            else:
                start += size
        # Single steps are tried again as long as one could be deleted.
        size = size // 2 if size > 1 else int(len(kept) < before and time.monotonic() < end)
    return kept


def story(seed: int, parts: Parts = SOUND, steps: Sequence[Step] | None = None) -> str:
    """One line for each step of a run, and its error at the end."""
    lines: list[str] = []
    try:
        simulate(seed, parts, steps, lines.append)
    except Exception as error:
        lines.append(f"{type(error).__name__}: {error}")
    return "\n".join(lines)


def report(seed: int, parts: Parts = SOUND, seconds: float = SECONDS) -> str:
    """The short run of a failing seed, step by step, and the command that runs it again."""
    steps = shrink(seed, parts, seconds)
    numbers = ",".join(str(step.number) for step in steps)
    return f"{story(seed, parts, steps)}\nagain: make simulate SEED={seed} STEPS={numbers}"
