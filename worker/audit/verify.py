"""Proves the books of one partition from the records of its topics. Pure: `Topics` does the reading.

The last account row of the ledger is the cut. What the decisions up to the cut published must be in the other topics.
A record that they did not publish must follow from a later decision.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from worker.audit.books import Books
from worker.audit.chain import DecisionRecord, linked
from worker.audit.early import Early
from worker.audit.homes import Homes, elsewhere
from worker.audit.inputs import Inputs
from worker.audit.ledger_view import LedgerView
from worker.audit.mismatch import Mismatch
from worker.audit.outputs import Outputs
from worker.audit.start import Start, find_start
from worker.audit.topics import Topics
from worker.audit.transactions import Transactions
from worker.contract.decisions import (
    Cause,
    ChargedAgain,
    Checkpoint,
    Closed,
    Configured,
    Decision,
    Ignored,
    Missed,
    Rejected,
    Routed,
    Switched,
)
from worker.contract.messages import AccountRow, Offsets
from worker.contract.topic_names import TopicNames
from worker.service.home import topics_of_home

SHOWN_FINDINGS = 100


@dataclass
class Verified:
    """One partition whose books were added up, up to the cut. `decisions` counts the chain, and `head` is its hash.

    `wrong` counts the findings, and `findings` holds the first SHOWN_FINDINGS. `notes` say what could not be looked at.
    `broken` says whether the chain has a broken link.
    """

    partition: int
    names: TopicNames
    books: Books
    ledger: LedgerView = field(default_factory=LedgerView)
    queries: Inputs = field(default_factory=Inputs)
    completions: Inputs = field(default_factory=Inputs)
    decisions: int = 0
    head: bytes = b""
    broken: bool = False
    homes: Homes = field(default_factory=Homes)
    early: Early = field(default_factory=Early)
    wrong: int = 0
    findings: list[Mismatch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def find(self, topic: str, offset: int | None, mismatches: Iterable[Mismatch | None]) -> None:
        """Note mismatches of one record; None is no mismatch."""
        self.find_all(found.at(topic, self.partition, offset) for found in mismatches if found is not None)

    def find_all(self, mismatches: Iterable[Mismatch]) -> None:
        """Note mismatches that have their places."""
        for mismatch in mismatches:
            self.wrong += 1
            if len(self.findings) < SHOWN_FINDINGS:
                self.findings.append(mismatch)

    def note_gone(self, topic: str, gone: int) -> None:
        """Note that records could not be looked at, if there are any."""
        if gone:
            self.notes.append(f"{topic}/{self.partition}: {gone} records have left the topic and were not looked at")

    def linked(self, records: Iterable[DecisionRecord | Mismatch]) -> Iterator[DecisionRecord]:
        """The records that belong to the chain. A broken link is a finding."""
        for record in records:
            if isinstance(record, Mismatch):
                self.broken = True
                self.find_all([record])
            else:
                yield record

    @property
    def is_cut(self) -> bool:
        """Whether the decisions were read up to the one that the account row names as the last."""
        return self.ledger.row is not None and self.ledger.row.head == self.head


def verify(partition: int, names: TopicNames, llms: Iterable[str], topics: Topics) -> Verified:
    """Add up the books of one partition and compare all its topics with them. `llms` are those configured today."""
    result = Verified(partition, names, Books(partition))
    outputs = Outputs(partition, names)

    def is_read() -> bool:
        return result.ledger.row is None or (result.is_cut and outputs.is_explained)

    _read_ledger(result, topics)
    records = result.linked(linked(topics.read([names.decisions], is_read), _first_link(names, topics)))
    start, skipped = find_start(records)
    if start is not None:
        _begin(result, start, topics)
        _book(result, start, records, outputs)
    elif skipped:
        what = "has neither the beginning of the chain nor a whole checkpoint, so nothing can be proven"
        result.find(names.decisions, None, [Mismatch(what)])
    _check_outputs(result, outputs, llms, topics)
    _check_inputs(result, outputs, topics)
    _check_later_decisions(result, outputs, records, topics)
    _check_ledger(result)
    result.find(result.names.decisions, result.early.offset, result.early.findings())
    _check_home(result, topics)
    return result


def _first_link(names: TopicNames, topics: Topics) -> bytes | None:
    """The `prev` of the first decision; None if retention has removed the beginning of the chain."""
    return None if topics.oldest(names.decisions) > 0 else b""


def _read_ledger(result: Verified, topics: Topics) -> None:
    ledger = result.ledger = LedgerView()
    rows = topics.read([result.names.ledger], lambda: ledger.is_whole)
    result.find_all(filter(None, map(ledger.add, rows)))


# The decisions up to the cut


def _begin(result: Verified, start: Start, topics: Topics) -> None:
    """Take over the state of a checkpoint, if the chain's beginning has left the topic."""
    result.books = Books(result.partition, start)
    if start.row is None:
        return
    if result.ledger.row is not None and result.ledger.row.decisions < start.before:
        # The system has gone on, and retention has removed the decision that the row named.
        _read_ledger(result, topics)
    result.homes = Homes(start.config)
    result.queries, result.completions = Inputs(start.row.offsets.queries), Inputs(start.row.offsets.completions)
    result.head, result.decisions = start.records[-1].head, start.before + len(start.records)
    result.notes.append(
        f"{result.names.decisions}/{result.partition}: the proof begins at the checkpoint at offset {start.offset}; "
        "the decisions before it have left the topic, or follow no checkpoint"
    )


def _book(result: Verified, start: Start, records: Iterable[DecisionRecord], outputs: Outputs) -> None:
    """Book every decision up to the cut."""
    transactions = Transactions(result.partition, result.ledger.marks)
    if start.is_chain:
        records = itertools.chain(start.records, records)
    elif result.is_cut:
        return
    record = start.records[-1]
    for record in records:
        result.decisions, result.head = result.decisions + 1, record.head
        _book_one(result, record, outputs)
        if not result.broken:
            torn = transactions.add(record.decision, result.decisions, result.books.dispatches, record.head)
            result.find(result.names.decisions, record.offset, torn)
        if result.is_cut:
            return
    if result.ledger.row is not None:
        said = f"ends after {result.decisions} of {result.ledger.row.decisions} decisions"
        what = f"{said}, and not with the decision that the account row names"
        result.find(result.names.decisions, record.offset, [Mismatch(what)])


def _book_one(result: Verified, record: DecisionRecord, outputs: Outputs) -> None:
    decision = record.decision
    result.find(result.names.decisions, record.offset, result.books.apply(decision))
    result.find(result.names.decisions, record.offset, [_decide_input(result, decision)])
    if isinstance(decision, Checkpoint) and decision.row is not None:
        before = result.decisions - 1
        row = _row_differences(result, "the checkpoint's account row", decision.row, before, decision.prev)
        result.find(result.names.decisions, record.offset, row)
    result.early.add(record)
    if isinstance(decision, Configured):
        place = f"{result.names.decisions}/{result.partition} offset {record.offset}"
        result.notes += [f"{place}: {change}" for change in result.homes.add(decision)]
    outputs.expect(decision, result.books.llms)


def _decide_input(result: Verified, decision: Decision) -> Mismatch | None:
    """Note which input record this is the first decision about."""
    match decision:
        case Missed():
            return _miss_input(result, decision)
        case Routed(attempt=1):
            topic, offset = "queries", decision.offset
        case Rejected() | Ignored() | ChargedAgain() | Closed(cause=Cause(kind="completions")) | Switched(worker=str()):
            topic, offset = decision.cause.kind, decision.cause.number
        case _:
            return None
    inputs = result.queries if topic == "queries" else result.completions
    last = inputs.applied
    if inputs.decide(offset):
        return None
    return Mismatch(f"decides {topic} offset {offset} after offset {last} was decided: twice, or out of order")


def _miss_input(result: Verified, missed: Missed) -> Mismatch:
    """Note which input records were gone before they were decided. That is always a finding."""
    topic, last = missed.cause.kind, missed.cause.number
    inputs = result.queries if topic == "queries" else result.completions
    if not inputs.miss(missed.first, last):
        return Mismatch(f"misses {topic} offsets {missed.first} to {last} after offset {inputs.applied} was decided")
    name = result.names.queries if topic == "queries" else result.names.completions
    lost = "were never decided" if topic == "queries" else "were never booked"
    return Mismatch(
        f"records a loss: up to {missed.offsets} {topic}, the offsets {missed.first} to {last} of {name}, {lost}. They "
        "left the topic before a worker read them: the retention of the topic is shorter than the time in which no "
        "worker read it, or somebody deleted them"
    )


def _row_differences(
    result: Verified, what: str, row: AccountRow, decisions: int, head: bytes
) -> Iterator[Mismatch | None]:
    """Compare what an account row says of the chain and the inputs."""
    applied = Offsets(result.queries.applied, result.completions.applied)
    if row.decisions != decisions:
        yield Mismatch(what, "decisions", row.decisions, decisions)
    if row.head != head:
        yield Mismatch(what, "head", row.head.hex(), head.hex())
    if row.offsets != applied:
        yield Mismatch(what, "offsets", row.offsets, applied)


# The other topics


def _check_outputs(result: Verified, outputs: Outputs, llms: Iterable[str], topics: Topics) -> None:
    """Compare the dispatches, the deferred queries and the dead letters with the decisions."""
    names = result.names
    dispatches = [names.dispatch(llm) for llm in sorted({*llms, *result.books.asked})]
    published = [*dispatches, names.deferred, names.dead_letters]
    outputs.oldest = {topic: topics.oldest(topic) for topic in published}
    base = Offsets(result.queries.base, result.completions.base)
    for record in topics.read(published, lambda: outputs.is_complete):
        result.find(record.topic, record.offset, [outputs.read(record, base)])


def _check_inputs(result: Verified, outputs: Outputs, topics: Topics) -> None:
    """Every input record up to the last one decided has a decision, and was passed on as it is."""
    names = result.names
    inputs = {names.queries: result.queries, names.completions: result.completions}
    oldest = {topic: topics.oldest(topic) for topic in inputs}
    for record in topics.read([*inputs]):
        result.find_all(inputs[record.topic].read(record, oldest[record.topic]))
        topic = "queries" if record.topic == names.queries else "completions"
        result.find(record.topic, record.offset, outputs.payloads.differences(topic, record))
    for name, read in inputs.items():
        result.find_all(read.end(name, result.partition, oldest[name]))
        result.note_gone(name, read.gone)


def _check_later_decisions(
    result: Verified, outputs: Outputs, records: Iterable[DecisionRecord], topics: Topics
) -> None:
    """Later decisions must explain what else was published, and a newer account row must name them."""
    last, decisions = None, result.decisions
    for record in records:
        outputs.explain(record.decision)
        last, decisions = record, decisions + 1
    result.find_all(outputs.end())
    for topic, gone in outputs.gone.items():
        result.note_gone(topic, gone)
    if last is not None and not _is_named(result, decisions, topics):
        what = "is in no account row: it was not written by a lane"
        result.find(result.names.decisions, last.offset, [Mismatch(what)])


def _is_named(result: Verified, decisions: int, topics: Topics) -> bool:
    """Whether a newer account row counts so many decisions."""
    newer = LedgerView()

    def is_counted() -> bool:
        return newer.row is not None and newer.row.decisions >= decisions

    rows = topics.read([result.names.ledger], is_counted, result.ledger.next_offset)
    result.find_all(filter(None, map(newer.add, rows)))
    return is_counted()


def _check_ledger(result: Verified) -> None:
    """The last account row and the other rows must be what the decisions make of them."""
    names, row = result.names, result.ledger.row
    if row is None:
        if result.decisions:
            lost = "has no account row, but there are decisions: the ledger was lost, or its topic was made anew"
            result.find(names.ledger, None, [Mismatch(f"{lost}; see docs/how-to/lost-topics.md")])
        return
    what = "the account row"
    result.find(names.ledger, None, _row_differences(result, what, row, result.decisions, result.head))
    result.find(names.ledger, None, result.books.differences(what, row))
    result.find(names.ledger, None, result.books.account_differences("the row", result.ledger.accounts.values()))
    result.find(
        names.ledger, None, result.ledger.differences(result.books.config, result.books.open, result.books.closed)
    )


def _check_home(result: Verified, topics: Topics) -> None:
    """The topics must be those that the books belong to."""
    config = result.ledger.config or result.books.config
    names = topics_of_home(result.names)
    ids = topics.ids(names.values())
    home = None if config is None else config.home
    for name, found in elsewhere(home, {name: ids.get(topic) for name, topic in names.items()}):
        result.find(names[name], None, [found])
