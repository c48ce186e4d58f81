"""Reads every transaction as it commits and keeps books of its own: what must hold after every step, held against it.

Nothing here calls the router, but for two things: `Router.restored` must give what the owner has in memory, and at the
end a fresh router must decide the same again. Then `tollgate verify` and `tollgate replay` must find nothing either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from tests.simulation import money
from tests.simulation.choice import is_free, wrong_choice
from tests.simulation.reading import TOPICS, by_topic, dead_letter_origin, fields, proven, replayed, values
from worker.contract import codec
from worker.contract.accounts import Account
from worker.contract.decisions import (
    Cause,
    ChargedAgain,
    Checkpoint,
    Closed,
    Configured,
    Decision,
    Ignored,
    Priced,
    Rejected,
    Routed,
    Switched,
)
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import Configuration, Offsets
from worker.contract.record import StoredRecord
from worker.core.events import Event, Reconfigured
from worker.core.journal import record_hash
from worker.core.router import Prior, Router
from worker.core.snapshot import read_rows
from worker.kafka.memory import Log, Transaction

# limits.max_cost_usd of the settings that the simulation runs with.
MOST_MICROS = 1_000_000_000
NO_PRIOR = Prior(np.zeros((0, 0)), np.zeros((0, 0)))


def prior_for(llms: Sequence[str]) -> Prior:
    """What an index of these LLMs knows beforehand."""
    rows, columns = np.arange(8.0)[:, None], np.arange(float(len(llms)))[None, :]
    return Prior((rows * 7 + columns * 3) % 10 / 10, 100 + (rows * 5 + columns * 11) % 13 * 50)


class Violation(Exception):
    """What must always hold does not."""


def require(claim: bool, text: str) -> None:
    """Raise Violation unless `claim` holds."""
    if not claim:
        raise Violation(text)


@dataclass
class Books:
    """One partition's state as its decision records tell it."""

    accounts: dict[str, Account] = field(default_factory=dict)
    open: dict[str, Routed] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    out: dict[str, int] = field(default_factory=dict)
    probed: Switched | None = None
    booked: dict[str, Closed | ChargedAgain] = field(default_factory=dict)
    held: dict[str, Routed] = field(default_factory=dict)
    drawn: dict[str, tuple[str, ...]] = field(default_factory=dict)
    config: Configuration | None = None
    prices: tuple[float, ...] = ()
    offsets: Offsets = field(default_factory=Offsets)
    head: bytes = b""
    decisions: int = 0
    dispatches: int = 0
    sequence: int = 0
    queries: set[int] = field(default_factory=set)
    completions: set[int] = field(default_factory=set)
    transactions: list[Transaction] = field(default_factory=list)


class Auditor:
    """The books of all partitions. Each method raises Violation at the first thing that is wrong."""

    def __init__(self, log: Log, partitions: int, decided: Mapping[Transaction, Sequence[Event]]) -> None:
        self.log, self.decided = log, decided
        self.books = [Books() for _ in range(partitions)]

    # Every transaction

    def committed(self, transaction: Transaction) -> None:
        """Check one transaction that has just become visible, and book it."""
        partition = int(transaction.transactional_id.rpartition("-")[2])
        books, topics = self.books[partition], by_topic(transaction.records)
        books.transactions.append(transaction)
        written_ms = transaction.records[-1].timestamp
        decisions = [codec.decode_decision(record.value or b"") for record in topics.pop(TOPICS.decisions, [])]
        for record, decision in zip(values(transaction.records, TOPICS.decisions), decisions, strict=True):
            require(decision.prev == books.head, f"partition {partition}: the chain breaks at {decision}")
            early = f"partition {partition}: {decision} is ahead of its time, {written_ms}"
            require(decision.at_ms <= written_ms, early)
            self._book(partition, books, decision)
            books.head, books.decisions = record_hash(record), books.decisions + 1
        self._check_messages(partition, decisions, topics)
        self._check_ledger(partition, books, topics)

    def _book(self, partition: int, books: Books, decision: Decision) -> None:
        match decision:
            case Configured():
                books.config, books.prices = decision.config, ()
                kept = decision.config.llms if decision.config.probe_ms else ()
                books.out = {llm: until_ms for llm, until_ms in books.out.items() if llm in kept}
                money.granted(books.accounts, decision.config)
            case Priced():
                books.prices = decision.prices
            case Routed():
                self._routed(partition, books, decision)
            case Rejected():
                self._input(partition, books, decision.cause)
            case Closed():
                self._closed(partition, books, decision)
            case ChargedAgain():
                self._charged_again(partition, books, decision)
            case Ignored():
                self._input(partition, books, decision.cause)
            case Switched():
                self._switched(partition, books, decision)
            case Checkpoint():
                self._checkpoint(books, decision)

    def _input(self, partition: int, books: Books, cause: Cause) -> None:
        """An input record has its first decision record; every committed one before it must have had one."""
        topic, offset = cause.kind, cause.number
        require(topic in ("queries", "completions"), f"partition {partition}: {cause} is not an input record")
        done = books.queries if topic == "queries" else books.completions
        applied = books.offsets.queries if topic == "queries" else books.offsets.completions
        require(offset > applied, f"{topic}/{partition}: offset {offset} is decided after {applied}")
        done.add(offset)
        for record in self.log.read((topic, partition), applied + 1):
            if record.offset >= offset:
                break
            raise Violation(f"{topic}/{partition}: offset {record.offset} is skipped")
        queries, completions = books.offsets.queries, books.offsets.completions
        books.offsets = Offsets(offset, completions) if topic == "queries" else Offsets(queries, offset)

    def _routed(self, partition: int, books: Books, routed: Routed) -> None:
        if routed.attempt == 1:
            require(routed.cause == Cause("queries", routed.offset), f"{routed} follows from another query")
            self._input(partition, books, routed.cause)
        else:
            before = str(DispatchId(partition, routed.offset, routed.attempt - 1))
            if routed.cause.kind == "unanswered":
                self._gone_on(books, routed, before)
            else:
                require(before in books.closed, f"{routed}, but {before} is not closed")
        require(
            money.is_at(books.config, books.prices, routed), f"{routed} is not at the prices in force, {books.prices}"
        )
        problem = wrong_choice(books.config, routed)
        require(problem is None, str(problem))
        if routed.llm is None:
            return
        dispatch_id = str(DispatchId(partition, routed.offset, routed.attempt))
        require(dispatch_id not in books.closed and dispatch_id not in books.open, f"{dispatch_id} is dispatched twice")
        for other_id, other in books.open.items():
            same = other.query_id == routed.query_id
            require(not same or (other.offset == routed.offset and other_id in books.left), f"{routed}: already open")
        is_probe = books.probed is not None and (books.probed.llm, books.probed.cause) == (routed.llm, routed.cause)
        require(routed.llm not in books.out or is_probe, f"{routed}: {routed.llm} was taken out")
        books.open[dispatch_id] = routed
        odd = money.reserved_problem(books.config, routed)
        require(odd is None, str(odd))
        books.drawn[dispatch_id] = drawn = money.drawn_on(books.config, routed)
        for name in drawn:
            old = books.accounts[name]
            new = books.accounts[name] = msgspec.structs.replace(old, reserved=old.reserved + money.held(old, routed))
            require(new.reserved + new.spent <= new.amount + new.overrun, f"{routed} takes {name} to {new}")

    def _switched(self, partition: int, books: Books, switched: Switched) -> None:
        """An LLM is taken out, probed when it is time, or taken back."""
        if switched.worker is not None:
            self._input(partition, books, switched.cause)
        until_ms = books.out.get(switched.llm)
        if switched.state == "probed":
            require(until_ms is not None and until_ms <= switched.at_ms, f"{switched}, out until {until_ms}")
        books.probed = switched
        if switched.state == "back":
            require(books.out.pop(switched.llm, None) is not None, f"{switched}: it was in use")
        elif switched.until_ms:
            books.out[switched.llm] = switched.until_ms

    def _gone_on(self, books: Books, routed: Routed, before: str) -> None:
        """A query goes on without an answer: only when it is time, once, and never to an LLM that was tried."""
        silent = books.open.get(before)
        require(silent is not None and before not in books.left, f"{routed}, but nobody waits for {before}")
        require(silent is not None and 0 < silent.unanswered_at_ms <= routed.at_ms, f"{routed}, too early")
        require(silent is not None and silent.llm in routed.tried, f"{routed} asks {before} again")
        require(routed.llm is not None or routed.reason == "unanswered", f"{routed}: deferred for another reason")
        books.left.add(before)

    def _overtaken(self, partition: int, books: Books, answered: Closed | ChargedAgain) -> None:
        """After an answer nobody waits for the other dispatches of the query."""
        made = DispatchId.parse(answered.dispatch_id)
        if made is not None and not answered.failed and answered.cause.kind == "completions":
            books.left |= {name for name, other in books.open.items() if other.offset == made.offset}

    def _closed(self, partition: int, books: Books, closed: Closed) -> None:
        require(closed.dispatch_id not in books.closed, f"{closed.dispatch_id} is closed twice")
        routed = books.open.pop(closed.dispatch_id, None)
        require(routed is not None and routed.llm == closed.llm, f"{closed}: no such reservation is open")
        books.closed.add(closed.dispatch_id)
        require(closed.overrun_micros == max(0, closed.spent_micros - closed.reserved_micros), f"{closed}: overrun")
        if routed is not None:
            books.held[closed.dispatch_id] = routed
            for name in books.drawn[closed.dispatch_id]:
                old = books.accounts[name]
                reserved, spent = old.reserved - money.held(old, routed), old.spent + money.used(old, closed)
                books.accounts[name] = money.changed(old, reserved=reserved, spent=spent)
            odd = money.token_problem(books.config, routed, closed)
            require(odd is None, str(odd))
        books.booked[closed.dispatch_id] = closed
        if closed.cause.kind == "completions":
            self._input(partition, books, closed.cause)
            self._check_charge(partition, closed)
            self._overtaken(partition, books, closed)
        else:
            require(closed.outcome == "expired", f"{closed}: no completion settled it")
            booked = {("unanswered", closed.reserved_micros), ("none", 0)}
            require((closed.basis, closed.spent_micros) in booked, f"{closed}: expired at another cost")
            waited = routed is not None and routed.unanswered_at_ms and closed.dispatch_id not in books.left
            require(not waited, f"{closed}: its query was dropped in silence")

    def _charged_again(self, partition: int, books: Books, charged: ChargedAgain) -> None:
        self._input(partition, books, charged.cause)
        require(charged.dispatch_id in books.booked, f"{charged}: it never closed")
        before = books.booked[charged.dispatch_id]
        late = isinstance(before, Closed) and before.outcome == "expired"
        require(charged.reason == ("late" if late else "paid_twice"), f"{charged} follows {before}")
        require(charged.replaced_micros == (before.spent_micros if late else 0), f"{charged} follows {before}")
        self._check_charge(partition, charged)
        for name in books.drawn[charged.dispatch_id]:
            books.accounts[name] = money.again(books.accounts[name], charged, before if late else None)
        odd = money.token_problem(books.config, books.held[charged.dispatch_id], charged)
        require(odd is None, str(odd))
        books.booked[charged.dispatch_id] = charged
        self._overtaken(partition, books, charged)

    def _check_charge(self, partition: int, charged: Closed | ChargedAgain) -> None:
        """A cost that can be is booked to the micro-dollar. Nothing else is booked at less than was held, unless the
        completion says that it cost nothing."""
        record = next(self.log.read((TOPICS.completions, partition), charged.cause.number))
        said = fields(record.value or b"")
        require(said["dispatch_id"] == charged.dispatch_id, f"{charged} answers {said}")
        stated = said.get("cost_micros")
        if isinstance(stated, int) and 0 < stated <= MOST_MICROS:
            require(stated == charged.spent_micros, f"{charged}, but {said}")
        elif isinstance(stated, int) and stated > MOST_MICROS and "usage" not in said:
            require(charged.spent_micros == MOST_MICROS, f"{charged}, but {said}")
        elif is_free(said):
            require(charged.spent_micros == 0, f"{charged}, but {said}")
        else:
            require(
                charged.spent_micros > 0 or self.books[partition].held[charged.dispatch_id].reserved_micros == 0,
                f"{charged}, but {said}",
            )

    def _checkpoint(self, books: Books, checkpoint: Checkpoint) -> None:
        if checkpoint.row is not None:
            require(checkpoint.row.head == checkpoint.prev, "a checkpoint's row is of another place")
            listed = {account.budget: account for account in checkpoint.accounts}
            require(listed == books.accounts, f"a checkpoint says {listed}")

    def _check_messages(self, partition: int, decisions: list[Decision], topics: dict[str, list[StoredRecord]]) -> None:
        """Dispatches, deferred queries and dead letters are those of the decision records, one for one."""
        routed = [decision for decision in decisions if isinstance(decision, Routed)]
        wanted = {str(DispatchId(partition, r.offset, r.attempt)): (r.llm, r.reserved_micros) for r in routed if r.llm}
        sent = [
            codec.decode_dispatch(r.value or b"") for topic in topics if "dispatch." in topic for r in topics[topic]
        ]
        require({d.id: (d.llm, d.reserved_micros) for d in sent} == wanted, f"dispatches {sent}, decided {wanted}")
        require(len(sent) == len(wanted), f"a dispatch is there twice: {sent}")
        for dispatch in sent:
            original = next(self.log.read((TOPICS.queries, partition), dispatch.origin.offset))
            if original.offset == dispatch.origin.offset:
                asked = msgspec.msgpack.decode(original.value or b"")
                asked.pop("embedding", None)
                require(msgspec.msgpack.decode(dispatch.query) == asked, f"{dispatch.id} passes on another query")
        deferred = [codec.decode_deferred(record.value or b"") for record in topics.get(TOPICS.deferred, [])]
        said = [(d.origin.offset, d.attempt, d.reason) for d in deferred]
        require(said == [(r.offset, r.attempt, r.reason) for r in routed if r.llm is None], f"deferred {said}")
        dead = sorted(dead_letter_origin(record) for record in topics.get(TOPICS.dead_letters, []))
        refused = sorted((d.cause.kind, d.cause.number) for d in decisions if isinstance(d, Rejected | Ignored))
        require(dead == refused, f"partition {partition}: dead letters {dead}, decided {refused}")

    def _check_ledger(self, partition: int, books: Books, topics: dict[str, list[StoredRecord]]) -> None:
        written = {(record.key or b"").decode(): record.value for record in topics.get(TOPICS.ledger, [])}
        require("account" in written, f"partition {partition}: a transaction without an account row")
        row = codec.decode_account(written["account"] or b"")
        sent = [codec.decode_dispatch(r.value or b"").id for t in topics if "dispatch." in t for r in topics[t]]
        books.dispatches, books.sequence = books.dispatches + len(sent), books.sequence + 1
        said = (row.offsets, tuple(row.prices.values()), row.head, row.decisions, row.dispatches)
        own = (books.offsets, books.prices, books.head, books.decisions, books.dispatches)
        require(said == own, f"partition {partition}: the account row says {said}, the decisions {own}")
        require(row.sequence == books.sequence, f"partition {partition}: transaction {row.sequence}")
        rows = self.rows(partition)
        listed = money.accounts_of(rows)
        require(all(map(money.adds_up, listed.values())), f"partition {partition}: {listed}")
        require(listed == books.accounts, f"partition {partition}: budgets {listed}, by the decisions {books.accounts}")
        held = {key.removeprefix("reservation/") for key in rows if key.startswith("reservation/")}
        require(held == books.open.keys(), f"partition {partition}: reservation rows {held}, open {set(books.open)}")

    # After a commit, and at the end

    def rows(self, partition: int) -> dict[str, bytes]:
        """The compacted rows of a ledger partition."""
        rows: dict[str, bytes] = {}
        for record in self.log.read((TOPICS.ledger, partition)):
            key = (record.key or b"").decode()
            rows.pop(key, None)
            if record.value is not None:
                rows[key] = record.value
        return rows

    def check_memory(self, router: Router) -> None:
        """Whoever has just committed has in memory what the ledger says."""
        restored = Router.restored(router.partition, router._prior, read_rows(self.rows(router.partition)))
        require(state(restored) == state(router), f"partition {router.partition}: memory is not what restore gives")

    def check_acknowledged(self, topic: str, partition: int, offset: int) -> None:
        """Nothing is acknowledged before it is applied."""
        applied = self.books[partition].offsets
        limit = applied.queries if topic == TOPICS.queries else applied.completions
        require(offset <= limit, f"{topic}/{partition}: offset {offset} is acknowledged, {limit} is applied")

    def unapplied(self) -> list[str]:
        """The inputs that still have records to apply."""
        return [
            f"{topic}/{partition}"
            for partition, books in enumerate(self.books)
            for topic, applied in (
                (TOPICS.queries, books.offsets.queries),
                (TOPICS.completions, books.offsets.completions),
            )
            if next(self.log.read((topic, partition), applied + 1), None) is not None
        ]

    def check_end(self, queries: Iterable[tuple[int, int]]) -> None:
        """Each query (partition, offset) has exactly one outcome, and all readers agree on how it came about."""
        for partition, offset in queries:
            require(offset in self.books[partition].queries, f"queries/{partition}: offset {offset} has no outcome")
        for partition, books in enumerate(self.books):
            replay(partition, [(one, self.decided[one]) for one in books.transactions])
            if books.config is not None:
                self._check_readers(partition, books.config)

    def _check_readers(self, partition: int, config: Configuration) -> None:
        proof = proven(self.log, partition)
        require(not proof.wrong, f"partition {partition}: verify finds {proof.findings}")
        for share in (0.0, 0.5):
            found = replayed(self.log, partition, prior_for(config.llms), config, share)
            require(found.mismatch is None, f"partition {partition}: replay says {found.mismatch}")


def replay(partition: int, transactions: Iterable[tuple[Transaction, Sequence[Event]]]) -> None:
    """Decide the same events with a fresh router: the same decision records and ledger rows, byte for byte."""
    router = Router(partition, NO_PRIOR)
    for transaction, events in transactions:
        for event in events:
            if isinstance(event, Reconfigured):
                router.use_prior(prior_for(event.config.llms))
        effects = router.handle(events)
        recorded = [*values(transaction.records, TOPICS.decisions)]
        for ours, theirs in zip([record for _, record in effects.decisions], recorded, strict=True):
            require(
                ours == theirs, f"replay decides {codec.decode_decision(ours)}, not {codec.decode_decision(theirs)}"
            )
        rows = {(r.key or b"").decode(): r.value for r in transaction.records if r.topic == TOPICS.ledger}
        require(dict(effects.rows) == rows, f"partition {partition}: replay writes other ledger rows")


def state(router: Router) -> tuple[object, ...]:
    """All that a router's next decisions depend on, comparable."""
    view = router.view
    if view.config is None:
        return view.offsets, view.sequence
    # The digest is of the last transaction, which a router that was just restored does not know.
    row = msgspec.structs.replace(view.account_row(), digest=b"")
    accounts = {account.key: account for account in view.accounts}
    return row, view.config, accounts, list(view.open.items()), view.closed, view.window()
