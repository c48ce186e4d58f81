"""What the proof says of where books belong: other topics, other settings, other clocks."""

from __future__ import annotations

from typing import Unpack

import pytest

from tests.drive import LLMS, ConfigurationChanges, config, query
from tests.topics import NAMES, PartitionLog, Recorded
from tests.topics import value as value_of
from tests.unit.test_verify import DECISIONS, LEDGER, honest, prove
from worker.audit.report import report
from worker.audit.verify import Verified, verify
from worker.contract import codec
from worker.contract.messages import Home


@pytest.mark.parametrize(("ahead_ms", "count"), [(0, 0), (5_000, 0), (5_001, 3), (9_000, 3)])
def test_decisions_that_are_ahead_of_the_broker_are_named(ahead_ms: int, count: int) -> None:
    """One finding for all of them names the first, how many they are and by how much."""
    log = honest()
    last = len(log[DECISIONS]) - 3
    for offset, stored in enumerate(log[DECISIONS]):
        at_ms = codec.decode_decision(value_of(stored)).at_ms
        appended_ms = at_ms - ahead_ms if offset >= last else at_ms + 20
        log[DECISIONS][offset] = stored._replace(timestamp=max(1, appended_ms))
    found = [str(finding) for finding in prove(log).findings]
    assert len(found) == bool(count)
    assert all(f"offset {last}: is the first of {count}" in finding and str(ahead_ms) in finding for finding in found)


def test_a_topic_that_was_made_anew_is_named() -> None:
    """By the ids that the last configuration has, also if no worker has started since."""
    home = Home("tollgate", 1, {"queries": "queries", "completions": "completions", "ledger": LEDGER, "decisions": "d"})
    recorded = Recorded(config(home=home)).run([query(offset) for offset in range(3)])
    topics = PartitionLog(recorded.topics(), 1_000, {})
    topics.made_anew = {"completions": "another", "decisions": "d"}
    [finding] = verify(0, NAMES, LLMS, topics).findings
    assert str(finding).startswith("completions/0: was deleted and made anew: its topic id is another")


def configured(**changes: Unpack[ConfigurationChanges]) -> Verified:
    """A lane that has only its configuration."""
    return prove(Recorded(config(**changes)).topics())


def test_partitions_with_different_settings_are_noted() -> None:
    """Shares of the same budget differ by a micro-dollar; other budgets are named, but are no error in the books."""
    budgets = {"large": 20_001, "medium": 10_000, "small": 5_000}
    lanes = [configured(settings="a"), configured(settings="b", budget_micros=budgets)]
    lanes[1].partition = 1
    assert "differ in" in report(lanes).notes[0]
    lanes[1] = configured(settings="b", budget_micros={**budgets, "large": 30_000})
    lanes[1].partition = 1
    assert "the budget large (20000 and 30000 micro-dollars a partition)" in report(lanes).notes[0]
    assert report(lanes).ok


def test_budgets_that_are_split_over_different_numbers_are_a_finding() -> None:
    """Together they are more than was budgeted."""
    lanes = [configured(home=Home("tollgate", partitions, {})) for partitions in (4, 8)]
    lanes[1].partition = 1
    [finding] = report(lanes).findings
    assert "different numbers of partitions (0: over 4, 1: over 8)" in str(finding)
