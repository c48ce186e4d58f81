"""Runs, tells and shrinks seeds of the world of the treasury, as `shrink` does those of lanes."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.shrink import SECONDS, shortest
from tests.simulation.treasury_world import SOUND, Actors, Step, plan, simulate

__all__ = ["describe", "failure_of", "plan", "report", "story"]


def failure_of(seed: int, actors: Actors = SOUND, steps: Sequence[Step] | None = None) -> Exception | None:
    """The error of a run; None if every invariant held."""
    try:
        simulate(seed, actors, steps)
    except Exception as error:
        return error
    return None


def shrink(seed: int, actors: Actors = SOUND, seconds: float = SECONDS) -> list[Step]:
    """The steps that are left of a failing seed. A shorter run counts if its error is of the same class."""
    steps = plan(seed)
    kind = type(failure_of(seed, actors, steps))
    return shortest(steps, lambda fewer: type(failure_of(seed, actors, fewer)) is kind, seconds)


def story(seed: int, actors: Actors = SOUND, steps: Sequence[Step] | None = None) -> str:
    """One line for each step of a run, and its error at the end."""
    lines: list[str] = []
    try:
        simulate(seed, actors, steps, lines.append)
    except Exception as error:
        lines.append(f"{type(error).__name__}: {error}")
    return "\n".join(lines)


def report(seed: int, actors: Actors = SOUND, seconds: float = SECONDS) -> str:
    """The short run of a failing seed, step by step, and the command that runs it again."""
    steps = shrink(seed, actors, seconds)
    numbers = ",".join(str(step.number) for step in steps)
    return f"{story(seed, actors, steps)}\nagain: make simulate WORLD=treasury SEED={seed} STEPS={numbers}"


def describe(seed: int) -> str:
    """Run one seed; what happened in it."""
    world = simulate(seed)
    counts = {
        "lanes": world.count,
        "queries": sum(map(len, world.arrivals)),
        "reports": sum(map(len, world.asks)),
        "messages of the treasury": sum(map(len, world.grants)),
        "control records": len(world.control),
    }
    return f"seed {seed}: {', '.join(f'{count} {name}' for name, count in counts.items())}; every invariant held"
