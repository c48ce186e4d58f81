"""The simulator's seeds, and the proof that it finds what it is there to find."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.auditor import Violation, prior_for
from tests.simulation.planted import BUGS
from tests.simulation.quiet import quiet_log
from tests.simulation.reading import replayed
from tests.simulation.world import STEPS, simulate
from tests.simulation.worlds import LANES
from worker.contract import codec
from worker.contract.decisions import Decision, Routed
from worker.contract.messages import Query
from worker.kafka.memory import Log

SEEDS = 200
# Twenty tests of ten seeds: a failure names its seed, and the rest still run.
AT_ONCE = 10


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_log():
        yield


# `make quick` runs the first ten.
BLOCKS = [pytest.param(first, marks=[pytest.mark.long] if first else []) for first in range(0, SEEDS, AT_ONCE)]


@pytest.mark.parametrize("first", BLOCKS)
def test_whatever_happens_every_invariant_holds(first: int) -> None:
    """Crashes, zombies, lost and repeated requests, rebalances, forged completions: nothing lost, nothing twice.

    After every transaction the books add up; at the end each query has one outcome and a fresh router decides all of it
    again. A failing seed is shrunk, and its steps are printed.
    """
    failing = [seed for seed in range(first, first + AT_ONCE) if LANES.failure_of(seed) is not None]
    assert failing == [], LANES.report(failing[0])


# How many seeds each bug gets: at least five times what it took when the simulator was written.
FOUND_WITHIN = {
    "skip the fence": 20,
    "swap memory before commit": 30,
    "settle twice": 10,
    "give back twice": 10,
    "forget a budget": 10,
    "take a part": 10,
    "lose the seek": 10,
    "pass over a dropped fetch": 10,
    "take a fetch of before the seek": 10,
    "forget the revocation": 100,
    "reuse a stale price": 20,
    "forget the owner": 400,
    "believe one clock": 40,
    "expire what waits in the topic": 20,
    "forget the calls that have begun": 10,
    "drop the silent": 10,
    "ask who is out": 10,
    "ask the silent again": 10,
    "ignore suspicion": 400,
}


def violates(seed: int, bug: str) -> bool:
    """Whether the bug breaks an invariant under this seed; to fail otherwise, as a typing error does, is not enough."""
    try:
        simulate(seed, BUGS[bug]())
    except Violation:
        return True
    except Exception:
        return False
    return False


@pytest.mark.long
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    """Each bug breaks an invariant under at least one of the first seeds."""
    assert any(violates(seed, bug) for seed in range(FOUND_WITHIN[bug])), f"{bug}: not found"


def test_the_replay_compares_with_the_inputs() -> None:
    """A query that is not the one decided on diverges, whatever its decision says."""
    world = simulate(3)
    config = world.auditor.books[0].config
    assert config is not None
    routed = [decision for decision in decisions(world.log) if isinstance(decision, Routed) and decision.attempt == 1]
    entries, offset = world.log.entries["queries", 0], routed[-1].offset
    [place] = [number for number, entry in enumerate(entries) if entry.offset == offset]
    record = entries[place].record
    assert record is not None, f"a marker stands at offset {offset} of queries/0"
    forged = record._replace(value=codec.encode(Query(id="another", text="x")))
    entries[place] = entries[place]._replace(record=forged)
    found = replayed(world.log, 0, prior_for(config.llms), config, 0.0).mismatch
    assert found is not None
    assert (found.field, found.expected) == ("query_id", "another")


def decisions(log: Log) -> list[Decision]:
    """All decisions of partition 0."""
    return [codec.decode_decision(record.value or b"") for record in log.read(("decisions", 0))]


STEPS_OF_A_COMMIT = {
    "before fence",
    "after fence",
    "restore begins",
    "restore",
    "before begin",
    "amid produce",
    "after produce, before EndTxn",
    "after EndTxn",
}


@pytest.mark.long
def test_workers_die_at_every_step_of_a_commit() -> None:
    """Within the seeds of the test above: a simulator that never gets there proves nothing."""
    died_at: set[str] = set()
    for seed in range(SEEDS):
        died_at |= {step for process in simulate(seed).processes for step in process.died_at}
        if died_at >= STEPS_OF_A_COMMIT:
            return
    assert died_at >= STEPS_OF_A_COMMIT


@pytest.mark.long
def test_a_failing_seed_is_shrunk() -> None:
    """The steps that are left fail in the same way, and the report names each of them and the command for them."""
    parts = BUGS["pass over a dropped fetch"]()
    seed = next(seed for seed in range(FOUND_WITHIN["pass over a dropped fetch"]) if LANES.failure_of(seed, parts))
    steps = LANES.shrink(seed, parts, seconds=300)
    assert isinstance(LANES.failure_of(seed, parts, steps), Violation)
    assert len(steps) < 50, f"{len(steps)} of {STEPS} steps are left"
    told = LANES.story(seed, parts, steps).splitlines()
    assert [int(line.split()[1]) for line in told if line.startswith("step")] == [step.number for step in steps]
    assert told[-1].startswith("Violation: ")


def test_a_seed_is_the_whole_run() -> None:
    """The same seed gives the same decisions, bit for bit."""
    assert [books.head for books in simulate(3).auditor.books] == [books.head for books in simulate(3).auditor.books]
