"""Runs the seeds of a simulated world, and finds a short run that fails as a long one does: steps are deleted, and the
run is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

SECONDS = 60.0


class Numbered(Protocol):
    """A step of a run."""

    @property
    def number(self) -> int: ...


AnyStep = TypeVar("AnyStep", bound=Numbered)
AnyParts = TypeVar("AnyParts")
AnyWorld = TypeVar("AnyWorld")


@dataclass(frozen=True)
class Simulator(Generic[AnyParts, AnyStep, AnyWorld]):
    """How the seeds of one world are run. `simulate(seed, parts, steps, tell)` runs all steps of `plan(seed)`, or some,
    and raises what goes wrong. `sound` are its parts without a planted bug, `counts` says what happened in a run, and
    `again` is the command that runs a seed."""

    plan: Callable[[int], list[AnyStep]]
    simulate: Callable[..., AnyWorld]
    sound: AnyParts
    counts: Callable[[AnyWorld], dict[str, int]]
    again: str

    def failure_of(
        self, seed: int, parts: AnyParts | None = None, steps: Sequence[AnyStep] | None = None
    ) -> Exception | None:
        """The error of a run; None if every invariant held."""
        try:
            self.simulate(seed, self.sound if parts is None else parts, steps)
        except Exception as error:
            return error
        return None

    def shrink(self, seed: int, parts: AnyParts | None = None, seconds: float = SECONDS) -> list[AnyStep]:
        """The steps that are left of a failing seed after `seconds`, or when no single step can be deleted.

        A shorter run counts if its error is of the same class.
        """
        steps = self.plan(seed)
        kind = type(self.failure_of(seed, parts, steps))
        return shortest(steps, lambda fewer: type(self.failure_of(seed, parts, fewer)) is kind, seconds)

    def story(self, seed: int, parts: AnyParts | None = None, steps: Sequence[AnyStep] | None = None) -> str:
        """One line for each step of a run, and its error at the end."""
        lines: list[str] = []
        try:
            self.simulate(seed, self.sound if parts is None else parts, steps, lines.append)
        except Exception as error:
            lines.append(f"{type(error).__name__}: {error}")
        return "\n".join(lines)

    def report(self, seed: int, parts: AnyParts | None = None, seconds: float = SECONDS) -> str:
        """The short run of a failing seed, step by step, and the command that runs it again."""
        steps = self.shrink(seed, parts, seconds)
        numbers = ",".join(str(step.number) for step in steps)
        return f"{self.story(seed, parts, steps)}\nagain: {self.again} SEED={seed} STEPS={numbers}"

    def describe(self, seed: int) -> str:
        """Run one seed; what happened in it."""
        counts = self.counts(self.simulate(seed, self.sound))
        return f"seed {seed}: {', '.join(f'{count} {name}' for name, count in counts.items())}; every invariant held"


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
