"""The treasury's seeds, and the proof that they find what they are there to find."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.simulation.auditor import Violation
from tests.simulation.treasury_planted import BUGS
from tests.simulation.treasury_world import TreasuryWorld, simulate
from tests.simulation.worlds import TREASURY
from worker.contract.codec import encode
from worker.contract.leases import decode_report
from worker.contract.treasury_records import ReportTaken, decode_treasury_decision
from worker.core.ledger import BrokenInvariant
from worker.treasury.replay import replay

SEEDS = 400
AT_ONCE = 40

# `make quick` runs the first forty.
BLOCKS = [pytest.param(first, marks=[pytest.mark.long] if first else []) for first in range(0, SEEDS, AT_ONCE)]


@pytest.mark.parametrize("first", BLOCKS)
def test_whatever_happens_every_invariant_holds(first: int) -> None:
    """Crashes at any step, lost owners, messages read twice, skewed clocks, ends of periods, control records, LLMs that
    fail in one lane: after every transaction the six invariants hold, and a restored actor decides as the old one.

    A failing seed is shrunk, and its steps are printed.
    """
    failing = [seed for seed in range(first, first + AT_ONCE) if TREASURY.failure_of(seed) is not None]
    assert failing == [], TREASURY.report(failing[0])


# How many seeds each bug gets: at least five times what it took when the simulator was written.
SELDOM = {
    "answer a recall before it comes": 110,
    "carry over without the overrun": 320,
    "deny without a recall": 110,
    "end scarcity while an ask waits": 40,
    "free into the open period": 40,
    "free what a late answer costs less": 120,
    "grant money to a dead lane": 110,
    "leave a lowered amount out": 70,
    "lose a recall": 30,
    "never answer a recall": 30,
    "never say that money is back": 100,
    "recall once, not as a mode": 180,
    "say it to one lane only": 130,
}
# These need a longer chain of events than chance brings. tests/unit/test_treasury_holes.py finds them.
BY_TRACES = {
    "give blocks while a lane is told dry",
    "remember a hopeless need",
    "try only later LLMs after a denial",
}
FOUND_WITHIN = {bug: SELDOM.get(bug, 20) for bug in BUGS if bug not in BY_TRACES}


def violates(seed: int, bug: str) -> bool:
    """Whether the bug breaks an invariant under this seed; to fail otherwise, as a typing error does, is not enough.

    The product's own assertions count: they stop a worker before it writes what is wrong.
    """
    return isinstance(TREASURY.failure_of(seed, BUGS[bug]), Violation | BrokenInvariant)


@pytest.mark.long
@pytest.mark.parametrize("bug", FOUND_WITHIN)
def test_a_planted_bug_is_found(bug: str) -> None:
    """Each bug breaks an invariant under at least one of the first seeds."""
    assert any(violates(seed, bug) for seed in range(FOUND_WITHIN[bug])), f"{bug}: not found"


@pytest.mark.long
def test_a_failing_seed_is_shrunk() -> None:
    """The steps that are left fail in the same way, and the report names each of them."""
    actors = BUGS["lose a recall"]
    seed = next(seed for seed in range(100) if TREASURY.failure_of(seed, actors) is not None)
    steps = TREASURY.shrink(seed, actors, seconds=300)
    assert isinstance(TREASURY.failure_of(seed, actors, steps), Violation)
    assert len(steps) < 60
    told = TREASURY.story(seed, actors, steps).splitlines()
    assert [int(line.split()[1]) for line in told if line.startswith("step")] == [step.number for step in steps]
    assert told[-1].startswith("Violation: ")


def replayed(world: TreasuryWorld, chain: list[bytes]) -> int | None:
    """Where a chain diverges from the records of a world; None: nowhere."""
    found = replay(chain, lambda lane, offset: world.asks[lane][offset][0], lambda offset: world.control[offset][0])
    return None if found is None else found.number


def test_a_replay_finds_what_was_changed() -> None:
    """A report that is not the one applied, a decision that is not the one made, and a chain that lost its middle
    diverge where they were changed."""
    world = simulate(3)
    chain = world.auditor.chain
    assert replayed(world, chain) is None
    number, taken, report = next(
        (number, one, decode_report(world.asks[one.lane][one.offset][0]))
        for number, one in enumerate(map(decode_treasury_decision, chain))
        if isinstance(one, ReportTaken) and decode_report(world.asks[one.lane][one.offset][0]).asks
    )
    later = encode(replace(taken, at_ms=taken.at_ms + 1))
    assert replayed(world, [*chain[:number], later, *chain[number + 1 :]]) == number + 1
    assert replayed(world, [*chain[:number], *chain[number + 1 :]]) == number
    _, at_ms = world.asks[taken.lane][taken.offset]
    world.asks[taken.lane][taken.offset] = encode(replace(report, asks=())), at_ms
    assert replayed(world, chain) == number


def test_a_seed_is_the_whole_run() -> None:
    """The same seed gives the same rows, bit for bit."""
    assert simulate(3).rows == simulate(3).rows
