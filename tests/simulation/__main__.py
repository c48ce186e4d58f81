"""`python -m tests.simulation [--seed N | --seeds N]`: run one seed again, or many."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.quiet import quiet_log
from tests.simulation.world import simulate


def main() -> int:
    """Run the seeds asked for; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="this seed alone, with the traceback of its failure")
    parser.add_argument("--seeds", type=int, default=2_000, help="so many seeds from 0")
    chosen = parser.parse_args()
    with quiet_log():
        if chosen.seed is not None:
            print(describe(chosen.seed))
            return 0
        return many(chosen.seeds)


def many(seeds: int) -> int:
    """Run seeds from 0, name those that fail and count them."""
    failed, started = 0, time.monotonic()
    for seed in range(seeds):
        try:
            simulate(seed)
        except Exception as error:
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}  (make simulate SEED={seed})", flush=True)
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


if __name__ == "__main__":
    sys.exit(main())
