"""Run one seed again, step by step, or many seeds."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.simulation import shrink, treasury_shrink
from tests.simulation.quiet import quiet_log
from tests.simulation.world import plan, simulate

# So many failing seeds are shrunk; each may take a minute.
SHRUNK = 3


class Simulator(NamedTuple):
    """How the seeds of one world are run."""

    plan: Callable[[int], list[Any]]
    failure_of: Callable[..., Exception | None]
    story: Callable[..., str]
    report: Callable[[int], str]
    describe: Callable[[int], str]


def main() -> int:
    """Run the seeds asked for; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="this seed alone; a failing run is printed step by step")
    parser.add_argument("--steps", help="only these steps of the seed, for example 3,17,40")
    parser.add_argument("--seeds", type=int, default=2_000, help="this many seeds from 0")
    parser.add_argument("--world", choices=list(WORLDS), default="lanes", help="lanes on a log, or the treasury")
    chosen = parser.parse_args()
    simulator = WORLDS[chosen.world]
    with quiet_log():
        if chosen.seed is None:
            return many(simulator, chosen.seeds)
        return one(simulator, chosen.seed, chosen.steps)


def one(simulator: Simulator, seed: int, numbers: str | None) -> int:
    """Run one seed, or some of its steps. Print what happened in it; if it failed, every step."""
    steps = simulator.plan(seed)
    if numbers:
        kept = {int(number) for number in numbers.split(",")}
        steps = [step for step in steps if step.number in kept]
    if simulator.failure_of(seed, steps=steps) is None and not numbers:
        print(simulator.describe(seed))
        return 0
    print(simulator.story(seed, steps=steps))
    return int(simulator.failure_of(seed, steps=steps) is not None)


def many(simulator: Simulator, seeds: int) -> int:
    """Run seeds from 0. Shrink the first that fail, name the others, and count them."""
    failed, started = 0, time.monotonic()
    for seed in range(seeds):
        if (error := simulator.failure_of(seed)) is not None:
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}  (make simulate SEED={seed})", flush=True)
            if failed <= SHRUNK:
                print(simulator.report(seed), flush=True)
        if sys.stderr.isatty():
            print(f"\r{seed + 1} of {seeds}", end="", file=sys.stderr, flush=True)
    print(f"{seeds} seeds, {failed} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


def describe(seed: int) -> str:
    """Run one seed; what happened in it."""
    world = simulate(seed)
    books = world.auditor.books
    counts = {
        "partitions": world.partitions,
        "processes": len(world.processes),
        "queries": len(world.traffic.committed),
        "dispatches": sum(book.dispatches for book in books),
        "closed": sum(len(book.closed) for book in books),
        "transactions": sum(book.sequence for book in books),
    }
    return f"seed {seed}: {', '.join(f'{count} {name}' for name, count in counts.items())}; every invariant held"


WORLDS = {
    "lanes": Simulator(plan, shrink.failure_of, shrink.story, shrink.report, describe),
    "treasury": Simulator(
        treasury_shrink.plan,
        treasury_shrink.failure_of,
        treasury_shrink.story,
        treasury_shrink.report,
        treasury_shrink.describe,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
