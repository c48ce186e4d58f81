"""Which LLM takes a query, or why none does. Pure: it reads budgets and breakers, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from worker.contract.codes import DeferReason, Lack
from worker.contract.messages import Reservation
from worker.core.attempts import FIRST, Attempt, reservation_for
from worker.core.breakers import Breakers
from worker.core.events import Arrived
from worker.core.exploration import draw
from worker.core.ledger import Ledger
from worker.core.policy import Reason
from worker.core.pricing import Pricing


class Considered(NamedTuple):
    """What an LLM was chosen by: what each would use of the budgets, at their prices; and the LLMs that scored higher:
    what the budgets lacked to reserve for each, and those that were taken out."""

    charges: list[float]
    lacking: Mapping[str, tuple[Lack, ...]] = MappingProxyType({})
    out: tuple[str, ...] = ()


class Chosen(NamedTuple):
    """LLM number `i` takes the query, on this reservation. `probabilities` say how likely each LLM was chosen, where
    the lane explores."""

    i: int
    reservation: Reservation
    reason: Reason
    considered: Considered
    probabilities: Mapping[str, float] = MappingProxyType({})


class Unserved(NamedTuple):
    """No LLM takes the query."""

    reason: DeferReason
    considered: Considered


class Choice(NamedTuple):
    """How a lane chooses at `now_ms`."""

    partition: int
    now_ms: int
    pricing: Pricing
    ledger: Ledger
    breakers: Breakers

    def of(self, query: Arrived, attempt: Attempt) -> Chosen | Unserved:
        """The best LLM that is in use and can reserve, or another where the lane explores."""
        config = self.pricing.config
        charges = self.pricing.charges(query)
        ranked = attempt.candidates(self.pricing.rank(query, charges), config)
        lacking: dict[str, tuple[Lack, ...]] = {}
        out: list[str] = []
        for i in ranked:
            llm = config.llms[i]
            if self._is_out(i):
                out.append(llm)
                continue
            reservation = self._reservation(query, i, attempt)
            lacks = self.ledger.lacking(reservation)
            if not lacks:
                considered = Considered(charges, lacking, tuple(out))
                return self._explored(query, attempt, Chosen(i, reservation, self.pricing.reason(), considered))
            lacking[llm] = lacks
        left = set(config.llms) - self.pricing.excluded(query).keys()
        reason = attempt.reason(config, left, bool(lacking), bool(out))
        return Unserved(reason, Considered(charges, lacking, tuple(out)))

    def _explored(self, query: Arrived, attempt: Attempt, usual: Chosen) -> Chosen:
        """The choice that the policy makes, or another that was drawn.

        Only the first dispatch of a query explores, and only where the policy does not draw by itself.
        """
        config = self.pricing.config
        if not config.exploration_share or attempt is not FIRST or usual.reason == "observing":
            return usual
        drawn = draw(config, self.partition, query.offset, usual.i, self._able(query, attempt))
        if drawn.llm == usual.i:
            return usual._replace(probabilities=drawn.probabilities)
        reservation, considered = self._reservation(query, drawn.llm, attempt), Considered(usual.considered.charges)
        return Chosen(drawn.llm, reservation, "exploring", considered, drawn.probabilities)

    def _able(self, query: Arrived, attempt: Attempt) -> Sequence[int]:
        """The LLMs that could take the query, whatever their score."""
        excluded = self.pricing.excluded(query)
        candidates = [
            i for i, llm in enumerate(self.pricing.config.llms) if llm not in excluded and not self._is_out(i)
        ]
        return [i for i in candidates if not self.ledger.lacking(self._reservation(query, i, attempt))]

    def _is_out(self, i: int) -> bool:
        return self.breakers.is_out(self.pricing.config.llms[i], self.now_ms)

    def _reservation(self, query: Arrived, i: int, attempt: Attempt) -> Reservation:
        pricing = self.pricing
        return reservation_for(query, i, attempt, pricing.config, pricing.draws, self.partition, self.now_ms)
