"""`tollgate ledger rebuild` and `accept`: no books are lost, and what was decided stays decided."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.drive import PRIOR, completion, query
from tests.simulation.auditor import state
from tests.simulation.reading import proven
from tests.simulation.test_home import NOW_MS, Kept, inputs, kept, refusal
from worker.audit.rehome import Rehomed, accept, rebuild
from worker.contract.errors import CheckFailed, FixSetting
from worker.contract.record import Record
from worker.contract.settings import KafkaSettings, Settings
from worker.kafka.memory import Log, MemoryBroker
from worker.kafka.reader import Place
from worker.kafka.refill import COPIED_FROM, FILLER
from worker.service.committer import Kafka
from worker.service.intake import Input

__all__ = ["kept"]


class MemoryRefill:
    """Refill of a log. A log has every topic."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def create(self, topics: Iterable[str]) -> list[str]:
        return []

    def fill(self, place: Place, count: int) -> None:
        for _ in range(count):
            self._log.append(place, FILLER, None, (), NOW_MS)

    def append(self, place: Place, records: Iterable[Record]) -> None:
        for record in records:
            headers = [*record.headers, (COPIED_FROM, str(record.offset).encode())]
            self._log.append(place, record.key, record.value, headers, NOW_MS)

    def drop_before(self, place: Place, offset: int) -> None:
        self._log.delete(place, offset)


def settings_of(kept: Kept, **kafka: object) -> Settings:
    return kept.settings.model_copy(update={"kafka": KafkaSettings.model_validate({"partitions": 2, **kafka})})


def rebuilt(kept: Kept) -> list[Rehomed]:
    """What `ledger rebuild` did."""
    broker = MemoryBroker(kept.log)
    kafka = Kafka(broker.reader(), broker.producer)
    return [*rebuild(settings_of(kept), PRIOR, kafka, MemoryRefill(kept.log))]


def accepted(kept: Kept, *parts: str, **kafka: object) -> list[Rehomed]:
    """What `ledger accept` did."""
    broker = MemoryBroker(kept.log)
    memory = Kafka(broker.reader(), broker.producer)
    return [*accept(settings_of(kept, **kafka), PRIOR, memory, MemoryRefill(kept.log), parts)]


def at_work(kept: Kept, queries: int) -> None:
    """More queries and two answers; then, as checkpoint_every is 4, the chain has checkpoints."""
    lane = kept.open()
    inputs(kept.log, "queries", *range(queries))
    inputs(kept.log, "completions", 0, 1)
    for offset in range(3, 3 + queries):
        lane.commit([Input(query(offset, at_ms=NOW_MS))])
    for number, dispatch_id in enumerate(list(lane.view.open)[:2]):
        lane.commit([Input(completion(number, dispatch_id, lane.view.open[dispatch_id].llm, at_ms=NOW_MS))])


@pytest.mark.parametrize("queries", [1, 12], ids=["from the beginning of the chain", "from a checkpoint"])
@pytest.mark.parametrize("tail", [3, 20_000], ids=["a short look back", "a long one"])
def test_a_lost_ledger_is_made_from_the_decisions(
    kept: Kept, queries: int, tail: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the next decisions depend on is as it was but for the home; then a lane opens and goes on."""
    monkeypatch.setattr("worker.audit.rehome.TAIL_RECORDS", tail)
    at_work(kept, queries)
    before = kept.open().view
    accounts, reservations, offsets = before.accounts, dict(before.open), before.offsets
    kept.log.make_anew("ledger")
    assert [done.what for done in rebuilt(kept)] == ["rebuilt", "rebuilt"]
    lane = kept.open()
    after = lane.view
    assert (after.accounts, dict(after.open), after.offsets) == (accounts, reservations, offsets)
    inputs(kept.log, "queries", 0)
    lane.commit([Input(query(3 + queries, at_ms=NOW_MS))])
    assert state(kept.open().router)[0] == state(lane.router)[0]


def test_a_rebuilt_ledger_is_proven(kept: Kept) -> None:
    """`verify` finds nothing wrong with decisions and ledger, and says that the ledger is another topic."""
    at_work(kept, 6)
    kept.log.make_anew("ledger")
    rebuilt(kept)
    kept.open()
    proof = proven(kept.log, 0)
    assert [str(one) for one in proof.findings if one.topic in ("decisions", "ledger")] == []
    assert any("goes on in another topic `ledger`" in note for note in proof.notes)


def test_a_ledger_that_has_rows_is_not_rebuilt(kept: Kept) -> None:
    """And one that was rebuilt has rows: a second run changes nothing."""
    assert [done.what for done in rebuilt(kept)] == ["has_rows", "has_rows"]
    kept.log.make_anew("ledger")
    rebuilt(kept)
    assert [done.what for done in rebuilt(kept)] == ["has_rows", "has_rows"]


def test_a_broken_chain_makes_no_ledger(kept: Kept) -> None:
    """A decision that was removed would be money that nobody knows of."""
    at_work(kept, 2)
    kept.log.make_anew("ledger")
    del kept.log.entries["decisions", 0][3]
    with pytest.raises(CheckFailed, match="cannot be made"):
        rebuilt(kept)


def real(log: Log, topic: str) -> list[tuple[int, bytes]]:
    """The records of an input that are not filler: offset and value."""
    return [(record.offset, record.value or b"") for record in log.read((topic, 0)) if record.key != FILLER]


@pytest.mark.parametrize("refilled", [0, 2, 10], ids=["empty", "shorter than the old one", "longer"])
def test_new_queries_go_on_behind_the_old_offsets(kept: Kept, refilled: int) -> None:
    """Nothing that the new topic held is passed over, no offset comes again, and there is no gap."""
    kept.log.make_anew("queries")
    for number in range(refilled):
        kept.log.append(("queries", 0), None, b"new %d" % number, (), NOW_MS)
    done = accepted(kept, "queries")
    assert [(one.what, one.copied) for one in done] == [("accepted", min(refilled, 3)), ("accepted", 0)]
    found = real(kept.log, "queries")
    assert sorted(value for _, value in found) == [b"new %d" % number for number in range(refilled)]
    assert all(offset > 2 for offset, _ in found), f"{found}: queries 0 to 2 were applied"
    before = kept.log.ends["decisions", 0]
    assert kept.open().view.offsets.queries == 2
    assert kept.log.ends["decisions", 0] == before


def test_accepting_twice_changes_nothing(kept: Kept) -> None:
    """As after a command that was ended on its way, and one that had finished."""
    kept.log.make_anew("queries")
    kept.log.append(("queries", 0), None, b"new", (), NOW_MS)
    accepted(kept, "queries")
    assert [done.what for done in accepted(kept, "queries")] == ["at_home", "at_home"]
    assert [value for _, value in real(kept.log, "queries")] == [b"new"]


def test_a_command_that_was_ended_on_its_way_copies_nothing_twice(kept: Kept) -> None:
    """The copies were written, and the records before were not removed yet."""
    kept.log.make_anew("queries")
    kept.log.append(("queries", 0), None, b"new", (), NOW_MS)
    refill = MemoryRefill(kept.log)
    refill.fill(("queries", 0), 2)
    refill.append(("queries", 0), [*kept.log.read(("queries", 0))][:1])
    assert accepted(kept, "queries")[0].copied == 0
    assert [value for _, value in real(kept.log, "queries")] == [b"new"]


def test_new_decisions_begin_with_a_checkpoint(kept: Kept) -> None:
    """`verify` proves from there on, and says that the topic is another."""
    at_work(kept, 3)
    kept.log.make_anew("decisions")
    accepted(kept, "decisions")
    kept.open()
    proof = proven(kept.log, 0)
    assert [str(one) for one in proof.findings if "decisions" in one.topic or "ledger" in one.topic] == []
    assert any("the proof begins at the checkpoint" in note for note in proof.notes)


def test_a_renamed_group_is_accepted(kept: Kept) -> None:
    """The old name is refused from then on."""
    accepted(kept, "group", group="other")
    kept.open(group="other")
    assert "belongs to the group other" in refusal(kept)


def test_only_what_is_named_is_accepted(kept: Kept) -> None:
    """Another part that differs is named, and nothing is changed."""
    kept.log.make_anew("queries")
    kept.log.make_anew("completions")
    with pytest.raises(FixSetting, match="completions/0: was made anew"):
        accepted(kept, "queries")
    assert "queries/0: was made anew" in refusal(kept)
