"""Knows independently what must hold in the world of the treasury, and looks after every transaction.

The invariants are those of docs/concepts/treasury.md. What was granted, returned, reserved and spent is added up here
from messages and dispatches, never taken from the rows that are checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from tests.simulation.auditor import Violation
from tests.simulation.treasury_lane import Arrival, Sent, SimulatedLane, needs_of
from tests.simulation.treasury_sums import Key, OfLane, add_grants, add_moved, added
from worker.contract.leases import Denied, Granted, LaneReport, Need, decode_grants, decode_report
from worker.contract.purse_rows import LaneAccount
from worker.contract.treasury_records import (
    AccountEnded,
    BudgetAccount,
    LateBooked,
    PeriodBegun,
    decode_treasury_decision,
)
from worker.core.journal import record_hash
from worker.core.leasing import Refused, Reserved, Wish
from worker.treasury.events import TreasuryEffects, TreasuryEvent
from worker.treasury.replay import replay
from worker.treasury.treasury import Treasury

if TYPE_CHECKING:
    from tests.simulation.treasury_world import TreasuryWorld


class TreasuryAuditor:
    """Raises Violation where something does not hold."""

    def __init__(self, world: TreasuryWorld) -> None:
        self._world = world
        self._lanes = [OfLane() for _ in range(world.count)]
        self._head = b""
        self.chain: list[bytes] = []
        self._ended: dict[Key, BudgetAccount] = {}
        self._late, self._skipped, self._excess = Counter[Key](), Counter[int](), Counter[int]()
        self._begun: dict[int, PeriodBegun] = {}
        self._carries_over: set[int] = set()

    # Lanes

    def lane_committed(self, lane: SimulatedLane, report: LaneReport | None) -> None:
        """A lane has committed a transaction, with this report."""
        of, purse = self._lanes[lane.number], lane.purse
        messages = self._world.grants[lane.number]
        for value in messages[of.messages_applied : purse.offset + 1]:
            add_grants(of.applied, decode_grants(value).items)
        of.messages_applied = purse.offset + 1
        if report is not None:
            add_moved(of.told_spent, of.told_returned, report)
        for key, account in purse.take_ended():
            of.ended[key] = added(of.ended.get(key, LaneAccount()), account)
        of.accounts = dict(purse.accounts)
        self._note_excess(of.dispatches, lane.stored.sent)
        of.dispatches = dict(lane.stored.sent)
        self._check_lane(lane, of)
        self._check_restored(lane)

    def _note_excess(self, before: dict[str, Sent], after: dict[str, Sent]) -> None:
        """What was spent beyond a reservation, or beyond what was booked before."""
        for query_id, sent in after.items():
            old = before.get(query_id, sent._replace(booked=None))
            for entry, base in zip(sent.booked or (), old.booked or sent.entries, strict=False):
                self._excess[entry.budget] += max(0, entry.amount - base.amount)

    def _check_lane(self, lane: SimulatedLane, of: OfLane) -> None:
        reserved, spent = of.reserved(), of.spent()
        for key in of.applied.keys() | reserved.keys() | spent.keys() | of.accounts.keys():
            account, ended = of.accounts.get(key, LaneAccount()), of.ended.get(key, LaneAccount())
            whole = added(ended, account)
            found = (whole.granted, whole.returned, account.reserved, whole.spent, whole.spent - account.unreported)
            right = (of.applied[key], of.told_returned[key], reserved[key], spent[key], of.told_spent[key])
            if found != right:
                _violated(f"lane {lane.number}, account {key}: {found} should be {right}")
            self._check_free(lane, key, account)
        for query_id, outcomes in lane.stored.outcomes.items():
            if len(outcomes) > 1:
                _violated(f"{query_id} was decided twice: {outcomes}")

    def _check_free(self, lane: SimulatedLane, key: Key, account: LaneAccount) -> None:
        if account.free < 0:
            _violated(f"lane {lane.number} owes {account.free} of {key}")
        budget = lane.purse.budgets.get(key[0])
        may_keep = budget is not None and budget.period is not None and budget.period.number == key[1]
        if account.free and (not may_keep or budget is None or budget.is_scarce or budget.is_paused):
            _violated(f"lane {lane.number} keeps {account.free} of {key}, which it must give back")

    def _check_restored(self, lane: SimulatedLane) -> None:
        """The rows say all of the purse."""
        other = type(lane.purse).restored(lane.stored.rows)
        for name in ("accounts", "budgets", "parked", "offset", "prices", "paused_llms"):
            if getattr(other, name) != getattr(lane.purse, name):
                _violated(f"lane {lane.number}: a restored purse has other {name}")

    def dispatched(self, lane: SimulatedLane, wish: Wish, reserved: Reserved) -> None:
        """A query is dispatched: to an LLM that is in use, with all that it costs now."""
        purse, arrival = lane.purse, lane.arrivals[wish.offset]
        if reserved.llm in purse.paused_llms or reserved.llm in lane.work.out:
            _violated(f"{wish.query_id} is dispatched to {reserved.llm}, which is out")
        definitions = {
            number: purse.budgets[number].definition for number in purse.matching(reserved.llm, arrival.tags)
        }
        needs = {need.budget: need.amount for need in needs_of(arrival, reserved.llm, definitions, purse.prices)}
        if needs != (found := {entry.budget: entry.amount for entry in reserved.entries}):
            _violated(f"{wish.query_id} is dispatched with {found}, and needs {needs}")
        if paused := [number for number in needs if purse.budgets[number].is_paused]:
            _violated(f"{wish.query_id} draws on budgets {paused}, which are paused")

    def refused(self, lane: SimulatedLane, wish: Wish, refused: Refused) -> None:
        """A query is deferred: not while the treasury has the money and the lane knows all that it has said."""
        knows_all = lane.purse.offset + 1 == len(self._world.grants[lane.number])
        if refused.reason != "exhausted" or not knows_all or lane.has_more_items:
            return
        treasury = self._treasury()
        arrival = lane.arrivals[wish.offset]
        for llm in arrival.llms:
            if llm not in (*treasury.paused_llms, *wish.refused, *lane.work.out) and self._has_money(
                treasury, arrival, llm
            ):
                _violated(f"{wish.query_id} is deferred, but the treasury has the money for {llm}")

    def _has_money(self, treasury: Treasury, arrival: Arrival, llm: str) -> bool:
        due = {number for number, one in treasury.budgets.items() if _is_due(treasury, number)}
        for need in _needs(treasury, arrival, llm):
            budget = treasury.budgets[need.budget]
            assert budget.period is not None, "only open budgets match"
            account = treasury.accounts[need.budget, budget.period.number]
            if need.budget in due or budget.is_paused or account.left < need.amount:
                return False
        return True

    # The treasury

    def treasury_committed(
        self, events: Sequence[TreasuryEvent], effects: TreasuryEffects, before: dict[str, bytes]
    ) -> None:
        """The treasury has committed a transaction."""
        owner = self._world.owner
        assert owner is not None, "it has just committed"
        old = self._restored(before)
        if old.handle(events) != effects:
            _violated("a restored treasury decides otherwise")
        known = self._restored(before).budgets
        for number, budget in (*known.items(), *owner.budgets.items()):
            self._excess[number] += max(0, known.get(number, budget).definition.amount - budget.definition.amount)
            if budget.definition.carry_over:
                self._carries_over.add(number)
        for lane, message in effects.messages.items():
            add_grants(self._lanes[lane].sent, message.items)
            self._check_answers(lane, message.items)
        for number, row in owner.lanes.items():
            of = self._lanes[number]
            for value, _ in self._world.asks[number][of.reports_heard : row.reports]:
                add_moved(of.heard_spent, of.heard_returned, decode_report(value))
            of.reports_heard = row.reports
        self._follow(effects)
        self._check_accounts(owner)

    def _check_answers(self, lane: int, items: Iterable[object]) -> None:
        """Each ask is answered once."""
        of = self._lanes[lane]
        for item in items:
            if isinstance(item, Granted | Denied) and item.ask:
                if item.ask in of.answered:
                    _violated(f"ask {item.ask} of lane {lane} is answered twice")
                of.answered.add(item.ask)

    def _follow(self, effects: TreasuryEffects) -> None:
        """Read what the treasury has written into its chain."""
        for _, value in effects.decisions:
            self.chain.append(value)
            decision = decode_treasury_decision(value)
            if decision.prev != self._head:
                _violated(f"{decision} does not follow the last decision")
            self._head = record_hash(value)
            match decision:
                case PeriodBegun():
                    self._begins(decision)
                case AccountEnded():
                    self._ended[decision.budget, decision.period] = decision.account
                case LateBooked():
                    self._late[decision.budget, decision.period] += decision.spent
                    self._skipped[decision.budget] += decision.carried

    def _begins(self, new: PeriodBegun) -> None:
        old = self._begun.get(new.budget)
        if old is not None and not (old.period.number < new.period.number and old.period.end_ms <= new.period.start_ms):
            _violated(f"{new} follows {old}")
        latest = max((at_ms for log in (*self._world.asks, self._world.control) for _, at_ms in log), default=0)
        if new.period.start_ms > max(latest, new.at_ms if old is None else 0):
            _violated(f"{new} begins before any record of that time")
        self._begun[new.budget] = new
        if new.budget in self._carries_over:
            self._skipped[new.budget] += new.skipped * new.amount

    def _check_accounts(self, owner: Treasury) -> None:
        carried = Counter[int]()
        for key, account in {**self._ended, **owner.accounts}.items():
            carried[key[0]] += account.carried
            late = self._late[key]
            found = (account.granted, account.returned - late, account.spent + late)
            if found != (right := self._right(key)):
                _violated(f"the treasury's account {key}: {found} should be {right}")
        for number, total in carried.items():
            if total != self._skipped[number]:
                _violated(f"budget {number}: {total} were carried in all, which should be {self._skipped[number]}")
        for key, account in owner.accounts.items():
            self._check_law(key, account)
            budget = owner.budgets[key[0]]
            is_open = budget.period is not None and budget.period.number == key[1]
            if is_open and account.amount != budget.definition.amount:
                _violated(f"account {key} has the amount {account.amount}, its budget {budget.definition.amount}")
            if account.left < -self._excess[key[0]]:
                _violated(
                    f"account {key}: {account.left} are left, but only {self._excess[key[0]]} explain less than 0"
                )
            if (
                is_open
                and account.left < 0
                and self.is_quiet()
                and any(of.accounts.get(key, LaneAccount()).free > 0 for of in self._lanes)
            ):
                _violated(f"account {key} is overspent, and a lane keeps free money of it")

    def _right(self, key: Key) -> tuple[int, int, int]:
        return (
            sum(of.sent[key] for of in self._lanes),
            sum(of.heard_returned[key] for of in self._lanes),
            sum(of.heard_spent[key] for of in self._lanes),
        )

    def _check_law(self, key: Key, account: BudgetAccount) -> None:
        """Law 1: all money of a budget and period is somewhere, once."""
        held = under_way = 0
        for of in self._lanes:
            held += of.accounts.get(key, LaneAccount()).free + of.reserved()[key] + of.spent()[key]
            under_way += of.sent[key] - of.applied[key] + of.told_returned[key] - of.heard_returned[key]
        if account.amount + account.carried != account.left + held + under_way:
            _violated(f"account {key}: {account} with {held} held and {under_way} under way does not add up")

    # The end

    def is_quiet(self) -> bool:
        """Whether no message is unread, nothing waits, and nobody has to be told anything."""
        world, owner = self._world, self._world.owner
        if owner is None or owner.has_news or owner.waiting or owner.control_offset + 1 < len(world.control):
            return False
        for number in range(world.count):
            lane = world.lanes[number]
            if lane is None or not lane.purse.is_ready or lane.purse.parked or lane.work.arrivals < len(lane.arrivals):
                return False
            if lane.purse.offset + 1 < len(world.grants[number]):
                return False
            if owner.lanes[number].offset + 1 < len(world.asks[number]):
                return False
        return True

    def stuck(self) -> NoReturn:
        """Everybody has worked for long, and it is not quiet."""
        world = self._world
        parked = [dict(lane.purse.parked) for lane in world.lanes if lane is not None]
        _violated(f"stuck: parked {parked}, waiting {dict(self._owner().waiting)}")

    def fits(self, number: int, arrival: Arrival) -> bool:
        """Whether the money for a query is free anywhere: in the treasury or in lanes."""
        owner, lane = self._owner(), self._world.lanes[number]
        assert lane is not None, "all lanes have owners when all is quiet"
        llms = [llm for llm in arrival.llms if llm not in owner.paused_llms and llm not in lane.work.out]
        return any(all(self._is_free(owner, need) for need in _needs(owner, arrival, llm)) for llm in llms)

    def _is_free(self, owner: Treasury, need: Need) -> bool:
        budget = owner.budgets[need.budget]
        assert budget.period is not None, "only open budgets match"
        key = need.budget, budget.period.number
        free = sum(of.accounts.get(key, LaneAccount()).free for of in self._lanes)
        return not budget.is_paused and owner.accounts[key].left + free >= need.amount

    def check_probe(self, number: int, arrival: Arrival, fits: bool) -> None:
        """A query that came when all was quiet is dispatched if it fits, and only then."""
        outcomes = self._world.stored[number].outcomes[arrival.query_id]
        if [outcome.llm is not None for outcome in outcomes] != [fits]:
            _violated(f"{arrival} fits: {fits}; it was decided as {outcomes}")

    def check_end(self) -> None:
        """Every query is decided; what was spent is known to the last unit; leftovers are where they belong; a replay
        of the chain decides the same."""
        owner, world = self._owner(), self._world
        found = replay(
            self.chain, lambda lane, offset: world.asks[lane][offset][0], lambda offset: world.control[offset][0]
        )
        if found is not None:
            _violated(f"a replay decides otherwise: {found}")
        for number, stored in enumerate(self._world.stored):
            undecided = {arrival.query_id for arrival in self._world.arrivals[number]} - stored.outcomes.keys()
            if undecided or any(len(outcomes) != 1 for outcomes in stored.outcomes.values()):
                _violated(f"lane {number}: {undecided or stored.outcomes} are not decided once")
        for key, account in owner.accounts.items():
            spent = sum(of.spent()[key] for of in self._lanes)
            if account.spent != spent:
                _violated(f"account {key} knows of {account.spent} spent of {spent}")
            budget = owner.budgets[key[0]]
            if budget.period is None or budget.period.number != key[1]:
                _violated(f"account {key} is over and quiet, but has not ended: {account}")
        for key, account in self._ended.items():
            self._check_ended(owner, key, account)
        for number, budget in owner.budgets.items():
            for lane in self._world.lanes:
                dry = None if lane is None else lane.purse.budgets[number].dry
                if dry is not None and budget.dry is None and not budget.is_paused:
                    _violated(f"a lane believes for ever that budget {number} is dry")

    def _check_ended(self, owner: Treasury, key: Key, account: BudgetAccount) -> None:
        spent = sum(of.spent()[key] for of in self._lanes)
        if account.spent + self._late[key] != spent:
            _violated(f"account {key} ended with {account.spent} spent and {self._late[key]} late, of {spent}")
        if account.left != account.amount + account.carried - account.spent:
            _violated(f"account {key} ended with {account.left} left: {account}")
        budget = owner.budgets.get(key[0])
        if budget is not None and budget.period is not None and budget.definition.carry_over and account.left:
            _violated(f"account {key} ended with {account.left} that were not carried over")

    # Parts

    def _owner(self) -> Treasury:
        assert self._world.owner is not None, "the treasury has an owner"
        return self._world.owner

    def _treasury(self) -> Treasury:
        """The treasury as it has committed."""
        return self._restored(self._world.rows)

    def _restored(self, rows: dict[str, bytes]) -> Treasury:
        return self._world.actors.treasury.restored(rows, self._world.actors.calendar)


def _needs(treasury: Treasury, arrival: Arrival, llm: str) -> tuple[Need, ...]:
    matching = {
        number: one.definition
        for number, one in treasury.budgets.items()
        if one.period is not None and one.definition.matches(llm, arrival.tags)
    }
    return needs_of(arrival, llm, matching, treasury.prices)


def _is_due(treasury: Treasury, number: int) -> bool:
    """Whether lanes will hear that a budget has money again."""
    budget = treasury.budgets[number]
    return budget.dry is not None and treasury.has_news


def _violated(what: str) -> NoReturn:
    raise Violation(what)
