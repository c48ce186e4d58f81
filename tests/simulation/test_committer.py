"""The committer's protocol, one case at a time, on the simulated log."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException, Message
from structlog.testing import capture_logs

from tests.drive import LLMS, NOT_A_QUERY, PRIOR, config, query
from tests.simulation.broker import Broker, SimulatedProducer, SimulatedReader
from tests.simulation.process import METRICS, settings_for
from worker.contract.errors import CheckBroker, LeaveProcess
from worker.contract.record import StoredRecord
from worker.core.events import Event, Reconfigured, Refused
from worker.kafka.memory import Log
from worker.service.committer import Committer, Kafka, open_committer
from worker.service.intake import Input

START = Reconfigured(0, config())


def inputs(*events: Event) -> list[Input]:
    """Events without their records."""
    return [Input(event) for event in events]


class Outcome(NamedTuple):
    """How a commit goes: the error that the client sees, and whether Kafka committed."""

    error: int
    committed: bool


class ScriptedProducer(SimulatedProducer):
    """A producer whose next commits go as `outcomes` say, and then well."""

    def __init__(self, broker: Broker, options: dict[str, Any], outcomes: list[Outcome]) -> None:
        super().__init__(broker, options)
        self.outcomes = outcomes

    def commit_transaction(self, timeout: float) -> None:
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is None or outcome.committed:
            super().commit_transaction(timeout)
        if outcome is not None:
            raise KafkaException(KafkaError(outcome.error))


class Partition:
    """One partition with owners that follow each other."""

    def __init__(self) -> None:
        self.log = Log()
        self.broker = Broker(self.log, Random(0), lambda: 0.0, failures=0.0)
        self.outcomes: list[Outcome] = []

    def owner(self) -> Committer:
        """Somebody who has just been assigned the partition."""
        kafka = Kafka(
            SimulatedReader(self.broker), lambda options: ScriptedProducer(self.broker, options, self.outcomes)
        )
        return open_committer(0, settings_for(LLMS), PRIOR, METRICS, kafka)

    def dispatched(self) -> list[bytes]:
        """The keys of all dispatches that can be seen."""
        return [record.key or b"" for llm in LLMS for record in self.log.read((f"dispatch.{llm}", 0))]

    def seen(self, topic: str) -> int:
        """How many records of a topic can be seen."""
        return len([*self.log.read((topic, 0))])


def test_a_new_owner_goes_on_where_the_old_one_stopped() -> None:
    """It restores offsets, accounts and the chain from the ledger."""
    partition = Partition()
    first = partition.owner()
    first.commit(inputs(START, query(0)))
    second = partition.owner()
    second.commit(inputs(query(0), query(1)))
    # A lane begins with transactions of one input.
    assert (second.view.sequence, sorted(partition.dispatched())) == (4, [b"0-0-1", b"0-1-1"])


def test_an_old_owner_is_fenced() -> None:
    """Once a successor has begun, nothing that the old owner decides is ever seen, and it must leave."""
    partition = Partition()
    old = partition.owner()
    old.commit(inputs(START))
    partition.owner()
    with pytest.raises(LeaveProcess):
        old.commit(inputs(query(0)))
    assert partition.dispatched() == []


UNCLEAN = [
    ("the request was lost", Outcome(KafkaError._TIMED_OUT, committed=False)),
    ("the answer was lost", Outcome(KafkaError._TIMED_OUT, committed=True)),
    ("the coordinator refused", Outcome(KafkaError.INVALID_TXN_STATE, committed=False)),
]


@pytest.mark.parametrize("outcome", [case[1] for case in UNCLEAN], ids=[case[0] for case in UNCLEAN])
def test_a_commit_that_is_not_clean_ends_the_process(outcome: Outcome) -> None:
    """Whether or not Kafka committed, the next owner's second try leaves exactly one dispatch."""
    partition = Partition()
    owner = partition.owner()
    owner.commit(inputs(START))
    partition.outcomes.append(outcome)
    with pytest.raises(LeaveProcess):
        owner.commit(inputs(query(0)))
    partition.owner().commit(inputs(query(0)))
    assert partition.dispatched() == [b"0-0-1"]


def make_suspicious(owner: Committer) -> None:
    """The producer reports an error that it could recover from."""
    owner._on_error(KafkaError(KafkaError._TRANSPORT))


def test_after_a_hiccup_the_producer_is_replaced() -> None:
    """The next transaction runs in a new epoch, so that a late EndTxn of the old one is refused."""
    partition = Partition()
    owner = partition.owner()
    owner.commit(inputs(START))
    before = partition.log.epochs["tollgate-ledger-0"]
    make_suspicious(owner)
    owner.commit(inputs(query(0)))
    assert (partition.log.epochs["tollgate-ledger-0"], partition.dispatched()) == (before + 1, [b"0-0-1"])


def test_a_commit_that_is_not_visible_yet_is_not_taken_for_anothers() -> None:
    """EndTxn is answered before its markers are written: an owner that looks then finds a row older than its own."""
    partition = Partition()
    owner = partition.owner()
    owner.commit(inputs(START))
    partition.log.late_markers = True
    owner.commit(inputs(query(0)))
    hidden = partition.dispatched()
    make_suspicious(owner)
    owner.commit(inputs(query(1)))
    partition.log.late_markers = False
    assert (hidden, sorted(partition.dispatched())) == ([], [b"0-0-1", b"0-1-1"])


@pytest.mark.parametrize("successor", [[START], [START, query(0)]], ids=["which decided nothing", "which decided"])
def test_an_owner_that_was_stopped_does_not_write_over_its_successor(successor: list[Event]) -> None:
    """It looks before it fences, so that the successor can go on."""
    partition = Partition()
    old = partition.owner()
    make_suspicious(old)
    new = partition.owner()
    new.commit(inputs(*successor))
    with pytest.raises(LeaveProcess, match="another owner"):
        old.commit(inputs(START, query(0)))
    new.commit(inputs(query(0), query(1)))
    assert sorted(partition.dispatched()) == [b"0-0-1", b"0-1-1"]


def test_a_refused_record_is_a_dead_letter_once() -> None:
    """Also when it is handed over again, as after a rebalance; its bytes are those that came."""
    partition = Partition()
    owner = partition.owner()
    record = StoredRecord("queries", 0, 0, 0, b"key", b"nonsense", ())
    refused = Refused("queries", 0, 0, NOT_A_QUERY)
    owner.commit([*inputs(START), Input(refused, record)])
    owner.commit([Input(refused, record)])
    [letter] = partition.log.read(("dead-letters", 0))
    assert letter.key == b"key"
    assert letter.value == b"nonsense"
    assert partition.seen("decisions") == 3


def test_a_transaction_that_hangs_is_ended_by_the_next_owner() -> None:
    """Records whose end a dying broker never wrote are aborted before anything is decided: were they left, the next
    commit would show them too, and the queries would be dispatched twice."""
    partition = Partition()
    partition.outcomes.append(Outcome(KafkaError._TIMED_OUT, committed=False))
    first = partition.owner()
    with pytest.raises(LeaveProcess):
        first.commit(inputs(START, query(0)))
    partition.log.hang("tollgate-ledger-0")
    hidden = partition.dispatched()
    second = partition.owner()
    second.commit(inputs(START, query(0)))
    assert (hidden, partition.dispatched()) == ([], [b"0-0-1"])


def test_a_lost_end_marker_of_one_topic_is_named_and_made_up_for() -> None:
    """What was decided, but is hidden in one topic, can be seen from the next commit there; a warning says so."""
    partition = Partition()
    partition.owner().commit(inputs(START))
    topic, epoch = f"dispatch.{LLMS[0]}", partition.log.epochs["tollgate-ledger-0"]
    lost = partition.log.transaction("tollgate-ledger-0", epoch, 0)
    partition.log.append((topic, 0), b"0-9-1", b"", (), 0, lost)
    partition.log.hang("tollgate-ledger-0")
    with capture_logs() as logs:
        owner = partition.owner()
    owner.commit(inputs(query(0, quality=[1.0, 0.0, 0.0])))
    named = [(each["event"], each["topics"]) for each in logs if "topics" in each]
    assert (named, partition.dispatched()) == ([("hanging_transaction", [topic])], [b"0-9-1", b"0-0-1"])


def test_a_transaction_of_somebody_else_is_not_decided_over() -> None:
    """Records in the ledger that no transaction of the lane can end are for a person to look at."""
    partition = Partition()
    partition.log.append(("ledger", 0), b"x", b"", (), 0, partition.log.transaction("stranger", 0, 0))
    with pytest.raises(CheckBroker, match="hanging"):
        partition.owner()


def test_a_broker_that_does_not_say_its_time_is_no_opinion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka answers -1 where it knows of no record. That is not the year 1970."""
    partition = Partition()
    monkeypatch.setattr(SimulatedReader, "appended_ms", lambda *_: -1)
    monkeypatch.setattr("worker.service.committer.HEAR_SECONDS", 0.0)
    owner = partition.owner()
    owner.commit(inputs(START))
    assert (owner.clock.is_old(0.0), owner.clock.drift_ms) == (True, 0)


def test_a_broker_that_says_its_time_a_moment_later_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real Kafka answers -1 while it writes the end of the transaction: without it, a lane would have one clock."""
    partition, answers, truth = Partition(), [-1, -1], SimulatedReader.appended_ms
    monkeypatch.setattr(SimulatedReader, "appended_ms", lambda *place: answers.pop() if answers else truth(*place))
    assert (partition.owner().clock.is_old(1.0), answers) == (False, [])


class ChoosyProducer(SimulatedProducer):
    """A producer whose broker does not take some records: `refuses` says which, by topic, key and value."""

    def __init__(self, broker: Broker, options: dict[str, Any], refuses: Callable[[str, Any, Any], int | None]) -> None:
        super().__init__(broker, options)
        self.refuses, self.refused = refuses, False

    def produce(self, topic: str, value: Any, key: Any, partition: int, **options: Any) -> None:
        code = self.refuses(topic, key, value)
        super().produce(topic, value, key, partition, **{**options, "on_delivery": None})
        if code is not None:
            self.refused = True
            options["on_delivery"](KafkaError(code), Message(topic=topic))

    def commit_transaction(self, timeout: float) -> None:
        if self.refused:
            raise KafkaException(KafkaError(KafkaError._FAIL, "not delivered", False, False, True))
        super().commit_transaction(timeout)

    def abort_transaction(self, timeout: float) -> None:
        self.refused = False
        super().abort_transaction(timeout)


def choosy(refuses: Callable[[str, Any, Any], int | None]) -> tuple[Partition, Committer]:
    """A partition on such a broker, and its owner, which has its configuration."""
    partition = Partition()
    kafka = Kafka(SimulatedReader(partition.broker), lambda options: ChoosyProducer(partition.broker, options, refuses))
    owner = open_committer(0, settings_for(LLMS), PRIOR, METRICS, kafka)
    owner.commit(inputs(START))
    return partition, owner


def of_record(event: Event, value: bytes = b"value") -> Input:
    """An input with the record that it came from."""
    topic = event.topic if isinstance(event, Refused) else "queries"
    return Input(event, StoredRecord(topic, 0, getattr(event, "offset", 0), 5_000, b"key", value, [("h", b"1")]))


def test_a_poison_record_is_alone() -> None:
    """A query whose dispatch no topic takes becomes a dead letter that names the topic; all others are dispatched, and
    the lane goes on. Nothing is decided twice."""
    too_large = KafkaError.MSG_SIZE_TOO_LARGE
    partition, owner = choosy(lambda topic, key, _: too_large if key == "0-5-1" else None)
    with capture_logs() as logs:
        owner.commit([of_record(query(offset)) for offset in range(12)])
    assert sorted(partition.dispatched()) == sorted(f"0-{offset}-1".encode() for offset in range(12) if offset != 5)
    [letter] = partition.log.read(("dead-letters", 0))
    headers = dict(letter.headers)
    assert headers["__connect.errors.exception.class.name"] == b"tollgate.unpublishable"
    assert (headers["tollgate.detail"] or b"").startswith(b"dispatch.")
    assert (letter.value, headers["tollgate.timestamp.ms"]) == (b"value", b"5000")
    [named] = [each for each in logs if each["event"] == "record_unpublishable"]
    assert (named["topic"], named["partition"], named["offset"]) == ("queries", 0, 5)


def test_a_dead_letter_that_is_not_taken_is_written_without_the_record() -> None:
    """Its headers still say where the record lies and why it is there. Before, one such record ended every worker that
    took its lane."""

    def refuses(topic: str, _: Any, value: Any) -> int | None:
        return KafkaError.INVALID_RECORD if topic == "dead-letters" and value else None

    partition, owner = choosy(refuses)
    owner.commit([of_record(Refused("queries", 0, 0, NOT_A_QUERY)), of_record(query(1))])
    [letter] = partition.log.read(("dead-letters", 0))
    headers = dict(letter.headers)
    assert (letter.key, letter.value, "h" in headers) == (b"", b"", False)
    assert headers["__connect.errors.offset"] == b"0"
    assert headers["tollgate.truncated.bytes"] == b"5"
    assert partition.dispatched() == [b"0-1-1"]


def test_an_error_of_the_broker_is_no_poison() -> None:
    """A transaction that fails for another reason than its record, even alone, ends the process with the topic and the
    reason; nothing is rejected for it."""
    partition, owner = choosy(lambda topic, *_: KafkaError.TOPIC_AUTHORIZATION_FAILED if "dispatch" in topic else None)
    with pytest.raises(LeaveProcess, match=r"queries/0 at offset 0 .* writing to dispatch\.\w+: .* forbids the topic"):
        owner.commit([of_record(query(0)), of_record(query(1))])
    assert partition.seen("dead-letters") == 0


def test_a_transaction_that_did_not_fit_is_smaller_the_next_time() -> None:
    """Under a quota, records do not arrive in time. Before, the same batch was tried again for ever."""
    partition, seen = Partition(), list[int]()

    class Throttled(SimulatedProducer):
        def flush(self, timeout: float) -> int:
            transaction = self._log.open.get("tollgate-ledger-0")
            dispatched = [one for one in (transaction.records if transaction else ()) if "dispatch" in one.topic]
            seen.append(len(dispatched))
            return max(0, len(dispatched) - 4)

    kafka = Kafka(SimulatedReader(partition.broker), lambda options: Throttled(partition.broker, options))
    owner = open_committer(0, settings_for(LLMS), PRIOR, METRICS, kafka)
    owner.commit(inputs(START, *(query(offset) for offset in range(40))))
    assert len(partition.dispatched()) == len(set(partition.dispatched())) == 40
    assert max(seen) == 8


def test_a_lane_that_was_forgotten_takes_a_new_epoch() -> None:
    """Kafka forgets a transactional id that rests. Before, that ended the process at the first query after a week."""
    partition = Partition()
    owner = partition.owner()
    owner.commit(inputs(START))
    partition.outcomes.append(Outcome(KafkaError.INVALID_PRODUCER_ID_MAPPING, committed=False))
    owner.commit(inputs(query(0)))
    assert partition.dispatched() == [b"0-0-1"]
