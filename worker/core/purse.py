"""The purse of a lane: money that the treasury has leased to it, and the queries that wait for more. Pure.

The rules of a lane are L1 to L9 of docs/concepts/treasury.md; comments here name them. The caller does three things in
this order for each event, and ends each transaction with `report`:
1. `serve` a query, `apply` an item, `close` or `correct` a dispatch, or `give_up` waiting for a grant;
2. `serve` the query that `apply` or `give_up` hands back, before anything else;
3. `give_back` what the lane may not keep.

Asserted in production too: after `give_back` no free money is below 0, and none is left in an account whose period is
not open, or whose budget is scarce, paused or removed; sequences have no gap; a query that is handed back is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NoReturn, Self

from msgspec.structs import replace

from worker.contract.leases import Ask, Denied, Granted, GrantMessage, Item, LaneReport, Moved
from worker.contract.purse_rows import LaneAccount, LaneBudget, ParkedQuery
from worker.contract.token_costs import PriceList
from worker.core.beliefs import learn
from worker.core.leasing import Closing, Entry, HandedBack, Option, Parked, RefusalReason, Refused, Reserved, Wish
from worker.core.ledger import BrokenInvariant
from worker.core.purse_state import AccountKey, PurseState

# L4: a lane that has nothing urgent to say reports after so many queries, and after so long while it holds money.
REPORT_QUERIES = 100
REPORT_MS = 10_000
# L8: beyond so many parked queries, none is parked.
MOST_PARKED = 10_000


class Purse:
    """The leased money of one lane and its parked queries."""

    def __init__(self, state: PurseState | None = None) -> None:
        self._state = state or PurseState()
        # Within a transaction: what the next report must say, and the query that was handed back.
        self._asks: list[Ask] = []
        self._returned: dict[AccountKey, int] = {}
        self._must_answer = False
        self._handed_back: HandedBack | None = None
        # Accounts that may hold what the lane may not keep; accounts that changed; budgets that may have become low.
        self._loose: set[AccountKey] = set()
        self._changed: set[AccountKey] = set()
        self._drawn: set[int] = set()
        self._ended: list[tuple[AccountKey, LaneAccount]] = []

    @classmethod
    def restored(cls, rows: Mapping[str, bytes]) -> Self:
        """The purse that wrote these rows; a fresh one if it wrote none. Raises what `PurseState.read` raises."""
        purse = cls(PurseState.read(rows))
        purse.check()
        return purse

    @property
    def is_ready(self) -> bool:
        """Whether the treasury has said what budgets there are. Before that nothing can be served."""
        return self._state.row.is_ready

    @property
    def offset(self) -> int:
        """The last applied offset of `grants`; -1 before the first."""
        return self._state.row.offset

    @property
    def accounts(self) -> Mapping[AccountKey, LaneAccount]:
        """The lane's accounts, by budget and period."""
        return self._state.accounts

    @property
    def budgets(self) -> Mapping[int, LaneBudget]:
        """What the lane believes of each budget."""
        return self._state.budgets

    @property
    def parked(self) -> Mapping[int, ParkedQuery]:
        """The queries that wait, by their asks."""
        return self._state.parked

    @property
    def paused_llms(self) -> tuple[str, ...]:
        """The LLMs that people have paused."""
        return self._state.row.paused_llms

    @property
    def prices(self) -> Mapping[str, PriceList]:
        """What LLMs cost, where people have set it."""
        return self._state.row.prices

    def matching(self, llm: str, tags: Mapping[str, str]) -> list[int]:
        """The open budgets that a query with these tags would draw on at this LLM."""
        return self._state.matching(llm, tags)

    # Queries: L1, L2, L5

    def seen(self) -> None:
        """Count a query that arrived."""
        row = self._state.row
        self._state.put_row(replace(row, queries=row.queries + 1))

    def serve(self, wish: Wish) -> Reserved | Parked | Refused:
        """Reserve for the best LLM that own money covers, or ask for the best that it does not (L1).

        A query that was handed back is served before any other.
        """
        back, self._handed_back = self._handed_back, None
        if back is not None and (back.query.offset, back.query.attempt) != (wish.offset, wish.attempt):
            _broken(f"{back.query.query_id} was handed back, and {wish.query_id} is served")
        if not self.is_ready:
            _broken(f"{wish.query_id} is served before the treasury has said what budgets there are")
        options = [option for option in wish.options if self._may_answer(option, wish)]
        first = [option for option in options if back is not None and option.llm == back.first]
        if first and not self._short(first[0]):
            return self._reserve(first[0])
        may_ask = back is None or back.may_ask
        return self._serve_from_the_top(wish, options, may_ask)

    def _may_answer(self, option: Option, wish: Wish) -> bool:
        return option.llm not in self._state.row.paused_llms and option.llm not in wish.refused

    def _serve_from_the_top(self, wish: Wish, options: Iterable[Option], may_ask: bool) -> Reserved | Parked | Refused:
        reason: RefusalReason = "exhausted"
        refused: dict[str, tuple[int, ...]] = {}
        for option in options:
            short = self._short(option)
            if not short:
                return self._reserve(option)
            refused[option.llm] = tuple(short)
            if any(self._state.is_known_dry(need) for need in option.needs):
                continue
            if may_ask and not self._state.row.treasury_is_silent and len(self._state.parked) < MOST_PARKED:
                return self._park(wish, option)
            reason = "treasury_silent" if self._state.row.treasury_is_silent else "no_grant"
        return Refused(reason, refused)

    def _short(self, option: Option) -> list[int]:
        """The budgets that refuse an LLM now."""
        return [need.budget for need in option.needs if self._state.lacks(need)]

    def _reserve(self, option: Option) -> Reserved:
        entries = []
        for need in option.needs:
            period = self._state.open_period(need.budget)
            if period is None:
                continue
            account = self._state.account((need.budget, period))
            self._put((need.budget, period), replace(account, reserved=account.reserved + need.amount))
            self._drawn.add(need.budget)
            entries.append(Entry(need.budget, period, need.amount))
        return Reserved(option.llm, tuple(entries))

    def _park(self, wish: Wish, option: Option) -> Parked:
        """Ask for the whole need, so that what is free here stays free for others."""
        state = self._state
        number = state.row.asks + 1
        state.put_row(replace(state.row, asks=number))
        needs = tuple(need for need in option.needs if state.open_period(need.budget) is not None)
        self._asks.append(Ask(number, option.llm, needs))
        state.park(
            ParkedQuery(
                ask=number,
                query_id=wish.query_id,
                offset=wish.offset,
                attempt=wish.attempt,
                llm=option.llm,
                needs=needs,
                refused=wish.refused,
                limit_ms=wish.limit_ms,
                heard_messages=state.row.messages,
            )
        )
        return Parked(number)

    # Limits of waiting (L8)

    def overdue(self, now_ms: int) -> list[int]:
        """The asks whose queries wait no longer."""
        return [ask for ask, query in self._state.parked.items() if query.limit_ms <= now_ms]

    def give_up(self, ask: int) -> HandedBack | None:
        """The limit of a parked query has passed. It is handed back, to be served from own money only; None if its
        answer came before."""
        state = self._state
        query = state.unpark(ask)
        if query is None:
            return None
        if query.heard_messages == state.row.messages:
            state.put_row(replace(state.row, treasury_is_silent=True))
        return self._hand_back(HandedBack(query, None, may_ask=False))

    # What the treasury says: L2, L5, L6, L7

    def read(self, offset: int, message: GrantMessage) -> tuple[Item, ...]:
        """The items of a message that was read from `grants`, to apply one by one; none if it was read before."""
        row = self._state.row
        if offset <= row.offset:
            return ()
        if message.sequence != row.messages + 1:
            _broken(f"message {message.sequence} of the treasury follows {row.messages}")
        self._state.put_row(replace(row, offset=offset, messages=message.sequence, treasury_is_silent=False))
        return message.items

    def apply(self, item: Item) -> HandedBack | None:
        """Apply one item. Returns the parked query that it answers, to be served at once."""
        match item:
            case Granted():
                return self._granted(item)
            case Denied():
                return self._denied(item)
            case _:
                learned = learn(self._state, item)
                self._must_answer = self._must_answer or learned.must_answer
                if learned.loose is not None:
                    self._loose.add(learned.loose)
                return None

    def _granted(self, item: Granted) -> HandedBack | None:
        query = self._state.unpark(item.ask)
        needs = {} if query is None else {need.budget: need.amount for need in query.needs}
        for entry in item.entries:
            key = entry.budget, entry.period
            account = self._state.account(key)
            self._put(key, replace(account, granted=account.granted + entry.amount))
            budget = self._state.budgets[entry.budget]
            if self._state.open_period(entry.budget) == entry.period:
                block = entry.amount - needs.get(entry.budget, entry.amount if item.ask else 0)
                self._state.put_budget(
                    entry.budget,
                    replace(budget, is_scarce=entry.is_scarce, block=block or budget.block, told_low=False),
                )
        return None if query is None else self._hand_back(HandedBack(query, query.llm, may_ask=True))

    def _denied(self, item: Denied) -> HandedBack | None:
        for short in item.short:
            budget = self._state.budgets[short.budget]
            if self._state.open_period(short.budget) == short.period:
                dry = short.need if budget.dry is None else min(budget.dry, short.need)
                self._state.put_budget(short.budget, replace(budget, dry=dry))
        query = self._state.unpark(item.ask)
        if query is None:
            return None
        return self._hand_back(HandedBack(replace(query, refused=(*query.refused, query.llm)), None, may_ask=True))

    def _hand_back(self, back: HandedBack) -> HandedBack:
        if self._handed_back is not None:
            _broken(f"{self._handed_back.query.query_id} was handed back and not served")
        self._handed_back = back
        return back

    # Dispatches that close: L9

    def close(self, closings: Iterable[Closing]) -> None:
        """Settle, release or expire a dispatch, on the accounts and periods in which it was made."""
        for one in closings:
            key = one.budget, one.period
            old = self._state.account(key)
            reserved, spent = old.reserved - one.reserved, old.spent + one.spent
            if reserved < 0:
                _broken(
                    f"budget {one.budget}, period {one.period}: {one.reserved} of {old.reserved} reserved are closed"
                )
            self._put(key, replace(old, reserved=reserved, spent=spent, unreported=old.unreported + one.spent))

    def correct(self, costs: Iterable[Entry]) -> None:
        """Book what an answer costs beyond what its closing has booked; below 0: it costs less than that.

        What it costs less goes back at once and is never free here: the account may have ended, and the lane may not
        know it yet.
        """
        for budget, period, more in costs:
            key = budget, period
            old = self._state.account(key)
            back = max(0, -more)
            self._returned[key] = self._returned.get(key, 0) + back
            returned, spent, unreported = old.returned + back, old.spent + more, old.unreported + more
            self._put(key, replace(old, returned=returned, spent=spent, unreported=unreported))

    # What goes back: L3, L4

    def give_back(self) -> None:
        """Return the free money that the lane may not keep, and draw what it lacks: a lane never owes (L3).

        Called after each event, so that it does not matter how events are cut into transactions.
        """
        for key in sorted(self._loose):
            account = self._state.account(key)
            if account.free < 0 or (account.free > 0 and not self._may_keep(key)):
                self._returned[key] = self._returned.get(key, 0) + account.free
                self._state.put_account(key, replace(account, returned=account.returned + account.free))
        self._changed |= self._loose
        self._loose.clear()

    def _may_keep(self, key: AccountKey) -> bool:
        number, period = key
        return period == self._state.open_period(number) and self._state.may_keep(number)

    def report(self, now_ms: int) -> LaneReport | None:
        """What the lane must tell the treasury at the end of a transaction, with all that is unreported (L4); None if
        nothing has to be said."""
        if self._handed_back is not None:
            _broken(f"{self._handed_back.query.query_id} was handed back and not served")
        if self._loose:
            _broken(f"accounts {sorted(self._loose)} were not given back")
        low = self._low()
        told = self._told(low, now_ms) if self._is_urgent(low) or self._is_due(now_ms) else None
        self._end_accounts()
        self._asks, self._returned, self._must_answer = [], {}, False
        self._changed.clear()
        self._drawn.clear()
        return told

    def take_rows(self) -> dict[str, bytes | None]:
        """The rows that changed since the last call, by key; None for a row that is gone."""
        return self._state.take_rows()

    def take_ended(self) -> list[tuple[AccountKey, LaneAccount]]:
        """The accounts that ended since the last call: their period is over, and all of them is reported."""
        ended, self._ended = self._ended, []
        return ended

    def _low(self) -> list[int]:
        """Plenty budgets of which less than half a block is left, each named once."""
        return [number for number in sorted(self._drawn) if self._state.is_low(number)]

    def _is_urgent(self, low: list[int]) -> bool:
        """Whether something has to be said now. The first report of all asks what budgets there are."""
        is_first = self._state.row.reports == 0
        return bool(is_first or self._asks or low or self._must_answer or any(self._returned.values())) or any(
            period != self._state.open_period(number) for number, period in self._state.unreported
        )

    def _is_due(self, now_ms: int) -> bool:
        row = self._state.row
        if row.queries >= REPORT_QUERIES:
            return True
        holds = any(account.free or account.reserved or account.unreported for account in self._state.accounts.values())
        return now_ms - row.reported_ms >= REPORT_MS and (holds or bool(self._state.parked))

    def _told(self, low: list[int], now_ms: int) -> LaneReport:
        """The report, with nothing unreported after it."""
        state, moved = self._state, []
        for key in sorted(state.unreported | {key for key, amount in self._returned.items() if amount}):
            account = state.account(key)
            moved.append(Moved(*key, account.unreported, self._returned.get(key, 0)))
            state.put_account(key, replace(account, unreported=0))
            self._changed.add(key)
        for number in low:
            state.put_budget(number, replace(state.budgets[number], told_low=True))
        row = state.row
        state.put_row(replace(row, reports=row.reports + 1, queries=0, reported_ms=now_ms))
        return LaneReport(row.reports + 1, row.heard, row.queries, tuple(moved), tuple(self._asks), tuple(low))

    def _end_accounts(self) -> None:
        """Forget accounts of which nothing is left to say."""
        for number, period in sorted(self._changed):
            account = self._state.accounts.get((number, period))
            if account is None or period == self._state.open_period(number):
                continue
            if not account.free and not account.reserved and not account.unreported:
                self._ended.append(((number, period), account))
                self._state.put_account((number, period), None)
            is_removed = number in self._state.budgets and self._state.open_period(number) is None
            if is_removed and not self._state.has_accounts(number):
                self._state.put_budget(number, None)

    # Invariants

    def check(self) -> None:
        """Assert the rules of every account; raises BrokenInvariant. Not within an event."""
        for key, account in self._state.accounts.items():
            if account.reserved < 0 or account.free < 0 or (account.free > 0 and not self._may_keep(key)):
                _broken(f"budget {key[0]}, period {key[1]}: {account} of {self._state.budgets.get(key[0])}")

    def _put(self, key: AccountKey, account: LaneAccount) -> None:
        self._loose.add(key)
        self._state.put_account(key, account)


def _broken(what: str) -> NoReturn:
    raise BrokenInvariant(f"the lane's purse does not add up: {what}")
