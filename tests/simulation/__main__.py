"""Run one seed again, step by step, or many seeds."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from tests.simulation.quiet import quiet_log
from tests.simulation.shrink import Simulator
from tests.simulation.worlds import WORLDS

# So many failing seeds are shrunk; each may take a minute.
SHRUNK = 3


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


def one(simulator: Simulator[Any, Any, Any], seed: int, numbers: str | None) -> int:
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


def many(simulator: Simulator[Any, Any, Any], seeds: int) -> int:
    """Run seeds from 0. Shrink the first that fail, name the others, and count them."""
    failed, started = 0, time.monotonic()
    for seed in range(seeds):
        if (error := simulator.failure_of(seed)) is not None:
            failed += 1
            print(
                f"seed {seed}: {type(error).__name__}: {str(error)[:300]}  ({simulator.again} SEED={seed})", flush=True
            )
            if failed <= SHRUNK:
                print(simulator.report(seed), flush=True)
        if sys.stderr.isatty():
            print(f"\r{seed + 1} of {seeds}", end="", file=sys.stderr, flush=True)
    print(f"{seeds} seeds, {failed} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
