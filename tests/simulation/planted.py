"""Bugs planted on purpose, each in one part: what the simulator must find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from tests.simulation.broker import SimulatedProducer
from tests.simulation.consumer import SimulatedClient
from tests.simulation.steps import gate
from tests.simulation.world import Parts
from worker.contract.accounts import Account
from worker.contract.codes import Lack
from worker.contract.errors import LeaveProcess
from worker.contract.messages import Reservation
from worker.core.events import Arrived, Completed, Expiry, Ticked
from worker.core.lane_view import LaneView
from worker.core.ledger import Closing, Ledger
from worker.core.router import Prior, Router
from worker.core.settlement import Charge
from worker.kafka.reader import Place
from worker.service.committer import Committer
from worker.service.intake import Input
from worker.service.overdue import Overdue
from worker.service.positions import Fetch, Handover, Positions, Seek


class SkipsTheFence(SimulatedProducer):
    """Starts to work in the epoch that it finds."""

    def init_transactions(self, timeout: float) -> None:
        gate("no fence")
        self._epoch = self._log.epochs[self._transactional_id()]


class SwapsMemoryBeforeCommit(Committer):
    """Goes on with what it has in memory when a transaction failed."""

    def commit(self, inputs: Sequence[Input]) -> None:
        try:
            super().commit(inputs)
        except LeaveProcess:
            self.fence()


class LosesTheSeek(SimulatedClient):
    """Is sought to the end of its inputs, and believes that it has read the records before."""

    def seek(self, seek: Seek) -> None:
        super().seek(seek._replace(starts={place: self._log.last_stable(place) for place in seek.starts}))


class PassesOverADroppedFetch(Positions):
    """Does not look whether a fetch follows."""

    def take(self, fetch: Fetch) -> dict[Place, Handover]:
        return super().take(fetch._replace(number=self._number + bool(fetch.records)))


class TakesAFetchOfBefore(Positions):
    """Takes a fetch from before the seek for one after it."""

    def take(self, fetch: Fetch) -> dict[Place, Handover]:
        return super().take(fetch._replace(seek=self._seek))


class ForgetsTheRevocation(Positions):
    """Goes on after partitions were assigned as if its batches had not been dropped."""

    def lose(self) -> None:
        pass


class TwiceSettled(Router):
    """Books the cost of an answer again when the answer comes again."""

    def _completed(self, completion: Completed) -> None:
        answer = completion.answer
        again = answer.dispatch_id not in self._ledger.open and answer.stated_micros
        super()._completed(completion)
        account = self.view.budgets.get(answer.llm or "")
        if again and account is not None and account.available >= again:
            self._ledger._put(replace(account, spent=account.spent + again))


class GivesBackTwice(Ledger):
    """Gives a part of a reservation back to the first budget once more."""

    def close(self, reservation: Reservation, charge: Charge, number: int) -> Closing:
        closing = super().close(reservation, charge, number)
        account = self.accounts[reservation.holds[0].key]
        back = min(account.reserved, reservation.holds[0].amount)
        self._put(replace(account, reserved=account.reserved - back))
        return closing


class ForgetsABudget(Ledger):
    """Charges all budgets of a dispatch but the last."""

    def close(self, reservation: Reservation, charge: Charge, number: int) -> Closing:
        last = reservation.holds[-1]
        before = self.accounts[last.key]
        closing = super().close(reservation, charge, number)
        if len(reservation.holds) > 1:
            self._put(replace(self.accounts[last.key], spent=before.spent, overrun=before.overrun))
        return closing


class TakesAPart(Ledger):
    """Takes from the first budget alone whether it has enough."""

    def lacking(self, reservation: Reservation) -> tuple[Lack, ...]:
        first = reservation.holds[0].budget
        return tuple(lack for lack in super().lacking(reservation) if lack.budget == first)

    def _put(self, account: Account) -> None:
        beyond = max(0, account.spent + account.reserved - account.amount)
        super()._put(replace(account, overrun=max(account.overrun, beyond)))


class StalePrice(Router):
    """Chooses by the prices that were in force at the first choice after a restore, and records the new ones."""

    def _route(self, *arguments: Any, **named: Any) -> None:
        if not hasattr(self, "stale"):
            self.stale = self.view.prices
        pricing = self._in_force
        pricing.rank = lambda query, _: type(pricing).rank(pricing, query, self._stale(query))  # type: ignore[method-assign,assignment]
        super()._route(*arguments, **named)

    def _stale(self, query: Arrived) -> list[float]:
        """What the query would be charged at the stale prices."""
        pricing = self._in_force
        prices, pricing.prices = pricing.prices, self.stale
        pricing._rates.clear()
        charges = pricing.charges(query)
        pricing.prices = prices
        pricing._rates.clear()
        return charges


class ForgetsTheOwner(Committer):
    """Takes its partition back after a pause, whoever owns it now."""

    def _check_owner(self, still_owner: bool) -> None:
        pass


class BelievesItsMachine(Committer):
    """Takes the time of its machine, whatever the broker says."""

    def _hear_time(self, asked: float) -> bool:
        return True


class IgnoresSuspicion(Committer):
    """Keeps its producer after a request that was sent twice."""

    @property
    def _suspicious(self) -> bool:
        return False

    @_suspicious.setter
    def _suspicious(self, suspicious: bool) -> None:
        pass


class ForgetsWhatWaits(Overdue):
    """Does not look whether an answer waits in the topic."""

    def _unread_answers(self, applied: int) -> set[str] | None:
        return set()


class ForgetsTheBegun(Overdue):
    """Does not look whether a call has begun."""

    def _read_begun(self, lane: LaneView) -> set[str]:
        return set()


class DropsTheSilent(Overdue):
    """Lets reservations expire, and forgets their queries."""

    def look(self, lane: LaneView, now_ms: int) -> list[Input]:
        due = tuple(Expiry(one.dispatch_id) for one in lane.expired(now_ms, 100))
        return [Input(Ticked(now_ms, due))] if due else []


class AsksWhoIsOut(Router):
    """Sends queries to LLMs that were taken out."""

    def _route(self, *arguments: Any) -> None:
        self._breakers.is_out = lambda llm, now_ms: False  # type: ignore[method-assign]
        super()._route(*arguments)


class AsksTheSilentAgain(Router):
    """Forgets which LLM has not answered, and asks it again."""

    def _retry(self, reservation: Any, query: Any, attempt: Any) -> None:
        forgotten = replace(attempt, tried=attempt.tried[:-1]) if attempt.otherwise else attempt
        super()._retry(reservation, query, forgotten)


def with_ledger(ledger: type[Ledger]) -> type[Committer]:
    """A committer that decides with another ledger."""

    class Replaced(Committer):
        def restore(self, prior: Prior) -> None:
            super().restore(prior)
            self.router._ledger.__class__ = ledger

    return Replaced


def with_router(router: type[Router]) -> type[Committer]:
    """A committer that decides with another router."""

    class Replaced(Committer):
        def restore(self, prior: Prior) -> None:
            super().restore(prior)
            self.router.__class__ = router

    return Replaced


BUGS: dict[str, Callable[[], Parts]] = {
    "skip the fence": lambda: Parts(producer=SkipsTheFence),
    "swap memory before commit": lambda: Parts(committer=SwapsMemoryBeforeCommit),
    "settle twice": lambda: Parts(committer=with_router(TwiceSettled)),
    "give back twice": lambda: Parts(committer=with_ledger(GivesBackTwice)),
    "forget a budget": lambda: Parts(committer=with_ledger(ForgetsABudget)),
    "take a part": lambda: Parts(committer=with_ledger(TakesAPart)),
    "lose the seek": lambda: Parts(client=LosesTheSeek),
    "pass over a dropped fetch": lambda: Parts(positions=PassesOverADroppedFetch),
    "take a fetch of before the seek": lambda: Parts(positions=TakesAFetchOfBefore),
    "forget the revocation": lambda: Parts(positions=ForgetsTheRevocation),
    "reuse a stale price": lambda: Parts(committer=with_router(StalePrice)),
    "forget the owner": lambda: Parts(committer=ForgetsTheOwner),
    "believe one clock": lambda: Parts(committer=BelievesItsMachine),
    "expire what waits in the topic": lambda: Parts(overdue=ForgetsWhatWaits),
    "forget the calls that have begun": lambda: Parts(overdue=ForgetsTheBegun),
    "drop the silent": lambda: Parts(overdue=DropsTheSilent),
    "ask who is out": lambda: Parts(committer=with_router(AsksWhoIsOut)),
    "ask the silent again": lambda: Parts(committer=with_router(AsksTheSilentAgain)),
    "ignore suspicion": lambda: Parts(committer=IgnoresSuspicion),
}
