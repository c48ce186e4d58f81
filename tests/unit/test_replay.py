"""The replay: what was recorded comes out again bit for bit, and whatever does not is named."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.drive import CRASH, LLMS, NOT_A_QUERY, PRIOR, completion, config, failure, query, tick
from tests.topics import NAMES, Log, Recorded, record
from tests.topics import value as value_of
from tests.unit.test_verify import changed, cut_off, inserted, removed, story, swapped
from worker.audit.chain import Anchor
from worker.audit.ledger_view import LedgerView
from worker.audit.mismatch import Mismatch
from worker.audit.recorded_prices import Solutions
from worker.audit.replay import Checks, Replay, replay
from worker.contract import codec
from worker.contract.decisions import Checkpoint, Closed, Ignored, Priced, Routed
from worker.contract.messages import WindowBlock
from worker.contract.record import StoredRecord
from worker.contract.usage import Usage
from worker.core import ledger as ledger_module
from worker.core.events import Completed, Event, Reconfigured, Refused
from worker.core.journal import record_hash

INDEX = config().index


def replayed(
    records: Iterable[StoredRecord],
    index: str | None = INDEX,
    limit: int | None = None,
    ledger: LedgerView | None = None,
    **checks: Any,
) -> Replay:
    """The replay of these decision records; the end must agree with the ledger."""
    checked = Checks(read_ledger=lambda: ledger, **checks)
    return replay(Replay(0, NAMES.decisions), records, PRIOR, Solutions(index), checked, limit)


def diverging(*records: Any, **checks: Any) -> Mismatch:
    """The first divergence of these decision records. There is one."""
    found = replayed(*records, **checks).mismatch
    assert found is not None
    return found


def ledger_of(log: Log) -> LedgerView:
    """The ledger as it was read."""
    view = LedgerView()
    for stored in log[NAMES.ledger]:
        view.add(stored)
    return view


@cache
def driven(policy: str, size: int) -> Recorded:
    """The story, in batches of `size`."""
    events = story()
    return Recorded(config(policy=policy)).run([events[i : i + size] for i in range(0, len(events), size)])


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("policy", ["priced", "port"])
def test_what_was_decided_comes_out_again(policy: str, size: int) -> None:
    """Every record, whatever the policy and the transactions; and in the end the account row."""
    drive = driven(policy, size)
    result = replayed(drive.topics()[NAMES.decisions], ledger=ledger_of(drive.log))
    assert result.mismatch is None
    assert result.compared == len(drive.decisions)
    assert result.skipped == 0


def checkpoints() -> list[int]:
    return [n for n, decision in enumerate(driven("priced", 1).decisions) if isinstance(decision, Checkpoint)]


@pytest.mark.parametrize("start", checkpoints())
def test_a_replay_can_begin_at_any_checkpoint(start: int) -> None:
    """What is before the checkpoint is skipped; everything from it on comes out again."""
    drive = driven("priced", 1)
    result = replayed(drive.topics()[NAMES.decisions][start - 1 :], ledger=ledger_of(drive.log))
    count = len(drive.decisions)
    assert result.mismatch is None
    assert result.compared == count - start
    assert result.skipped == 1


def test_a_lane_that_crashed_is_replayed_like_any_other() -> None:
    """A lane restored from its ledger leaves no trace in its decisions."""
    events = story()
    drive = Recorded().run(item for event in events for item in (event, CRASH))
    assert replayed(drive.topics()[NAMES.decisions]).mismatch is None


def test_reservations_that_no_tick_has_taken_up() -> None:
    """A mass expiry takes several ticks; queries, answers and checkpoints between them find the rest still open."""
    events: list[Event] = [query(offset, at_ms=offset) for offset in range(10)]
    answered = Recorded().run(events).dispatches[-1]
    events += [tick(20_000, queries=3), tick(20_000, queries=6), query(10, at_ms=20_001)]
    events += [completion(0, answered.id, answered.llm, at_ms=20_002), tick(20_003, queries=9), tick(20_003)]
    drive = Recorded(config(checkpoint_every=1)).run(events)
    result = replayed(drive.topics()[NAMES.decisions], ledger=ledger_of(drive.log))
    assert (result.mismatch, result.compared) == (None, len(drive.decisions))


ENDS = [
    (
        "an error that was charged",
        completion(0, "0-0-1", "large", ok=False, stated_micros=30, retry=query(0, at_ms=100)),
    ),
    ("an error that was free", completion(0, "0-0-1", "large", ok=False, stated_micros=0, retry=query(0, at_ms=100))),
    ("an error after the query had left", failure(0, "0-0-1", "large")),
    ("an answer of unknown cost", completion(0, "0-0-1", "large", stated_micros=None)),
    ("a free answer", completion(0, "0-0-1", "large", stated_micros=0, cost="known")),
    (
        "an answer priced by usage",
        completion(0, "0-0-1", "large", stated_micros=None, usage=Usage(10, 20, stated_micros=90)),
    ),
    ("an answer of another LLM", completion(0, "0-0-1", "small")),
    ("an answer nobody waits for", completion(0, "0-7-1", "large")),
    ("no answer", tick(10_000)),
    ("nothing at all", tick(1)),
    ("bytes that are no answer", Refused("completions", 0, 0, NOT_A_QUERY)),
    ("another budget", Reconfigured(1, config(budget_micros={"large": 1, "medium": 1, "small": 1}))),
]


@pytest.mark.parametrize("event", [case[1] for case in ENDS], ids=[case[0] for case in ENDS])
@pytest.mark.parametrize("more", [True, False])
def test_every_kind_of_event_is_told_from_its_records(event: Event, more: bool) -> None:
    """Alone at the end of the log, and with another query after it."""
    after = [query(1, at_ms=10_000)] if more else []
    drive = Recorded().run([query(0, quality=[0.9, 0.0, 0.0]), event, *after])
    result = replayed(drive.topics()[NAMES.decisions], ledger=ledger_of(drive.log))
    assert (result.mismatch, result.compared) == (None, len(drive.decisions))


SOLVED = [
    ("with the index", INDEX, ("exact", 0)),
    ("without it", None, ("taken", 0)),
    ("with another", "another", ("taken", 0)),
]


@pytest.mark.parametrize(("index", "expected"), [case[1:] for case in SOLVED], ids=[case[0] for case in SOLVED])
def test_prices_are_solved_again_where_the_index_is_at_hand(index: str | None, expected: tuple[str, int]) -> None:
    """Without it the recorded prices are taken, and all else is still compared."""
    drive = driven("priced", 1)
    solutions = Solutions(index)
    result = replay(Replay(0, NAMES.decisions), drive.topics()[NAMES.decisions], PRIOR, solutions)
    solved = sum(isinstance(decision, Priced) for decision in drive.decisions)
    counts = {"exact": solutions.exact, "taken": solutions.taken}
    assert result.mismatch is None
    assert counts.pop(expected[0]) == solved
    assert counts.popitem()[1] == 0


# Divergence


def number_of(kind: type, **fields: Any) -> int:
    """Where the first decision record of a kind is."""
    for number, decision in enumerate(driven("priced", 1).decisions):
        if isinstance(decision, kind) and all(getattr(decision, name) == value for name, value in fields.items()):
            return number
    raise LookupError(kind)


def dearer(number: int) -> Callable[[dict[str, list[StoredRecord]]], None]:
    """Prices a little higher than what was solved for."""
    priced = driven("priced", 1).decisions[number]
    assert isinstance(priced, Priced)
    return changed(NAMES.decisions, number, prices=tuple(1.001 * price for price in priced.prices))


def absurd(log: Log) -> None:
    """A window of more estimates than any memory holds."""
    configured = codec.decode_decision(value_of(log[D][0]))
    content = msgspec.structs.replace(configured, config=config(window_queries=10**13))
    log[D][0] = log[D][0]._replace(value=codec.encode(content))


ROUTED, CLOSED, PRICED = number_of(Routed, offset=9), number_of(Closed, outcome="settled"), number_of(Priced, seen=7)
CHECKPOINT = number_of(Checkpoint)
D = NAMES.decisions


def place_of(mismatch: Mismatch) -> tuple[int | None, str, str]:
    """Where a mismatch is: the offset, the kind of record and the field, or that the log itself is wrong."""
    if mismatch.field is None:
        return mismatch.offset, "log", "records"
    return mismatch.offset, mismatch.what, mismatch.field


DIVERGING = [
    ("another LLM", changed(D, ROUTED, llm="small"), (ROUTED, "Routed", "llm")),
    ("another reservation", changed(D, ROUTED, reserved_micros=1), (ROUTED, "Routed", "reserved_micros")),
    ("another reason", changed(D, ROUTED, reason="observing"), (ROUTED, "Routed", "reason")),
    ("other estimates", changed(D, ROUTED, cost_micros=[9_000, 9, 9]), (ROUTED, "Routed", "charges")),
    ("estimates that change nothing", changed(D, ROUTED, quality=[0.0, 0.62, 0.0]), (ROUTED, "log", "records")),
    ("another overrun", changed(D, CLOSED, overrun_micros=5), (CLOSED, "Closed", "overrun_micros")),
    ("other prices", dearer(PRICED), (PRICED, "Priced", "prices")),
    ("another dispatch", changed(D, CLOSED, dispatch_id="0-77-1"), (CLOSED, "Closed", "kind")),
    ("another checkpoint", changed(D, CHECKPOINT, reservations=[]), (CHECKPOINT, "Checkpoint", "reservations")),
    ("a record removed", removed(D, ROUTED), (ROUTED - 1, "log", "records")),
    ("a record inserted", inserted(ROUTED), (ROUTED, "log", "records")),
    ("records swapped", swapped(ROUTED), (ROUTED + 1, "log", "records")),
    ("the log cut off", cut_off, (70, "log", "records")),
    ("a query after its prices", changed(D, PRICED + 1, at_ms=701), (PRICED + 1, "log", "records")),
    ("the last record", changed(D, -1, query_deadline_ms=10**15), (72, "account row", "head")),
    ("absurd settings", absurd, (0, "log", "records")),
    ("a price without its query", removed(D, PRICED + 1), (PRICED, "log", "records")),
]


@pytest.mark.parametrize(("tamper", "expected"), [case[1:] for case in DIVERGING], ids=[case[0] for case in DIVERGING])
def test_the_first_record_that_comes_out_differently_is_named(
    tamper: Callable[[dict[str, list[StoredRecord]]], None], expected: tuple[int, str, str]
) -> None:
    """With its offset, its kind and the field."""
    log = driven("priced", 1).topics()
    log[D] = list(log[D])
    tamper(log)
    divergence = diverging(log[D], ledger=ledger_of(driven("priced", 1).log))
    assert place_of(divergence) == expected, str(divergence)


FIRST, _, THIRD, FOURTH = checkpoints()[:4]
# One event of the story closes so many reservations.
EXPIRED = sum(
    isinstance(decision, Closed) and decision.outcome == "expired" for decision in driven("priced", 1).decisions
)
SKIPPED = [
    ("changed", changed(D, FOURTH - 3, at_ms=1), FOURTH - 3, "was changed, or records"),
    ("removed", removed(D, FOURTH - 3), FOURTH - 4, f"between it and offset {FOURTH - 2} were removed"),
    ("the checkpoint's own link", removed(D, FOURTH - 1), FOURTH - 2, f"between it and offset {FOURTH} were removed"),
]


@pytest.mark.parametrize(("tamper", "offset", "wrong"), [c[1:] for c in SKIPPED], ids=[c[0] for c in SKIPPED])
def test_the_chain_is_followed_through_what_is_skipped(tamper: Callable[[Log], None], offset: int, wrong: str) -> None:
    """What comes before the checkpoint is not decided again, but none of it can be changed unseen."""
    log = driven("priced", 1).topics()
    log[D] = list(log[D])
    tamper(log)
    divergence = diverging(log[D][THIRD + 1 :])
    assert divergence.offset == offset, str(divergence)
    assert wrong in str(divergence)


@pytest.mark.parametrize("limit", range(1, 73, 3))
def test_a_replay_ends_before_the_first_event_from_its_limit_on(limit: int) -> None:
    """Every record before it is compared, and what else their events caused; the head is that of the last compared."""
    records = driven("priced", 1).topics()[D]
    result = replayed(records, limit=limit)
    last = value_of(records[result.compared - 1])
    head = Anchor(0, result.compared, record_hash(last).hex(), codec.decode_decision(last).at_ms)
    assert result.mismatch is None
    assert 0 <= result.compared - limit <= EXPIRED
    assert result.head == head


def test_the_last_record_before_the_limit_is_compared() -> None:
    """Also one whose event is only known by the record after it."""
    log = driven("priced", 1).topics()
    log[D] = list(log[D])
    changed(D, CLOSED, overrun_micros=5)(log)
    divergence = diverging(log[D], limit=CLOSED + 1)
    assert divergence.offset == CLOSED
    assert divergence.field == "overrun_micros"


def test_a_completion_that_had_to_settle_was_not_to_be_ignored() -> None:
    """The router is given what the completion says, and closes the reservation."""
    drive = Recorded().run([query(0, quality=[0.9, 0.0, 0.0]), completion(0, "0-7-1", "large"), query(1)])

    def original(event: Event, _: object) -> Event:
        if not isinstance(event, Completed):
            return event
        return msgspec.structs.replace(event, answer=msgspec.structs.replace(event.answer, dispatch_id="0-0-1"))

    divergence = diverging(drive.topics()[D], original=original)
    number = next(n for n, decision in enumerate(drive.decisions) if isinstance(decision, Ignored))
    assert divergence.offset == number
    assert divergence.recorded == "Ignored"
    assert divergence.expected == "Closed"


def decisions(drive: Recorded, queries: int) -> Iterator[StoredRecord]:
    """The decisions about so many queries, made while they are read; memory is traced from the first query on."""
    yield from drive.log.pop(D)
    tracemalloc.start()
    for offset in range(queries):
        for dispatch in drive.commit([query(offset)]).dispatches:
            drive.commit([completion(offset, dispatch.id, dispatch.llm, at_ms=offset * 100)])
        drive.__dict__.update(dispatches=[], deferred=[], decisions=[])
        drive._inputs.clear()
        records = drive.log.pop(D)
        drive.log.clear()
        yield from records


@pytest.mark.long
def test_memory_does_not_grow_with_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as many decisions leave no more behind, once the ledger keeps as many closed dispatches as it may."""
    monkeypatch.setattr(ledger_module, "MOST_CLOSED", 50)

    def left_by(queries: int) -> int:
        drive = Recorded(config(budget_micros=dict.fromkeys(LLMS, 10**9)))
        result = replay(Replay(0, D), decisions(drive, queries), PRIOR, Solutions(INDEX))
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert result.mismatch is None, str(result.mismatch)
        return size

    small, large = left_by(100), left_by(1_000)
    assert large < small + 100_000, (small, large)


ROWS = [
    ("the configuration", b"configuration", config(seed=9), "configuration row"),
    ("a block of the window", b"window/0", WindowBlock(bytes(120), bytes(240)), "window/0 row"),
    ("a block that is none", b"window/7", WindowBlock(b"", b""), "window/7 row"),
    ("a reservation", b"reservation/0-29-1", None, "reservation/0-29-1 row"),
]


@pytest.mark.parametrize(("key", "value", "kind"), [c[1:] for c in ROWS], ids=[c[0] for c in ROWS])
def test_rows_that_the_next_owner_would_restore_are_compared(key: bytes, value: Any, kind: str) -> None:
    """Whoever changes the configuration, the window or a reservation in the ledger is found."""
    log = driven("priced", 1).topics()
    stored = record(NAMES.ledger, 0, key.decode(), None if value is None else codec.encode(value))
    log[NAMES.ledger] = [*log[NAMES.ledger][:-1], stored, log[NAMES.ledger][-1]]
    divergence = diverging(log[D], ledger=ledger_of(log))
    assert (divergence.what, divergence.offset) == (kind, 72)


def test_the_rows_of_an_honest_ledger_agree() -> None:
    """After any transaction, with a window that went round and reservations closed."""
    log = driven("priced", 1).topics()
    ledger = ledger_of(log)
    result = replayed(log[D], ledger=ledger)
    assert result.mismatch is None
    assert result.arrived
    assert ledger.is_whole


def test_an_account_row_that_was_changed_is_named() -> None:
    """Also where no decision was touched."""
    drive = driven("priced", 1)
    ledger = ledger_of(drive.log)
    ledger.row = msgspec.structs.replace(drive.router.view.account_row(), seen=1)
    divergence = diverging(drive.topics()[D], ledger=ledger)
    assert divergence.what == "account row"
    assert divergence.field == "seen"
    assert divergence.recorded == 1
    assert divergence.expected == drive.router.view.seen


@given(
    number=st.integers(0, len(driven("priced", 1).decisions) - 1),
    place=st.integers(0, 10_000),
    flip=st.integers(1, 255),
)
def test_no_byte_of_a_decision_can_be_changed_unseen(number: int, place: int, flip: int) -> None:
    """Whichever record, whichever byte: something comes out differently."""
    drive = driven("priced", 1)
    records = list(drive.topics()[D])
    value = bytearray(value_of(records[number]))
    value[place % len(value)] ^= flip
    records[number] = records[number]._replace(value=bytes(value))
    result = replayed(records, ledger=ledger_of(drive.log))
    assert result.mismatch is not None or result.router is None
