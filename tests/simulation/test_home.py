"""Where a lane's books belong: what must not be opened is refused by name, and what is lost is recorded."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.drive import LLMS, PRIOR, config, query
from tests.simulation.process import METRICS, SimulatedClock, settings_for
from tests.simulation.reading import proven
from worker.contract import codec
from worker.contract.decisions import Missed
from worker.contract.errors import FixSetting
from worker.contract.messages import Offsets
from worker.contract.settings import KafkaSettings, Settings
from worker.core.events import Reconfigured
from worker.kafka.memory import Log, MemoryBroker
from worker.service.committer import Committer, Kafka, open_committer
from worker.service.home import opening_events
from worker.service.intake import Input

NOW_MS = 1_000_000
# The log's own time is 0.
CLOCK = SimulatedClock(lambda: 0, lambda: 0.0)


class Kept(NamedTuple):
    """A log with the books of two lanes."""

    log: Log
    settings: Settings

    def open(self, partition: int = 0, **kafka: object) -> Committer:
        """A lane as `tollgate run` opens it, with these settings of Kafka."""
        settings = self.settings.model_copy(update={"kafka": KafkaSettings.model_validate({"partitions": 2, **kafka})})
        broker = MemoryBroker(self.log)
        reader = broker.reader()
        committer = open_committer(partition, settings, PRIOR, METRICS, Kafka(reader, broker.producer), CLOCK)
        if events := opening_events(reader, settings, committer.view, config(), NOW_MS):
            committer.commit([Input(event) for event in events])
        return committer


def inputs(log: Log, topic: str, *offsets: int) -> None:
    """Records of partition 0, so that the topic ends after them."""
    for _ in offsets:
        log.append((topic, 0), None, b"{}", (), NOW_MS)


@pytest.fixture
def kept() -> Kept:
    """Two lanes have books; lane 0 has applied three queries."""
    made = Kept(Log(), settings_for(LLMS))
    inputs(made.log, "queries", 0, 1, 2)
    lane = made.open()
    lane.commit([Input(query(offset)) for offset in range(3)])
    made.open(1)
    return made


def refusal(kept: Kept, partition: int = 0, **kafka: object) -> str:
    """Why a lane does not open."""
    with pytest.raises(FixSetting) as refused:
        kept.open(partition, **kafka)
    return str(refused.value)


def test_a_lane_opens_again_where_it_was(kept: Kept) -> None:
    """Nothing is decided by opening."""
    before = kept.open().view.sequence
    assert kept.open().view.sequence == before


@pytest.mark.parametrize("topic", ["queries", "completions", "decisions"])
@pytest.mark.parametrize("refilled", [0, 10])
def test_a_topic_that_was_made_anew_is_refused(kept: Kept, topic: str, refilled: int) -> None:
    """Also if it holds more records than the old one: their offsets would be taken for applied ones."""
    kept.log.make_anew(topic)
    inputs(kept.log, topic, *range(refilled))
    said = refusal(kept)
    assert f"{topic}/0: was made anew" in said
    assert f"tollgate ledger accept {topic}" in said


def test_an_empty_ledger_beside_decisions_is_no_first_start(kept: Kept) -> None:
    """The old queries would be dispatched and paid again."""
    kept.log.make_anew("ledger")
    said = refusal(kept)
    assert "ledger/0: is empty, but decisions/0 has records" in said
    assert "tollgate ledger rebuild" in said


def test_an_empty_ledger_beside_dispatches_is_no_first_start(kept: Kept) -> None:
    """With both lost, the dispatches still tell."""
    kept.log.make_anew("ledger")
    kept.log.make_anew("decisions")
    assert "so this is no first start" in refusal(kept)


def test_another_group_is_refused_and_fences_nobody(kept: Kept) -> None:
    """The worker of the first group goes on."""
    owner = kept.open()
    assert "ledger/0 belongs to the group tollgate; set kafka.group = tollgate" in refusal(kept, group="other")
    owner.commit([Input(query(3))])
    assert owner.view.offsets.queries == 3


@pytest.mark.parametrize("partition", [0, 3], ids=["a lane with books", "a lane that was added"])
def test_more_partitions_are_refused(kept: Kept, partition: int) -> None:
    """The old lanes have halves of the budgets; new lanes would add quarters to them."""
    assert "split over 2" in refusal(kept, partition, partitions=4)


def test_every_difference_is_named(kept: Kept) -> None:
    """One start tells all that is wrong."""
    kept.log.make_anew("queries")
    kept.log.make_anew("completions")
    assert len(refusal(kept, partitions=4).splitlines()) == 3


def test_the_books_of_an_older_version_take_the_home_they_are_in() -> None:
    """Records without a home refuse nothing; opening writes the home, and from then on it is held."""
    kept = Kept(Log(), settings_for(LLMS))
    broker = MemoryBroker(kept.log)
    old = open_committer(0, kept.settings, PRIOR, METRICS, Kafka(broker.reader(), broker.producer))
    old.commit([Input(Reconfigured(0, config()))])
    opened = kept.open().view.config
    assert opened is not None
    assert opened.home is not None
    kept.log.make_anew("completions")
    assert "completions/0: was made anew" in refusal(kept)


def missed(log: Log) -> list[Missed]:
    """What lane 0 records as lost."""
    decisions = [codec.decode_decision(record.value or b"") for record in log.read(("decisions", 0))]
    return [decision for decision in decisions if isinstance(decision, Missed)]


def test_records_that_left_unread_are_recorded(kept: Kept) -> None:
    """The lane goes on behind them, `verify` names them, and a second opening finds nothing more."""
    inputs(kept.log, "queries", *range(3, 9))
    kept.log.delete(("queries", 0), 7)
    for _ in range(2):
        lane = kept.open()
        assert lane.view.offsets == Offsets(6, -1)
        assert [(gap.cause.number, gap.first, gap.offsets) for gap in missed(kept.log)] == [(6, 3, 4)]
    [finding] = proven(kept.log, 0).findings
    assert "up to 4 queries, the offsets 3 to 6 of queries, were never decided" in str(finding)


def test_offsets_that_no_record_stands_at_are_no_loss(kept: Kept) -> None:
    """Compaction and the markers of transactions leave gaps; only a topic that begins later has lost something."""
    inputs(kept.log, "queries", *range(3, 9))
    entries = kept.log.entries["queries", 0]
    del entries[4:7]
    kept.open()
    assert missed(kept.log) == []


def test_an_answer_that_left_unread_is_recorded(kept: Kept) -> None:
    """Its money stays reserved until it expires, and `verify` says that an answer was never booked."""
    inputs(kept.log, "completions", 0, 1)
    kept.log.delete(("completions", 0), 2)
    kept.open()
    assert [gap.cause.kind for gap in missed(kept.log)] == ["completions"]
    assert "were never booked" in str(proven(kept.log, 0).findings[0])
