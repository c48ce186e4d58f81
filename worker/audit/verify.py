"""The proof of one partition's books: feed it the records of every topic, and it tells what is wrong. Pure.

Order of feeding: the ledger to its end, which sets the cut (the last account row); `decisions` until `complete`; then
dispatches, deferred queries, dead letters, queries and completions in any order; at last, where `unexplained`, the
decisions after the cut, and where `is_unnamed`, a newer account row. What belongs to decisions after the cut is thereby
told from what no decision made, and these from what no worker wrote.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

from worker.audit.books import Books
from worker.audit.chain import Chain
from worker.audit.expected import Inputs
from worker.audit.ledger_view import Witness
from worker.audit.outputs import Publications
from worker.audit.report import Finding
from worker.contract import codec
from worker.contract.messages import (
    AccountRow,
    Checkpoint,
    Closed,
    Configured,
    Decision,
    Ignored,
    Offsets,
    Rejected,
    Routed,
)
from worker.contract.record import Record
from worker.contract.topic_names import TopicNames

SHOWN_FINDINGS = 100


class Proof:
    """One partition. `findings` are the first SHOWN_FINDINGS of `wrong`, `notes` what could not be looked at.

    `oldest` holds the first offsets of topics that have one; set it before feeding.
    """

    def __init__(self, partition: int, topics: TopicNames) -> None:
        self.partition = partition
        self.topics = topics
        self.oldest: dict[str, int] = {}
        self.witness = Witness(partition)
        self.books = Books(partition)
        self.chain = Chain()
        self.queries, self.completions = Inputs(), Inputs()
        self.publications = Publications(partition, topics)
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.wrong = self.cut_offset = 0
        self.complete = False
        self._adopting = self._broken = False
        self.tail: Chain | None = None
        self._named = self._last_offset = 0

    # The ledger

    def ledger(self, record: Record) -> None:
        """The next record of the ledger partition."""
        if problem := self.witness.read(record):
            self._find(self.topics.ledger, record.offset, problem)

    # Decisions

    def decision(self, record: Record) -> None:
        """The next record of `decisions`; those after the cut must only follow in the chain."""
        decision = self._decoded(record)
        if decision is None:
            return
        if self.complete:
            self._after_cut(record, decision)
            return
        self._link(record, decision)
        if not self._adopting:
            self._book(record.offset, decision)
        row = self.witness.row
        self.complete = row is not None and self.chain.head == row.head
        self.cut_offset = record.offset

    def _after_cut(self, record: Record, decision: Decision) -> None:
        tail = self.tail = self.tail or copy(self.chain)
        self._find_all(self.topics.decisions, tail.follow(record.offset, decision.prev, record.value or b""))
        self._last_offset = record.offset

    @property
    def is_unnamed(self) -> bool:
        """Whether decisions after the cut are in no account row yet."""
        return self.tail is not None and self.tail.count > self._named

    def named(self, row: AccountRow) -> None:
        """A newer account row of the ledger: it names all decisions up to its own."""
        self._named = row.decisions

    def _decoded(self, record: Record) -> Decision | None:
        try:
            decision: Decision = codec.decode_decision(record.value or b"")
        except codec.UNREADABLE as error:
            self._find(self.topics.decisions, record.offset, f"is no decision record: {error}")
            return None
        return decision

    def _link(self, record: Record, decision: Decision) -> None:
        if self.chain.count == 0 and decision.prev and self._is_shortened(self.topics.decisions):
            self.chain, self._adopting = Chain(decision.prev), True
        breaks = self.chain.follow(record.offset, decision.prev, record.value or b"")
        self._find_all(self.topics.decisions, breaks)
        self._broken = self._broken or self.chain.is_broken or bool(breaks)
        if isinstance(decision, Checkpoint) and self._adopting:
            self._adopt(record.offset, decision)

    def _adopt(self, offset: int, checkpoint: Checkpoint) -> None:
        """Begin at a checkpoint, where the chain's beginning has left the topic."""
        row, config = checkpoint.row, checkpoint.config
        if row is None or config is None:
            return
        self._adopting = False
        self.books.begin(row, config)
        self.chain.count = row.decisions + 1
        self.queries.begin(row.offsets.queries)
        self.completions.begin(row.offsets.completions)
        self.notes.append(
            f"{self.topics.decisions}/{self.partition}: what is before offset {offset} has left the topic, "
            "or precedes its first checkpoint; the proof begins at that checkpoint"
        )

    def _book(self, offset: int, decision: Decision) -> None:
        self._find_all(self.topics.decisions, ((offset, problem) for problem in self.books.apply(decision)))
        self.publications.expect(decision, self.books.llms)
        match decision:
            case Routed():
                self.witness.decided(decision)
                if decision.attempt == 1:
                    self._decided(offset, "queries", decision.offset)
            case Rejected():
                self._decided(offset, decision.topic, decision.offset)
            case Ignored() | Closed(offset=int()):
                self._decided(offset, "completions", decision.offset or 0)
            case Configured(prev=b"") if self.chain.count > 1:
                self._find(self.topics.decisions, offset, "begins the chain a second time")
            case Checkpoint(row=AccountRow() as row):
                self._agree(self.topics.decisions, offset, row, self.chain.count - 1, decision.prev)
        if not self._broken:
            torn = self.witness.pass_by(self.chain.count, self.books.dispatches, self.chain.head)
            self._find_all(self.topics.decisions, ((offset, problem) for problem in torn))

    def _decided(self, offset: int, topic: str, input_offset: int) -> None:
        inputs = self.queries if topic == "queries" else self.completions
        if not inputs.decide(input_offset):
            wrong = f"decides {topic} offset {input_offset} when {inputs.applied} was decided: twice, or out of order"
            self._find(self.topics.decisions, offset, wrong)

    @property
    def is_decided(self) -> bool:
        """Whether every decision up to the cut was read."""
        return self.complete or self.witness.row is None

    # What follows from decisions

    def published(self, record: Record) -> None:
        """A record of a dispatch topic, of `deferred` or of `dead-letters`."""
        if problem := self.publications.read(record, (self.queries.base, self.completions.base)):
            self._find(record.topic, record.offset, problem)

    @property
    def is_published(self) -> bool:
        """Whether everything that follows from the decisions was read."""
        return self.publications.is_met(self.oldest)

    @property
    def unexplained(self) -> bool:
        """Whether there are records that no decision up to the cut made: those after it must explain them."""
        return self.publications.unexplained

    def afterwards(self, record: Record) -> None:
        """A record of `decisions` again, this time also after the cut: it explains what followed from it."""
        decision = self._decoded(record)
        if decision is not None:
            self.publications.explain(decision)

    # Inputs, and the end

    def input(self, record: Record) -> None:
        """The next record of `queries` or `completions`."""
        completion = record.topic == self.topics.completions
        inputs = self.completions if completion else self.queries
        self._find_all(record.topic, inputs.read(record.offset, self.oldest.get(record.topic, 0)))
        differing = self.publications.passed.differing(completion, record)
        self._find_all(record.topic, ((record.offset, problem) for problem in differing))

    def finish(self) -> None:
        """After the last record: whatever should have been there."""
        self._find_all(self.topics.decisions, self.chain.end())
        if self.tail is not None:
            self._find_all(self.topics.decisions, self.tail.end())
        if self.is_unnamed:
            self._find(self.topics.decisions, self._last_offset, "is in no account row: appended by somebody else")
        self._finish_ledger()
        for topic, inputs in ((self.topics.queries, self.queries), (self.topics.completions, self.completions)):
            self._find_all(topic, inputs.end(self.oldest.get(topic, 0)))
            self._note_gone(topic, inputs.gone)
        for topic, offset, problem in self.publications.end(self.oldest):
            self._find(topic, offset, problem)
        for topic, gone in self.publications.gone.items():
            self._note_gone(topic, gone)

    def _finish_ledger(self) -> None:
        row = self.witness.row
        if self._adopting:
            self._find(self.topics.decisions, None, "has lost its beginning and holds no checkpoint to begin at")
        elif row is None and self.chain.count:
            self._find(self.topics.ledger, None, "has no account row, but there are decisions")
        elif row is not None:
            if not self.complete:
                said = f"ends after {self.chain.count} of {row.decisions} records"
                last = self.cut_offset if self.chain.count else None
                self._find(self.topics.decisions, last, f"{said}, not with the one that the account row names")
            self._agree(self.topics.ledger, None, row, self.chain.count, self.chain.head)
            self._find_all(self.topics.ledger, ((None, problem) for problem in self.books.differences(row)))
            self._find_all(self.topics.ledger, ((None, what) for what in self.witness.differing(self.books.open)))
            if self.witness.config != self.books.config:
                self._find(self.topics.ledger, None, "the configuration row is not as it was decided")
            if not self.witness.is_whole:
                self._find(self.topics.ledger, None, "rows after the last account row belong to no transaction")

    def _agree(self, topic: str, offset: int | None, row: AccountRow, decisions: int, head: bytes) -> None:
        applied = Offsets(self.queries.applied, self.completions.applied)
        for name, said, decided in (
            ("decisions", row.decisions, decisions),
            ("head", row.head.hex(), head.hex()),
            ("offsets", row.offsets, applied),
        ):
            if said != decided:
                self._find(topic, offset, f"the account row says {name} {said}, the decisions {decided}")

    def _is_shortened(self, topic: str) -> bool:
        return self.oldest.get(topic, 0) > 0

    def _note_gone(self, topic: str, gone: int) -> None:
        if gone:
            self.notes.append(f"{topic}/{self.partition}: {gone} records have left the topic and were not looked at")

    def _find_all(self, topic: str, found: Iterable[tuple[int | None, str]]) -> None:
        for offset, wrong in found:
            self._find(topic, offset, wrong)

    def _find(self, topic: str, offset: int | None, wrong: str) -> None:
        self.wrong += 1
        if len(self.findings) < SHOWN_FINDINGS:
            self.findings.append(Finding(topic, self.partition, offset, wrong))
