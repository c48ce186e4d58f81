"""A lane as the treasury sees one: queries arrive, are dispatched, parked or deferred; answers come when they like.

It stands for the router: it knows which LLM is better and what a query needs, and leaves money to the product's purse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol

from worker.contract.budgets import BudgetDefinition
from worker.contract.leases import LaneReport, Need, decode_grants
from worker.contract.purse_rows import ParkedQuery
from worker.contract.token_costs import PriceList
from worker.core.leasing import Closing, Entry, HandedBack, Option, Parked, RefusalReason, Refused, Reserved, Wish
from worker.core.purse import Purse

LIMIT_MS = 1_000
# Micro-dollars for each unit of a query's size, where nobody has set a price.
BASE_PRICE = 1


class Arrival(NamedTuple):
    """A query: its size, its tags, and the LLMs that may answer it, the best first."""

    query_id: str
    size: int
    tags: dict[str, str]
    llms: tuple[str, ...]


class Sent(NamedTuple):
    """A dispatch: what it holds while it is open, and what is booked for it since it closed."""

    llm: str
    entries: tuple[Entry, ...]
    resources: tuple[str, ...]
    booked: tuple[Entry, ...] | None = None


class Outcome(NamedTuple):
    """How a query was decided: the LLM that it went to, or why it was deferred."""

    llm: str | None
    reason: RefusalReason | None = None


@dataclass
class Stored:
    """All that a lane has committed. The purse's rows are bytes, as in the ledger."""

    rows: dict[str, bytes] = field(default_factory=dict)
    arrivals: int = 0
    sent: dict[str, Sent] = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    # LLMs that failed here: this lane sends them nothing.
    out: frozenset[str] = frozenset()

    def copy(self) -> Stored:
        """The same, to be changed within a transaction."""
        outcomes = {query: list(found) for query, found in self.outcomes.items()}
        return Stored(dict(self.rows), self.arrivals, dict(self.sent), outcomes, self.out)


class Listener(Protocol):
    """Hears of each decision of a lane, before anything else happens."""

    def refused(self, lane: SimulatedLane, wish: Wish, refused: Refused) -> None:
        """A query is deferred."""

    def dispatched(self, lane: SimulatedLane, wish: Wish, reserved: Reserved) -> None:
        """A query is dispatched."""


class SimulatedLane:
    """One owner of a lane. It works on a copy of what is stored, and `commit` stores it."""

    def __init__(
        self, number: int, stored: Stored, arrivals: list[Arrival], purse: type[Purse], listener: Listener
    ) -> None:
        self.number = number
        self.stored = stored
        self.arrivals = arrivals
        self.work = stored.copy()
        self.purse = purse.restored(stored.rows)
        # Whether the message that is being read says more than was applied of it.
        self.has_more_items = False
        self._listener = listener

    # Inputs

    def read(self, offset: int, message: bytes, now_ms: int) -> None:
        """A message of the treasury: its items one by one, each as an event of its own."""
        items = self.purse.read(offset, decode_grants(message))
        for number, item in enumerate(items, start=1):
            self.has_more_items = number < len(items)
            self._after(self.purse.apply(item), now_ms)

    def arrive(self, now_ms: int) -> None:
        """The next query of the lane's log."""
        arrival = self.arrivals[self.work.arrivals]
        offset, self.work.arrivals = self.work.arrivals, self.work.arrivals + 1
        self.purse.seen()
        self._serve(arrival, Wish(arrival.query_id, offset, 1, self._options(arrival), now_ms + LIMIT_MS))
        self.purse.give_back()

    def give_up(self, ask: int, now_ms: int) -> None:
        """A parked query has waited for its whole limit."""
        self._after(self.purse.give_up(ask), now_ms)

    def close(self, query_id: str, random: Random, expires: bool) -> None:
        """A dispatch is answered, for less than was reserved, as much or more; or it expires, booked as reserved or
        as nothing."""
        sent = self.work.sent[query_id]
        share = random.choice((0.0, 1.0)) if expires else random.choice((0.0, 0.5, 0.5, 1.0, 1.0, 1.5))
        closings = [
            Closing(one.budget, one.period, one.amount, cost(one, share, resource))
            for one, resource in zip(sent.entries, sent.resources, strict=True)
        ]
        self.purse.close(closings)
        booked = tuple(Entry(one.budget, one.period, one.spent) for one in closings)
        self.work.sent[query_id] = sent._replace(booked=booked)
        self.purse.give_back()

    def correct(self, query_id: str, random: Random) -> None:
        """An answer comes after the dispatch has closed, and costs more or less than was booked."""
        sent = self.work.sent[query_id]
        assert sent.booked is not None, f"{query_id} has closed"
        share = random.choice((0.0, 0.5, 2.0))
        changes = [
            Entry(one.budget, one.period, cost(one, share, resource) - booked.amount)
            for one, resource, booked in zip(sent.entries, sent.resources, sent.booked, strict=True)
        ]
        self.purse.correct(changes)
        booked = tuple(
            Entry(one.budget, one.period, one.amount + more.amount)
            for one, more in zip(sent.booked, changes, strict=True)
        )
        self.work.sent[query_id] = sent._replace(booked=booked)
        self.purse.give_back()

    def switch(self, llm: str) -> None:
        """An LLM fails here, or is back."""
        self.work.out = self.work.out ^ {llm}

    def commit(self, now_ms: int) -> LaneReport | None:
        """End the transaction; returns the report that it publishes."""
        report = self.purse.report(now_ms)
        for key, row in self.purse.take_rows().items():
            if row is None:
                self.work.rows.pop(key, None)
            else:
                self.work.rows[key] = row
        self.stored = self.work
        self.work = self.stored.copy()
        return report

    @property
    def open(self) -> list[str]:
        """The queries whose dispatch is open."""
        return [query for query, sent in self.work.sent.items() if sent.booked is None]

    @property
    def closed(self) -> list[str]:
        """The queries whose dispatch has closed."""
        return [query for query, sent in self.work.sent.items() if sent.booked is not None]

    # Parts

    def _after(self, back: HandedBack | None, now_ms: int) -> None:
        if back is not None:
            self._serve_again(back.query, now_ms)
        self.purse.give_back()

    def _serve_again(self, query: ParkedQuery, now_ms: int) -> None:
        """The needs are those of now: prices may have changed, LLMs may have failed, budgets may be new."""
        arrival = self.arrivals[query.offset]
        options = self._options(arrival)
        wish = Wish(query.query_id, query.offset, query.attempt, options, query.limit_ms, query.refused)
        self._serve(arrival, wish)

    def _serve(self, arrival: Arrival, wish: Wish) -> None:
        outcomes = self.work.outcomes.setdefault(arrival.query_id, [])
        match self.purse.serve(wish):
            case Reserved(llm, entries) as reserved:
                self._listener.dispatched(self, wish, reserved)
                resources = tuple(self.purse.budgets[one.budget].definition.resource for one in entries)
                self.work.sent[arrival.query_id] = Sent(llm, entries, resources)
                outcomes.append(Outcome(llm))
            case Refused() as refused:
                outcomes.append(Outcome(None, refused.reason))
                self._listener.refused(self, wish, refused)
            case Parked():
                pass

    def _options(self, arrival: Arrival) -> tuple[Option, ...]:
        return tuple(Option(llm, self._needs(arrival, llm)) for llm in arrival.llms if llm not in self.work.out)

    def _needs(self, arrival: Arrival, llm: str) -> tuple[Need, ...]:
        definitions = {
            number: self.purse.budgets[number].definition for number in self.purse.matching(llm, arrival.tags)
        }
        return needs_of(arrival, llm, definitions, self.purse.prices)


def needs_of(
    arrival: Arrival, llm: str, definitions: Mapping[int, BudgetDefinition], prices: Mapping[str, PriceList]
) -> tuple[Need, ...]:
    """What a query needs of each of these budgets."""
    price = int(prices[llm].input_usd_per_mtok) if llm in prices else BASE_PRICE
    units = {"usd": arrival.size * price, "tokens": arrival.size, "requests": 1, "open": 1}
    return tuple(Need(number, units[one.resource]) for number, one in definitions.items())


def cost(entry: Entry, share: float, resource: str) -> int:
    """What is booked of an entry if the answer cost this share of what was reserved."""
    if resource == "open":
        return 0
    return entry.amount if resource == "requests" else round(entry.amount * share)
