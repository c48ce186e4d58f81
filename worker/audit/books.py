"""The auditor's own books of one partition, added up from its decision records. Pure.

The books share no code with the ledger that they check. Each record yields the mismatches that it makes. The books then
go on as the record says, so that one wrong record is one mismatch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from worker.audit.accounts import Accounts, reservation_of, token_mismatch
from worker.audit.charges import Charges
from worker.audit.mismatch import Mismatch, compared
from worker.audit.start import Start
from worker.contract.accounts import Account, AccountKey
from worker.contract.decisions import (
    ChargedAgain,
    Checkpoint,
    Closed,
    Configured,
    Decision,
    Ignored,
    Missed,
    Priced,
    Rejected,
    Routed,
    Switched,
)
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import (
    FORMAT,
    AccountRow,
    ClosedDispatch,
    Configuration,
    Outcome,
    Reservation,
    TagTotal,
)
from worker.contract.token_costs import price
from worker.core.ledger import MOST_CLOSED
from worker.core.tags import MOST_TAGS, OTHERS

# First attempts that were answered before they were priced.
UNPRICED = ("duplicate", "expired")


class Books:
    """Accounts, open reservations, prices in force and counts, as the records so far make them.

    The books of a partition begin empty, or with the state of the checkpoint at `start`.
    """

    def __init__(self, partition: int, start: Start | None = None) -> None:
        self.partition = partition
        self.config: Configuration | None = None
        self.money = Accounts()
        self.open: dict[str, Reservation] = {}
        self.prices: dict[str, float] = {}
        self.clock_ms = self.seen = self.dispatches = self.decisions = 0
        self.counts: Counter[str] = Counter()
        self.dispatched: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        self.quality: dict[str, tuple[float, int]] = {}
        self.expired, self.answered = dict[str, ClosedDispatch](), dict[str, ClosedDispatch]()
        self.remarks: Counter[str] = Counter()
        self.out, self.tags = dict[str, int](), dict[str, TagTotal]()
        self._charges: Charges | None = None
        self._probed: str | None = None
        self._by_query: dict[str, set[str]] = {}
        self._listed = 0
        if start is not None and start.row is not None:
            self._begin(start, start.row)

    def _begin(self, start: Start, row: AccountRow) -> None:
        self.config = start.config
        self._charges = None if start.config is None else Charges(start.config)
        self.money, self.prices = Accounts(start.accounts), dict(row.prices)
        self.clock_ms, self.seen, self.dispatches = row.clock_ms, row.seen, row.dispatches
        self.tags = dict(row.tags)
        for reservation in start.reservations:
            self._hold(reservation)
        for dispatch in start.closed:
            self._keep(dispatch)
        self.out = _out(row)
        self.decisions = row.decisions + len(start.parts)

    @property
    def closed(self) -> dict[str, ClosedDispatch]:
        """The closed dispatches that the ledger must keep, by their ids."""
        return self.expired | self.answered

    @property
    def accounts(self) -> dict[AccountKey, Account]:
        """The account of each budget."""
        return self.money.by_key

    @property
    def asked(self) -> set[str]:
        """The LLMs that were dispatched to, as far as the books know."""
        of_open, of_closed = ((one.llm for one in kept.values()) for kept in (self.open, self.closed))
        return {*self.dispatched, *of_open, *of_closed}

    @property
    def llms(self) -> tuple[str, ...]:
        """The LLMs in the order of the last configuration."""
        return self.config.llms if self.config is not None else ()

    @property
    def _budgets(self) -> list[str]:
        return [] if self.config is None else [budget.name for budget in self.config.budgets]

    def apply(self, decision: Decision) -> Iterator[Mismatch]:
        """Book one record; yields what is wrong with it."""
        if decision.at_ms < self.clock_ms:
            yield Mismatch(f"is dated {decision.at_ms}, earlier than the record before it ({self.clock_ms})")
        self.clock_ms = max(self.clock_ms, decision.at_ms)
        match decision:
            case Configured():
                yield from self._configured(decision)
            case Priced():
                self.prices = dict(zip(self._budgets, decision.prices, strict=False))
            case Routed():
                yield from self._routed(decision)
            case Closed():
                yield from self._closed(decision)
            case ChargedAgain():
                yield from self._charged_again(decision)
            case Switched():
                yield from self._switched(decision)
            case Checkpoint():
                yield from self._checkpoint(decision)
            case Rejected():
                self.counts["dead_letters" if decision.cause.kind == "queries" else "refused_completions"] += 1
            case Missed():
                self.counts[f"missed_{decision.cause.kind}"] += decision.offsets
            case Ignored():
                self.counts["ignored"] += 1
        self.decisions += 1

    def differences(self, what: str, row: AccountRow) -> Iterator[Mismatch]:
        """What an account row, called `what`, says that these books do not."""
        pairs: list[tuple[str, Any, Any]] = [("prices", row.prices, self.prices), ("seen", row.seen, self.seen)]
        pairs += [("dispatches", row.dispatches, self.dispatches), ("tags", row.tags, self.tags)]
        pairs += [("LLMs taken out", _out(row), self.out)]
        for field, recorded, expected in pairs:
            if recorded != expected:
                yield Mismatch(what, field, recorded, expected)

    def account_differences(self, what: str, accounts: Iterable[Account]) -> Iterator[Mismatch]:
        """What the accounts that `what` lists say otherwise than these books."""
        listed = {account.key: account for account in accounts}
        for key in sorted(self.accounts.keys() | listed.keys()):
            if listed.get(key) != self.accounts.get(key):
                yield Mismatch(what, f"account {key[0]}", listed.get(key), self.accounts.get(key))

    def _configured(self, record: Configured) -> Iterator[Mismatch]:
        if record.partition != self.partition:
            yield Mismatch("Configured", "partition", record.partition, self.partition)
        if record.format != FORMAT:
            yield Mismatch("Configured", "format", record.format, FORMAT)
        self.config, self.prices = record.config, {}
        self._charges = Charges(record.config)
        kept = record.config.llms if record.config.probe_ms else ()
        self.out = {llm: until_ms for llm, until_ms in self.out.items() if llm in kept}
        self.money.configured(record.config.budgets)

    def _routed(self, record: Routed) -> Iterator[Mismatch]:
        first = record.attempt == 1
        if first and record.reason not in UNPRICED:
            self.seen += 1
        if self._charges is not None and (differs := self._charges.mismatch(record, self.prices)) is not None:
            yield differs
        dispatched = record.llm is not None
        self.counts["dispatches" if dispatched else "deferrals"] += 1
        if first:
            self.counts["dispatched" if dispatched else "deferred"] += 1
            self._tagged(record.tags, 1, 0)
        if record.cause.kind == "unanswered":
            yield from self._gone_on(record)
        if record.llm is not None:
            yield from self._reserved(record, record.llm)

    def _switched(self, record: Switched) -> Iterator[Mismatch]:
        """An LLM was taken out, probed or taken back."""
        self.counts[f"llm_{record.state}"] += 1
        if record.state == "probed" and self.out.get(record.llm, record.at_ms + 1) > record.at_ms:
            yield Mismatch(f"probes {record.llm}, which was not taken out, or before its time")
        self._probed = record.llm if record.state == "probed" else None
        if record.state == "back":
            self.out.pop(record.llm, None)
        elif record.until_ms:
            self.out[record.llm] = record.until_ms

    def _gone_on(self, record: Routed) -> Iterator[Mismatch]:
        """The query waits no longer for the dispatch before this attempt."""
        self.counts["unanswered"] += 1
        dispatch_id = str(DispatchId(self.partition, record.offset, record.attempt - 1))
        reservation = self.open.get(dispatch_id)
        if reservation is None or not reservation.may_retry:
            yield Mismatch(f"goes on without {dispatch_id}, which no query waits for")
            return
        if not 0 < reservation.unanswered_at_ms <= record.at_ms:
            yield Mismatch(f"goes on without {dispatch_id} before it is unanswered ({reservation.unanswered_at_ms})")
        self._hold(replace(reservation, is_unanswered=True))

    def _hold(self, reservation: Reservation) -> None:
        self.open[reservation.dispatch_id] = reservation
        self._by_query.setdefault(reservation.query_id, set()).add(reservation.dispatch_id)

    def _let_go(self, reservation: Reservation) -> None:
        of_query = self._by_query.get(reservation.query_id, set())
        of_query.discard(reservation.dispatch_id)
        if not of_query:
            self._by_query.pop(reservation.query_id, None)

    def _of_query(self, query_id: str) -> list[Reservation]:
        of_query = self._by_query.get(query_id, ())
        return [self.open[dispatch_id] for dispatch_id in of_query if dispatch_id in self.open]

    def _overtaken(self, record: Closed | ChargedAgain) -> None:
        """The dispatch was answered: others of its query that are open have at most a second answer."""
        answered = DispatchId.parse(record.dispatch_id)
        if answered is not None and record.cause.kind == "completions" and not record.failed:
            for other in self._of_query(record.query_id):
                if other.offset == answered.offset:
                    self._hold(replace(other, is_overtaken=True))

    def _reserved(self, record: Routed, llm: str) -> Iterator[Mismatch]:
        reservation = reservation_of(self.partition, self.config, record, llm)
        self.dispatches += 1
        self.dispatched[llm] += 1
        if llm in self.out and llm != self._probed:
            yield Mismatch(f"dispatches {reservation.dispatch_id} to {llm}, which was taken out")
        self._probed = None
        if reservation.dispatch_id in self.open:
            yield Mismatch(f"dispatches {reservation.dispatch_id} twice")
        elif any(other.offset != record.offset or other.may_retry for other in self._of_query(record.query_id)):
            yield Mismatch(f"dispatches query {record.query_id} while another dispatch of it is open")
        self._hold(reservation)
        yield from self.money.reserve(reservation.holds)

    def _closed(self, record: Closed) -> Iterator[Mismatch]:
        reservation = self.open.pop(record.dispatch_id, None)
        self.counts[record.outcome] += 1
        if reservation is None:
            yield Mismatch(f"closes {record.dispatch_id}, which is not open: settled twice, or never reserved")
            return
        self._let_go(reservation)
        yield from _mismatches(record, reservation)
        yield from self._priced_wrong(record)
        self._judged(record)
        if (differs := token_mismatch(record, reservation.reserved_tokens)) is not None:
            yield differs
        yield from self.money.close(reservation, record)
        self._overtaken(record)
        self._tagged(reservation.tags, 0, record.spent_micros)
        self._keep(
            ClosedDispatch(
                record.dispatch_id,
                record.query_id,
                record.llm,
                record.reserved_micros,
                record.spent_micros,
                record.outcome,
                self.decisions,
                reservation.tags,
                self.money.booked(reservation, record),
                reservation.reserved_tokens,
            )
        )

    def _charged_again(self, record: ChargedAgain) -> Iterator[Mismatch]:
        dispatch = self.expired.pop(record.dispatch_id, None) or self.answered.pop(record.dispatch_id, None)
        self.counts[record.reason] += 1
        self._judged(record)
        if dispatch is None:
            yield Mismatch(f"charges {record.dispatch_id} again, which never closed, or closed long ago")
            return
        late = dispatch.outcome == "expired"
        replaced = dispatch.booked_micros if late else 0
        yield from self._priced_wrong(record)
        expected = {
            "reason": "late" if late else "paid_twice",
            "replaced_micros": replaced,
            "llm": dispatch.llm,
            "query_id": dispatch.query_id,
        }
        for field, value in expected.items():
            if (recorded := getattr(record, field)) != value:
                yield Mismatch(f"ChargedAgain {record.dispatch_id}", field, recorded, value)
        if (differs := token_mismatch(record, dispatch.reserved_tokens)) is not None:
            yield differs
        booked = self.money.charge_again(dispatch, record)
        self._tagged(dispatch.tags, 0, record.spent_micros - replaced)
        micros = dispatch.booked_micros - replaced + record.spent_micros
        outcome: Outcome = "settled" if late else dispatch.outcome
        self._keep(replace(dispatch, booked_micros=micros, booked=booked, outcome=outcome, number=self.decisions))
        self._overtaken(record)

    def _priced_wrong(self, record: Closed | ChargedAgain) -> Iterator[Mismatch]:
        """What is booked by usage must be the price of the recorded usage, where all its details have a price."""
        prices = None if self.config is None else self.config.price_lists.get(record.llm)
        if record.basis != "usage" or record.usage is None or prices is None:
            return
        cost = price(record.usage, prices)
        expected = cost.micros
        if record.spent_micros != expected and not (cost.unpriced and record.spent_micros > expected):
            yield Mismatch(
                f"{type(record).__name__} {record.dispatch_id}", "spent_micros", record.spent_micros, expected
            )

    def _tagged(self, tags: Mapping[str, str], queries: int, micros: int) -> None:
        """Add to the total of each tag; the tags after the first MOST_TAGS share one."""
        shared = False
        known = set(self.tags)
        for pair in tags.items():
            tag = "=".join(pair)
            if tag not in known and len(known) >= MOST_TAGS:
                shared = True
                continue
            known.add(tag)
            self._add_to_tag(tag, queries, micros)
        if shared:
            self._add_to_tag(OTHERS, queries, micros)

    def _add_to_tag(self, tag: str, queries: int, micros: int) -> None:
        old = self.tags.get(tag, TagTotal())
        self.tags[tag] = replace(old, queries=old.queries + queries, spent_micros=old.spent_micros + micros)

    def _judged(self, record: Closed | ChargedAgain) -> None:
        self.remarks.update(record.remarks)
        self.spent[record.llm] += record.spent_micros - (
            record.replaced_micros if isinstance(record, ChargedAgain) else 0
        )
        if record.quality is not None:
            total, count = self.quality.get(record.llm, (0.0, 0))
            self.quality[record.llm] = total + record.quality, count + 1

    def _keep(self, dispatch: ClosedDispatch) -> None:
        """Keep a closed dispatch as the ledger does: the newest ones that expired, and the newest of the others."""
        kept = self.expired if dispatch.outcome == "expired" else self.answered
        kept[dispatch.dispatch_id] = dispatch
        if len(kept) > MOST_CLOSED:
            del kept[next(iter(kept))]

    def _checkpoint(self, record: Checkpoint) -> Iterator[Mismatch]:
        if record.row is not None:
            yield from self.differences("the checkpoint's account row", record.row)
            yield from self.account_differences("the checkpoint", record.accounts)
        for dispatch in record.closed:
            name, mine = f"the checkpoint's closed dispatch {dispatch.dispatch_id}", self._closed_dispatch(dispatch)
            if mine is None:
                yield Mismatch(f"{name} did not close, or closed long ago")
            elif (differs := compared(name, dispatch, mine)) is not None:
                yield differs
        self._listed = len(record.reservations) + (self._listed if record.part else 0)
        for reservation in record.reservations:
            name = f"the checkpoint's reservation {reservation.dispatch_id}"
            if reservation.dispatch_id not in self.open:
                yield Mismatch(f"{name} is not open")
            elif (differs := compared(name, reservation, self.open[reservation.dispatch_id])) is not None:
                yield differs
        if record.part + 1 == record.parts and self._listed != len(self.open):
            yield Mismatch("the checkpoint", "number of reservations", self._listed, len(self.open))

    def _closed_dispatch(self, dispatch: ClosedDispatch) -> ClosedDispatch | None:
        return self.expired.get(dispatch.dispatch_id) or self.answered.get(dispatch.dispatch_id)


def _mismatches(record: Closed, reservation: Reservation) -> Iterator[Mismatch]:
    for field in ("llm", "query_id", "reserved_micros"):
        if (recorded := getattr(record, field)) != (expected := getattr(reservation, field)):
            yield Mismatch(f"Closed {record.dispatch_id}", field, recorded, expected)
    overrun = max(0, record.spent_micros - reservation.reserved_micros)
    if record.overrun_micros != overrun:
        yield Mismatch(f"Closed {record.dispatch_id}", "overrun_micros", record.overrun_micros, overrun)
    begun = record.outcome == "expired" and record.basis == "unanswered"
    free = 0 if record.outcome != "settled" else record.spent_micros
    if record.spent_micros != (reservation.reserved_micros if begun else free):
        yield Mismatch(f"spends {record.spent_micros}, though it is {record.outcome}")
    if record.outcome == "expired" and record.at_ms < reservation.deadline_ms:
        yield Mismatch(f"expires {record.dispatch_id} before its deadline ({reservation.deadline_ms})")


def _out(row: AccountRow) -> dict[str, int]:
    """The LLMs that a row says were taken out, and until when."""
    return {llm: breaker.until_ms for llm, breaker in row.breakers.items() if breaker.is_open}
