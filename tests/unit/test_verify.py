"""The proof: honest books have no findings, and whatever is tampered with is named."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.drive import LLMS, NOT_A_QUERY, CompletionChanges, completion, config, query, tick
from tests.topics import NAMES, Log, PartitionLog, Recorded, record
from tests.topics import value as value_of
from worker.audit.report import report
from worker.audit.verify import Verified, verify
from worker.contract import codec, dead_letters
from worker.contract.accounts import Account
from worker.contract.codes import Remedy
from worker.contract.decisions import Checkpoint, Closed, Routed
from worker.contract.messages import FORMAT, AccountRow
from worker.contract.record import StoredRecord
from worker.core.events import Event, Reconfigured, Refused
from worker.core.journal import record_hash

DECISIONS, LEDGER, LETTERS, DEFERRED = NAMES.decisions, NAMES.ledger, NAMES.dead_letters, NAMES.deferred
encode = msgspec.msgpack.Encoder().encode


def story() -> list[Event]:
    """Thirty queries of all fates: served, failed and tried again, expired, deferred, unusable, still open."""
    events: list[Event] = [query(offset) for offset in range(20)]
    events += [Refused("queries", 20, 2_000, NOT_A_QUERY), query(21, quality=[0.0, 0.0, 0.0])]
    for number, dispatch in enumerate(Recorded().run(events).dispatches[:12]):
        fields: CompletionChanges = {"at_ms": 3_000}
        if number % 4 == 0:
            fields |= {"ok": False, "stated_micros": None, "cost": "zero", "retry": query(dispatch.origin.offset)}
        events.append(completion(number, dispatch.id, dispatch.llm, **fields))
    events += [completion(12, "0-99-1", "large", at_ms=3_000), Refused("completions", 13, 3_000, NOT_A_QUERY)]
    events += [Reconfigured(4_000, config(resolve_every_queries=5)), tick(11_950)]
    return [*events, *(query(offset, at_ms=12_000) for offset in range(22, 30))]


@cache
def written() -> Log:
    return Recorded().run(story()).topics()


def honest() -> Log:
    """The topics after the story, to be tampered with."""
    return {topic: list(records) for topic, records in written().items()}


def prove(log: Log, transactions: int = 1_000, oldest: dict[str, int] | None = None) -> Verified:
    """The proof of a log of which so many transactions were visible when the ledger was read."""
    return verify(0, NAMES, LLMS, PartitionLog(log, transactions, oldest or {}))


def test_honest_books_are_proven() -> None:
    """Nothing is wrong, and the queries that came in are those dispatched, deferred and refused."""
    proven = report([prove(honest())])
    counts = proven.counts
    assert proven.ok
    assert proven.findings == []
    assert counts.queries == 30
    assert counts.dispatched + counts.deferred + counts.dead_letters == 30
    assert (counts.dispatches, counts.settled + counts.released + counts.expired + counts.open) == (31, 31)


@pytest.mark.parametrize("transactions", [1, 20, 40, 46])
def test_what_was_decided_after_the_cut_is_no_finding(transactions: int) -> None:
    """A system that goes on while it is read is proven as of its last account row."""
    proof = prove(honest(), transactions)
    assert (proof.findings, proof.is_cut) == ([], True)


@pytest.mark.parametrize("follows", [False, True], ids=["out of the chain", "in the chain"])
def test_a_decision_that_a_stranger_appends_is_named(follows: bool) -> None:
    """Also one that links to the last: no account row names it."""
    log = honest()
    last = log[DECISIONS][-1]
    decision = codec.decode_decision(value_of(last))
    prev = record_hash(value_of(last)) if follows else b"elsewhere"
    forged = codec.encode(msgspec.structs.replace(decision, prev=prev))
    log[DECISIONS].append(last._replace(offset=last.offset + 1, value=forged))
    first = prove(log).findings[0]
    assert (first.topic, last.offset <= (first.offset or 0) <= last.offset + 1) == (DECISIONS, True), str(first)


def test_a_topic_that_has_lost_its_beginning_is_noted() -> None:
    """Queries and dispatches before the first that is kept count as gone, not as missing."""
    log = honest()
    kept = {NAMES.queries: 10, NAMES.dispatch("medium"): 3}
    for topic, oldest in kept.items():
        log[topic] = [stored for stored in log[topic] if stored.offset >= oldest]
    proof = prove(log, oldest=kept)
    assert (proof.findings, proof.notes) == (
        [],
        [
            "queries/0: 10 records have left the topic and were not looked at",
            "dispatch.medium/0: 3 records have left the topic and were not looked at",
        ],
    )


def test_decisions_that_have_lost_their_beginning_are_proven_from_a_checkpoint() -> None:
    """The proof begins at the first checkpoint that is kept, and says so."""
    log = honest()
    log[DECISIONS] = log[DECISIONS][20:]
    proof = prove(log, oldest={DECISIONS: 20})
    assert proof.findings == []
    assert len(proof.notes) == 1
    assert proof.is_cut


# Tampering


def changed(topic: str, number: int, **changes: Any) -> Callable[[Log], None]:
    """One record of a topic says something else."""

    def tamper(log: Log) -> None:
        log[topic][number] = with_changes(log[topic][number], **changes)

    return tamper


def with_changes(stored: StoredRecord, **changes: Any) -> StoredRecord:
    decode = codec.decode_decision if stored.topic == DECISIONS else codec.decode_dispatch
    message: msgspec.Struct = decode(value_of(stored))
    return stored._replace(value=encode(msgspec.structs.replace(message, **changes)))


def removed(topic: str, number: int) -> Callable[[Log], None]:
    return lambda log: log[topic].__delitem__(number)


def doubled(topic: str, number: int) -> Callable[[Log], None]:
    return lambda log: log[topic].append(log[topic][number]._replace(offset=1_000))


def inserted(number: int) -> Callable[[Log], None]:
    return lambda log: log[DECISIONS].insert(number, log[DECISIONS][number]._replace(offset=1_000))


def swapped(number: int) -> Callable[[Log], None]:
    def tamper(log: Log) -> None:
        decisions = log[DECISIONS]
        decisions[number], decisions[number + 1] = decisions[number + 1], decisions[number]

    return tamper


def cut_off(log: Log) -> None:
    del log[DECISIONS][-2:]


def beheaded(log: Log) -> None:
    del log[DECISIONS][:2]


def forged_dispatch(log: Log) -> None:
    dispatch = codec.decode_dispatch(value_of(log[NAMES.dispatch("large")][0]))
    origin = msgspec.structs.replace(dispatch.origin, offset=500)
    forged = msgspec.structs.replace(dispatch, id="0-500-1", origin=origin)
    log[NAMES.dispatch("large")].append(record(NAMES.dispatch("large"), 99, forged.id, encode(forged)))


def misdirected(log: Log) -> None:
    stored = log[NAMES.dispatch("large")].pop(0)
    log[NAMES.dispatch("small")].append(stored._replace(topic=NAMES.dispatch("small"), offset=99))


def account_changed(log: Log) -> None:
    change_last(log, "budget/0/large", spent=lambda _: 0)


def prices_changed(log: Log) -> None:
    change_last(log, "account", prices=lambda row: dict.fromkeys(row.prices, 0.5))


def digest_changed(log: Log) -> None:
    change_last(log, "account", digest=lambda _: b"x")


def change_last(log: Log, key: str, **changes: Callable[[Any], Any]) -> None:
    number = max(i for i, stored in enumerate(log[LEDGER]) if stored.key == key.encode())
    kind = Account if key.startswith("budget/") else AccountRow
    row = msgspec.msgpack.decode(value_of(log[LEDGER][number]), type=kind)
    new = msgspec.structs.replace(row, **{name: change(row) for name, change in changes.items()})
    log[LEDGER][number] = log[LEDGER][number]._replace(value=encode(new))


def reservation_lost(log: Log) -> None:
    log[LEDGER] = [stored for stored in log[LEDGER] if stored.key != b"reservation/0-29-1"]


def reservation_reopened(log: Log) -> None:
    log[LEDGER] = [stored for stored in log[LEDGER] if stored.value is not None]


def account_rolled_back(log: Log) -> None:
    rows = [stored for stored in log[LEDGER] if stored.key == b"account"]
    log[LEDGER].append(rows[-3]._replace(offset=1_000))


def query_lost(log: Log) -> None:
    del log[NAMES.queries][7]


def query_passed_over(log: Log) -> None:
    log[NAMES.queries].insert(8, log[NAMES.queries][7])


def not_a_record(log: Log) -> None:
    log[DECISIONS][9] = log[DECISIONS][9]._replace(value=b"\x93")


def letter_without_headers(log: Log) -> None:
    log[LETTERS].append(record(LETTERS, 9, None, b"?"))


def query_changed(log: Log) -> None:
    log[NAMES.queries][7] = log[NAMES.queries][7]._replace(value=bytes(EVIL))


def dispatched_query_changed(log: Log) -> None:
    dispatch = codec.decode_dispatch(value_of(log[LARGE][1]))
    log[LARGE][1] = log[LARGE][1]._replace(value=encode(msgspec.structs.replace(dispatch, query=EVIL)))


def rekeyed(topic: str, number: int) -> Callable[[Log], None]:
    return lambda log: log[topic].__setitem__(number, log[topic][number]._replace(key=b"another"))


def deferral(**changes: Any) -> Callable[[Log], None]:
    """The first deferred query is told something else."""

    def tamper(log: Log) -> None:
        deferred = codec.decode_deferred(value_of(log[DEFERRED][0]))
        log[DEFERRED][0] = log[DEFERRED][0]._replace(value=encode(msgspec.structs.replace(deferred, **changes)))

    return tamper


def letter_changed(log: Log) -> None:
    log[LETTERS][0] = log[LETTERS][0]._replace(value=b"other bytes")


def configuration_changed(log: Log) -> None:
    """In the transaction of the last account row."""
    log[LEDGER].insert(-1, record(LEDGER, 500, "configuration", encode(config(seed=99))))


def row_appended(log: Log) -> None:
    log[LEDGER].append(record(LEDGER, 1_000, "configuration", encode(config(seed=99))))


def account_lost(log: Log) -> None:
    log[LEDGER] = [stored for stored in log[LEDGER] if stored.key != b"account"]


def number_of(kind: type, **fields: Any) -> int:
    """Where the first decision record of a kind is."""
    for number, stored in enumerate(honest()[DECISIONS]):
        decision = codec.decode_decision(value_of(stored))
        if isinstance(decision, kind) and all(getattr(decision, name) == value for name, value in fields.items()):
            return number
    raise LookupError(kind)


def letter_of_another_code(log: Log) -> None:
    first = log[LETTERS][0]
    headers = [(name, b"tollgate.empty" if name == dead_letters.LETTER_CODE else text) for name, text in first.headers]
    log[LETTERS][0] = first._replace(headers=headers)


EVIL = msgspec.Raw(encode({"text": "evil"}))
LARGE = NAMES.dispatch("large")
ROUTED, CLOSED, CHECKPOINT = number_of(Routed, offset=9), number_of(Closed, outcome="settled"), number_of(Checkpoint)
CHANGED, MOVED, TORN = "was changed, or records", "was inserted, or moved", "changed, or torn"
OTHER = FORMAT + 1
TAMPERED = [
    ("a date changed", changed(DECISIONS, ROUTED, at_ms=901), DECISIONS, ROUTED, TORN),
    ("another format", changed(DECISIONS, 0, format=OTHER), DECISIONS, 0, f"format is {OTHER}, but must be {FORMAT}"),
    ("a reason changed", changed(DECISIONS, ROUTED, reason="observing"), DECISIONS, ROUTED, TORN),
    ("prices changed", changed(DECISIONS, ROUTED, charges=[]), DECISIONS, ROUTED, "Routed: charges is []"),
    ("a reservation changed", changed(DECISIONS, ROUTED, reserved_micros=1), DECISIONS, ROUTED, TORN),
    ("more spent than said", changed(DECISIONS, CLOSED, spent_micros=10**6), DECISIONS, CLOSED, "overrun_micros is 0"),
    ("spent too much", changed(DECISIONS, CLOSED, reserved_micros=1), DECISIONS, CLOSED, "reserved_micros is 1"),
    ("settled twice", changed(DECISIONS, CLOSED + 1, dispatch_id="0-1-1"), DECISIONS, CLOSED + 1, "is not open"),
    (
        "a checkpoint changed",
        changed(DECISIONS, CHECKPOINT, reservations=[]),
        DECISIONS,
        CHECKPOINT,
        "number of reservations is 0",
    ),
    ("the last decision changed", changed(DECISIONS, -1, at_ms=13_000), DECISIONS, 72, TORN),
    ("a decision removed", removed(DECISIONS, ROUTED), DECISIONS, ROUTED - 1, CHANGED),
    ("a decision inserted", inserted(ROUTED), DECISIONS, ROUTED, MOVED),
    ("decisions swapped", swapped(ROUTED), DECISIONS, ROUTED + 1, MOVED),
    ("decisions cut off", cut_off, DECISIONS, 70, "ends after 71 of 73 decisions"),
    ("decisions beheaded", beheaded, DECISIONS, 2, "does not begin the chain"),
    ("a decision unreadable", not_a_record, DECISIONS, 9, "is not a decision record"),
    ("a dispatch lost", removed(LARGE, 1), LARGE, None, "dispatch 0-11-1 is missing"),
    ("a dispatch doubled", doubled(LARGE, 1), LARGE, 1_000, "dispatch 0-11-1 is there twice"),
    ("a dispatch changed", changed(LARGE, 1, reserved_micros=1), LARGE, 1, "does not say what its decision says"),
    ("a dispatch forged", forged_dispatch, LARGE, 99, "dispatch 0-500-1 follows from no decision"),
    ("a dispatch to another LLM", misdirected, LARGE, None, "dispatch 0-7-1 is missing"),
    ("a deferral lost", removed(DEFERRED, 0), DEFERRED, None, "deferral 0-21-1 is missing"),
    ("a deferral doubled", doubled(DEFERRED, 0), DEFERRED, 1_000, "deferral 0-21-1 is there twice"),
    ("a dead letter lost", removed(LETTERS, 0), LETTERS, None, "the dead letter of queries offset 20 is missing"),
    ("a dead letter doubled", doubled(LETTERS, 1), LETTERS, 1_000, "completions offset 12 is there twice"),
    ("a dead letter with another code", letter_of_another_code, LETTERS, 0, "does not say what its decision says"),
    ("a dead letter unsigned", letter_without_headers, LETTERS, 9, "is not a record of this topic: it has no header"),
    ("an account changed", account_changed, LEDGER, None, "account large is Account("),
    ("an account lost", account_lost, LEDGER, None, "has no account row"),
    (
        "an account rolled back",
        account_rolled_back,
        LEDGER,
        1_000,
        "is account row 45, but the account row before it is 47",
    ),
    ("the row's prices changed", prices_changed, LEDGER, None, "prices is {'large': 0.5"),
    (
        "the row's digest changed",
        digest_changed,
        DECISIONS,
        72,
        "ends transaction 47, whose account row has another digest",
    ),
    ("a reservation lost", reservation_lost, LEDGER, None, "reservation/0-29-1 is missing"),
    ("a reservation reopened", reservation_reopened, LEDGER, None, "reservation/0-0-1 is there"),
    ("a query lost", query_lost, NAMES.queries, 7, "was decided, but is not in the topic"),
    ("a query passed over", query_passed_over, NAMES.queries, 7, "was passed over"),
    ("a query changed", query_changed, NAMES.queries, 7, "its dispatch or deferral carries another query"),
    ("a dispatched query changed", dispatched_query_changed, NAMES.queries, 11, "carries another query"),
    ("a dispatch under another key", rekeyed(LARGE, 1), LARGE, 1, "its key is not 0-11-1"),
    ("a deferral under another key", rekeyed(DEFERRED, 0), DEFERRED, 0, "its key is not q21"),
    (
        "a deferral with another remedy",
        deferral(remedy=Remedy("send_again")),
        DEFERRED,
        0,
        "does not say what its decision says",
    ),
    ("a deferral with another score", deferral(best_score=9.0), DEFERRED, 0, "does not say what its decision says"),
    ("a deferral of another query", deferral(query=EVIL), NAMES.queries, 21, "carries another query"),
    ("a dead letter's bytes changed", letter_changed, NAMES.queries, 20, "its dead letter holds other bytes"),
    ("a dead letter's key changed", rekeyed(LETTERS, 1), NAMES.completions, 12, "its dead letter holds other bytes"),
    (
        "the configuration changed",
        configuration_changed,
        LEDGER,
        None,
        "the configuration row: resolve_every_queries is 7",
    ),
    ("rows of no transaction", row_appended, LEDGER, None, "rows after the last account row"),
]


@pytest.mark.parametrize(
    ("tamper", "topic", "offset", "wrong"), [c[1:] for c in TAMPERED], ids=[c[0] for c in TAMPERED]
)
def test_tampering_is_named(tamper: Callable[[Log], None], topic: str, offset: int | None, wrong: str) -> None:
    """The first finding names the topic, the offset and what is wrong."""
    log = honest()
    tamper(log)
    first = prove(log).findings[0]
    assert first.topic == topic, str(first)
    assert first.offset == offset, str(first)
    assert wrong in first.text, str(first)


@given(number=st.integers(0, len(written()[DECISIONS]) - 1), place=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_no_byte_of_a_decision_can_be_changed_unseen(number: int, place: int, flip: int) -> None:
    """Whichever record, whichever byte: it is found."""
    log = honest()
    value = bytearray(value_of(log[DECISIONS][number]))
    value[place % len(value)] ^= flip
    log[DECISIONS][number] = log[DECISIONS][number]._replace(value=bytes(value))
    assert prove(log).wrong > 0


@given(data=st.data())
def test_no_bytes_make_the_proof_fail_itself(data: st.DataObject) -> None:
    """Whatever stands in a topic, the proof ends and tells."""
    log = honest()
    topic = data.draw(st.sampled_from(sorted(log)))
    number = data.draw(st.integers(0, len(log[topic]) - 1))
    value = data.draw(st.none() | st.binary(max_size=40))
    log[topic][number] = log[topic][number]._replace(value=value)
    assert prove(log).wrong >= 0
