"""One query's way through the decisions, for a human. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec import Struct

from worker.audit.books import Books
from worker.audit.chain import DecisionRecord
from worker.audit.outcomes import origin
from worker.audit.start import StartSearch
from worker.contract import sentences
from worker.contract.codes import Resource
from worker.contract.decisions import Cause, ChargedAgain, Checkpoint, Closed, Configured, Rejected, Routed
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import Configuration
from worker.core.draws import Draws
from worker.core.policy import make_policy


class Draw(Struct, frozen=True):
    """What one LLM would have drawn on one budget, in whole units of the budget's resource (US dollars: micro-dollars).

    `price` is that of one unit, in quality; `paid` is what the estimate uses at that price. `left` is what the account
    had left just before. All three are None where they are not known any more.
    """

    budget: str
    resource: Resource
    reserve: int
    price: float | None
    paid: float | None
    left: int | None

    @property
    def lacks(self) -> bool:
        """Whether the budget had too little left."""
        return self.left is not None and self.reserve > self.left


class Candidate(Struct, frozen=True):
    """How one LLM stood in one decision. `score` is quality - charge, and the charge is what it pays to all `draws`.

    `affordable`: every budget had enough left; None where that is not known any more.
    """

    llm: str
    quality: float
    cost_micros: float
    charge: float
    score: float
    draws: list[Draw]
    affordable: bool | None
    verdict: str


class Attempt(Struct, frozen=True):
    """One decision about a query: why in words, the candidates by score, and how its dispatch ended (None: still open).

    `index` is the hash of the index that was asked, None if unknown. `note` says what is not certain about this.
    """

    offset: int
    decision: Routed
    why: str
    index: str | None
    candidates: list[Candidate]
    note: str | None
    closed: Closed | None
    again: list[ChargedAgain] = []


class Explanation(Struct, frozen=True):
    """All that was decided about one query record: its attempts, or why it is a dead letter (`refused`).

    `neighbours` are the nearest rows of history, (id, similarity); `neighbours_unknown` says why there are none.
    """

    query_id: str
    partition: int
    query_offset: int
    attempts: list[Attempt] = []
    refused: str | None = None
    neighbours: list[tuple[str, float]] = []
    neighbours_unknown: str | None = None


@dataclass
class Met:
    """A decision as it was met, with what was in force then, as far as it is known."""

    offset: int
    routed: Routed
    config: Configuration | None
    seen: int | None
    left: dict[str, int]
    prices: dict[str, float]
    closed: Closed | None = None
    again: list[ChargedAgain] = field(default_factory=list)


class Search:
    """Collects the explanations of one query id from a partition's decisions, fed in order.

    The accounts are kept along, from the beginning of the chain or from the first checkpoint on.
    """

    def __init__(self, query_id: str, partition: int) -> None:
        self.query_id = query_id
        self.partition = partition
        self._first: Configuration | None = None
        self._config: Configuration | None = None
        self._books: Books | None = None
        self._start = StartSearch()
        self._met: dict[int, list[Met]] = {}
        self._refused: list[Explanation] = []

    def feed(self, record: DecisionRecord) -> None:
        """The next record of the partition, of this query or not."""
        offset, decision = record.offset, record.decision
        match decision:
            case Configured():
                self._config = decision.config
            case Checkpoint():
                self._config = self._config or decision.config
            case Routed(query_id=self.query_id):
                self._met.setdefault(decision.offset, []).append(self._meet(offset, decision))
            case Closed(query_id=self.query_id):
                self._close(decision)
            case ChargedAgain(query_id=self.query_id):
                for met in self._attempts_of(decision.dispatch_id):
                    met.again.append(decision)
            case Rejected(cause=Cause(kind="queries", number=number)) if self.query_id == f"{self.partition}-{number}":
                refused = sentences.reason(decision)
                self._refused.append(Explanation(self.query_id, self.partition, number, refused=refused))
        self._first = self._first or self._config
        self._book(record)

    def found(self) -> list[Explanation]:
        """One for each query that came under this id, in order; none if nothing was decided about it here."""
        routed = [
            Explanation(self.query_id, self.partition, offset, [self._attempt(met) for met in attempts])
            for offset, attempts in self._met.items()
        ]
        return sorted([*routed, *self._refused], key=lambda explanation: explanation.query_offset)

    def _book(self, record: DecisionRecord) -> None:
        """Keep the accounts, from the first start on. `verify` says what is wrong with them."""
        if self._books is None and (start := self._start.add(record)) is not None:
            self._books = Books(self.partition, start)
            if not start.is_chain:
                return
        if self._books is not None:
            deque(self._books.apply(record.decision), maxlen=0)

    def _meet(self, offset: int, routed: Routed) -> Met:
        if self._books is None:
            return Met(offset, routed, self._config, None, {}, {})
        left = {account.budget: account.available for account in self._books.accounts.values()}
        return Met(offset, routed, self._config, self._books.seen, left, dict(self._books.prices))

    def _close(self, closed: Closed) -> None:
        for met in self._attempts_of(closed.dispatch_id):
            met.closed = closed

    def _attempts_of(self, dispatch_id: str) -> Iterator[Met]:
        for met in self._met.get(origin(dispatch_id), []):
            if dispatch_id == str(DispatchId(self.partition, met.routed.offset, met.routed.attempt)):
                yield met

    def _attempt(self, met: Met) -> Attempt:
        config = met.config or self._first
        observing = _observes(met, config, self.partition)
        gated = config is None or config.policy == "priced"
        return Attempt(
            offset=met.offset,
            decision=met.routed,
            why=_why(met.routed, observing, gated),
            index=None if config is None else config.index,
            candidates=[] if config is None else _candidates(met, config, observing, gated),
            note="; ".join(_notes(met, config)) or None,
            closed=met.closed,
            again=met.again,
        )


def _notes(met: Met, config: Configuration | None) -> Iterator[str]:
    if config is None:
        yield "no configuration is left in the topic: which LLMs these estimates are of is not known"
    elif met.config is None:
        yield "the configuration of then has left the topic: LLMs, margins and index are those named next after it"
    if config is not None and len(config.llms) != len(met.routed.quality):
        yield "the query had left its topic" if not met.routed.quality else "these LLMs are not those decided on"
    if unknown := _unknown(met.routed, config):
        yield f"the query names what is no LLM of the settings: {', '.join(unknown)}"
    if met.seen is None:
        yield "the accounts of then have left the topic: what each budget had left is not known"


def _unknown(routed: Routed, config: Configuration | None) -> list[str]:
    """The names in a query's request, `allow` and `deny` that are no LLMs."""
    if routed.asks is None or config is None:
        return []
    asks = routed.asks
    return [name for name in (*asks.wish, *(asks.allow or ()), *asks.deny) if name not in config.llms]


def _observes(met: Met, config: Configuration | None, partition: int) -> bool:
    """Whether the LLM was drawn at random."""
    routed = met.routed
    if config is None or routed.reason in DRAWN:
        return routed.reason in DRAWN
    if met.seen is None:
        # Without a gate, only a draw of no LLM prices a query out.
        return config.policy == "port" and routed.reason == "priced_out" and routed.attempt == 1
    return make_policy(config, partition).reason(met.seen) == "observing"


def _candidates(met: Met, config: Configuration, observing: bool, gated: bool) -> list[Candidate]:
    routed = met.routed
    if len(config.llms) != len(routed.quality):
        return []
    draws, charges = Draws(config), routed.charges or [0.0] * len(config.llms)
    rows = zip(config.llms, routed.quality, routed.cost_micros, charges, strict=False)
    candidates = []
    for llm, quality, cost, charge in rows:
        drawn = list(_draws(met, draws, config.llms.index(llm)))
        unknown = any(draw.left is None for draw in drawn)
        affordable = None if unknown else not any(draw.lacks for draw in drawn)
        verdict = _verdict(routed, llm, observing, gated and quality - charge <= 0)
        candidates.append(Candidate(llm, quality, cost, charge, quality - charge, drawn, affordable, verdict))
    return sorted(candidates, key=lambda candidate: -candidate.score)


def _draws(met: Met, draws: Draws, llm: int) -> Iterator[Draw]:
    """What a dispatch to LLM number `llm` would have drawn on each budget."""
    routed = met.routed
    cost = routed.cost_micros[llm]
    held = draws.held(routed.tags, llm, cost, routed.input_tokens)
    uses: dict[Resource, float] = {"usd": cost, "tokens": 0.0, "requests": 1.0, "open": 0.0}
    if draws.counts_tokens:
        uses["tokens"] = draws.tokens(routed.cost_micros, routed.input_tokens)[llm]
    resources = {budget.name: budget.resource for budget in draws.budgets}
    for hold in held.holds:
        resource, price = resources[hold.budget], met.prices.get(hold.budget)
        paid = None if price is None else price * uses[resource]
        yield Draw(hold.budget, resource, hold.amount, price, paid, met.left.get(hold.budget))


def _verdict(routed: Routed, llm: str, observing: bool, too_dear: bool) -> str:
    excluded = {name: sentences.EXCLUSIONS[why] for name, why in routed.excluded.items()}
    named = {**excluded, **_ends(routed), **dict.fromkeys(routed.skipped, "no budget")}
    named |= dict.fromkeys(routed.out, "taken out")
    if llm == routed.llm:
        return "drawn" if observing else "chosen"
    if llm in named:
        return named[llm]
    if routed.reason in UNSCORED:
        return "not asked"
    if observing:
        return "not drawn"
    return "too dear" if too_dear else "outscored"


def _ends(routed: Routed) -> dict[str, str]:
    """How the attempts before ended, by LLM."""
    ends = dict.fromkeys(routed.tried, "failed")
    return {**ends, routed.tried[-1]: "unanswered"} if routed.cause.kind == "unanswered" else ends


DRAWN = ("observing", "exploring")
ENDS = {"failed": "had failed", "unanswered": "had not answered in time"}
UNSCORED = {
    "no_candidate": "no LLM was a candidate for the query",
    "expired": "its deadline had passed",
    "duplicate": "another dispatch of this query id was open",
    "failed": "no further attempt was possible after an error",
    "filtered": "a provider's content filter refused the request or its answer",
    "unanswered": "the dispatch before was not answered in time, and no other LLM could be asked",
}


def _why(routed: Routed, observing: bool, gated: bool) -> str:
    if routed.llm is not None:
        return _why_chosen(routed, routed.llm, observing, gated)
    if routed.reason in UNSCORED:
        return f"deferred: {UNSCORED[routed.reason]}"
    if routed.reason in ("exhausted", "unavailable"):
        lacking = _could_not(routed)
        out = f"{', '.join(routed.out)} had been taken out" if routed.out else ""
        return f"deferred: {' and '.join(filter(None, (lacking, out)))}{_nobody_else(observing, gated)}"
    if observing:
        return "deferred: the random draw named no LLM to try: the policy was still observing"
    if not gated:
        return "deferred: the LLM with the best score had failed, and the policy takes no second choice"
    return f"deferred: no {'other ' if routed.tried else ''}LLM was worth the price of its budget"


def _could_not(routed: Routed) -> str:
    return f"{', '.join(routed.skipped)} could not reserve ({_short(routed)})" if routed.skipped else ""


def _short(routed: Routed) -> str:
    """The budgets that had too little."""
    names = dict.fromkeys(one.budget for lacking in routed.lacking for one in lacking)
    return f"too little left of {', '.join(names)}"


def _why_chosen(routed: Routed, llm: str, observing: bool, gated: bool) -> str:
    if routed.reason == "exploring":
        return f"{llm} was drawn at random, to explore: its chance was {routed.probabilities.get(llm, 0.0):.2%}"
    if observing:
        return f"{llm} was drawn at random: the policy was still observing"
    passed = f"; {', '.join(routed.skipped)} scored higher and could not reserve" if routed.skipped else ""
    passed += f" ({_short(routed)})" if routed.skipped else ""
    passed += f"; {', '.join(routed.out)} scored higher and had been taken out" if routed.out else ""
    failed = "".join(f"; {tried} {ENDS[end]}" for tried, end in _ends(routed).items())
    return f"{llm} had the best score{' above 0' if gated else ''}{passed}{failed}"


def _nobody_else(observing: bool, gated: bool) -> str:
    if observing:
        return ", drawn at random while the policy was still observing"
    return ", and no other LLM was worth its price" if gated else ", and the policy takes no second choice"
